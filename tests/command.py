"""Run the command line without the cost of its start-up: in this process, or in one forked where all is imported."""

import io
import multiprocessing
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
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


def beholder_in_its_own_process(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Run ``beholder`` with these arguments in a process of its own, and return its output and exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["beholder.cli.main", "torch", "transformers"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, Path.cwd(), dict(os.environ), arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode or 1, "", "it ended without a result")


def _send_result(
    sender: Connection, folder: str, environment: dict[str, str], arguments: tuple[str | Path, ...]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sender.send(beholder(*arguments))
