"""A conversation in JupyterLab, driven by a browser."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest

import beholder
import serving
from beholder import VisionLanguageModel

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Start a JupyterLab server with a notebook that opens the conversation widget."""
    serving.vision_language_model(tmp_path / "writer")
    serving.picture().save(tmp_path / "picture.png")
    code = "from beholder.notebook import chat\nchat('picture.png', 'writer', max_new_tokens=8)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, tmp_path / "talk.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    homes = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    order = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--IdentityProvider.token=abc"]
    order += ["--allow-root", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=None"]
    process = subprocess.Popen(
        order,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **homes, "PYTHONPATH": str(Path(beholder.__file__).parents[1])},
    )
    base = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urlopen(f"{base}/api/status?token=abc", timeout=2).close()
            break
        except OSError:
            time.sleep(0.2)
    yield f"{base}/lab/tree/talk.ipynb?token=abc"
    process.terminate()
    process.wait(60)


def test_a_question_typed_into_the_box_is_answered(lab: str, chromium: Any, tmp_path: Path) -> None:
    model = VisionLanguageModel.from_pretrained(tmp_path / "writer", device="cpu")
    expected = model.chat(tmp_path / "picture.png", max_new_tokens=8).ask("what is this ?")
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(90_000)
    page.goto(lab)
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    page.locator("[data-status=idle]").first.wait_for()
    page.keyboard.press("Shift+Enter")
    box = page.get_by_placeholder("Ask about the picture")
    box.fill("what is this ?")
    box.press("Enter")
    transcript = page.locator(".widget-html-content", has_text="what is this ?")
    transcript.filter(has_text=" ".join(expected.split())).wait_for()
    assert transcript.inner_text().startswith("what is this ?")
    page.screenshot(path=Path(os.environ.get("BEHOLDER_TEST_SCREENSHOTS", tmp_path)) / "lab.png")
    page.close()
