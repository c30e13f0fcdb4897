"""Randomly damaged pictures, read in a separate process with capped memory (see mutations.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 2026


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory can't be capped here")
def test_ten_thousand_damaged_pictures_decode_or_raise_a_picture_error():
    script = Path(__file__).parent / "mutations.py"
    done = subprocess.run(
        [sys.executable, script, "10000", str(SEED)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"seed {SEED}, exit {done.returncode}:\n{done.stderr[-3000:]}"
    report = json.loads(done.stdout)
    outcomes = report["outcomes"]
    assert sum(outcomes.values()) == 10_000
    assert set(outcomes) <= {"read", "PictureBroken", "NotAPicture", "PictureTooLarge", "PictureRefused"}
    # If damage were always or never detected, this would test nothing.
    assert min(outcomes["read"], outcomes["PictureBroken"]) > 500
    assert report["peak MiB"] < 400
