"""``python -m beholder``: the same as ``beholder``; what torchrun starts (``torchrun -m beholder train clip …``)."""

from beholder.cli.main import run

run()
