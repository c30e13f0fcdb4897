import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from beholder.runtime.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def use():
    for _ in range(10):
        whole = bytearray(50_000_000)
        whole[::4096] = bytes(len(whole[::4096]))

use()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""

UNUSED = """
from beholder.runtime.allocator import keep_freed_memory, keep_returning_unused_memory, return_unused_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert keep_freed_memory()
blocks = [bytearray(1_000_000) for _ in range(200)]
for block in blocks:
    block[::4096] = bytes(len(block[::4096]))
del blocks[::2], block  # gaps, which the end of the heap can't give back
before = resident()
assert return_unused_memory(2**30) >= 90_000_000 and resident() > before - 10_000_000  # below the limit
stop = keep_returning_unused_memory(2**20, 0.01)
while resident() > before - 90_000_000:
    pass
stop.set()
assert len(blocks) == 100
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_unused_memory_returns_to_the_system() -> None:
    subprocess.run([sys.executable, "-c", UNUSED], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_reused_without_page_faults() -> None:
    faults = {}
    for how in ("plain", "kept"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        faults[how] = int(run.stdout)
    assert faults["kept"] < faults["plain"] / 3
