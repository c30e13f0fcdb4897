"""Run the command line in this process, so that its start-up cost is paid once for all tests."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from beholder.cli.main import run


def beholder(*arguments: str | Path, stdin: str = "", text: bool = True) -> subprocess.CompletedProcess:
    """Run ``beholder`` with these arguments and return its output and exit code.

    Args:
        arguments: The arguments of the command.
        stdin: The standard input.
        text: Whether to return the output as text instead of bytes.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    order = ["beholder", *map(str, arguments)]
    code = 0
    patched = patch.multiple(sys, argv=order, stdin=io.StringIO(stdin))
    with patched, redirect_stdout(out), redirect_stderr(err):
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
    written, errors = (stream.buffer.getvalue() for stream in (out, err))
    if text:
        return subprocess.CompletedProcess(order, code, written.decode(), errors.decode())
    return subprocess.CompletedProcess(order, code, written, errors)
