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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_reused_without_page_faults() -> None:
    faults = {}
    for how in ("plain", "kept"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        faults[how] = int(run.stdout)
    assert faults["kept"] < faults["plain"] / 3
