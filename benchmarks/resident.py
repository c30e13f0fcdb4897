"""Peak resident memory of a process."""

from pathlib import Path


def most_resident() -> int:
    """Return the bytes of this process, on Linux. `getrusage` would include the peak of the process that started it."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no peak")
