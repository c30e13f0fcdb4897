"""The command line in this process: what a command takes to start, it then takes once for all tests."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from beholder.cli.main import run


def beholder(*arguments: str | Path, said: str = "", text: bool = True) -> subprocess.CompletedProcess:
    """What ``beholder`` with these arguments writes and how it ends.

    Args:
        arguments: of the command.
        said: what a person types.
        text: whether the output is given as text, or as bytes.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    order = ["beholder", *map(str, arguments)]
    code = 0
    typed = patch.multiple(sys, argv=order, stdin=io.StringIO(said))
    with typed, redirect_stdout(out), redirect_stderr(err):
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
    written, told = (stream.buffer.getvalue() for stream in (out, err))
    if text:
        return subprocess.CompletedProcess(order, code, written.decode(), told.decode())
    return subprocess.CompletedProcess(order, code, written, told)
