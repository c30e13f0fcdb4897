"""A program that uses Beholder passes a strict type checker."""

import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = """
import numpy as np
from PIL import Image

from beholder import DualEncoder, PictureError, VisionLanguageModel


def embeddings(paths: list[str]) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for picture in DualEncoder.from_pretrained("mini").stream_images(paths):
        if picture.error is not None:
            continue
        found.append(picture.embedding)
    return found


def captions(paths: list[str]) -> tuple[list[str], list[PictureError]]:
    done: list[str] = []
    failed: list[PictureError] = []
    for picture in VisionLanguageModel.from_pretrained("mini").stream_captions(paths, num_beams=1):
        if picture.error is None:
            done.append(picture.caption)
        else:
            failed.append(picture.error)
    return done, failed


def one(image: Image.Image) -> str:
    return VisionLanguageModel.from_pretrained("mini").caption(image)


def several(images: list[Image.Image]) -> list[str]:
    return VisionLanguageModel.from_pretrained("mini").caption(images, "a photo of", num_beams=1)
"""


@pytest.mark.slow
def test_documented_loops_pass_a_strict_type_checker_and_unchecked_errors_do_not(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy checks the types")
    unchecked = CLIENT.replace("        if picture.error is not None:\n            continue\n", "")
    (tmp_path / "checked.py").write_text(CLIENT)
    (tmp_path / "unchecked.py").write_text(unchecked)
    order = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "checked.py", "unchecked.py"]
    run = subprocess.run(order, capture_output=True, text=True, cwd=tmp_path)
    found = run.stdout.splitlines()
    assert len(found) == 2 and found[0].startswith("unchecked.py") and "ndarray" in found[0], run.stdout
