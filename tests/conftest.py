"""Fixtures shared by several test folders."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

import tiny_vocabularies

# A run says the same each time; with a number of examples, those of the generated requests are new each time.
hypothesis.settings.register_profile("repeatable", derandomize="BEHOLDER_TEST_EXAMPLES" not in os.environ)
hypothesis.settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only get in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from beholder import DualEncoder, VisionLanguageModel

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, so that at the end no worker is left alone with one of them."""
    items.sort(key=lambda item: item.path.name != "test_examples_run.py")


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny vocabularies in the folders ``clip``, ``bert``, ``siglip`` and ``siglip2``; copy one before changing it."""
    return tiny_vocabularies.write_all(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random dual encoder in Beholder's format."""
    import tiny_model
    from beholder.weights.native import save_dual_encoder

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_dual_encoder(tiny_model.build(), folder)
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Four pictures in a separate folder, sorted by name."""
    import tiny_model

    (tmp_path / "photographs").mkdir()
    return tiny_model.paint(tmp_path / "photographs")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A real browser; skips if none is installed."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def encoder() -> "DualEncoder":
    """A small random dual encoder for servers; no test changes it."""
    import serving

    return serving.encoder()


@pytest.fixture(scope="session")
def vision_language_model(tmp_path_factory: pytest.TempPathFactory) -> "VisionLanguageModel":
    """A small random vision-language model for servers; no test changes it."""
    import serving

    return serving.vision_language_model(tmp_path_factory.mktemp("vlm"))
