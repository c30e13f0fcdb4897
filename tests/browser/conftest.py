"""Servers for the browser."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albums_to_serve
import pytest
from browsing import opened

import serving
from beholder import DualEncoder, VisionLanguageModel


@pytest.fixture(scope="session")
def site(encoder: DualEncoder, vision_language_model: VisionLanguageModel) -> Iterator[serving.Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}) as running:
        yield running


@pytest.fixture(scope="session")
def album_site(
    encoder: DualEncoder, vision_language_model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[serving.Running]:
    """A server with an album that no test changes."""
    album = albums_to_serve.photographs(tmp_path_factory.mktemp("album"), encoder)
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}, [album]) as running:
        yield running


@pytest.fixture
def own_album(encoder: DualEncoder, tmp_path: Path) -> Path:
    """An album that one test may change."""
    return albums_to_serve.photographs(tmp_path, encoder, 8)


@pytest.fixture
def own_site(
    encoder: DualEncoder, vision_language_model: VisionLanguageModel, own_album: Path
) -> Iterator[serving.Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}, [own_album]) as running:
        yield running


@pytest.fixture(scope="session")
def large_site(encoder: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    """A server with an album of 100,000 pictures."""
    album = albums_to_serve.large(tmp_path_factory.mktemp("large"), encoder, 100_000)
    with serving.running({"tiny": encoder}, {}, [album]) as running:
        yield running


@pytest.fixture
def page(chromium: Any, site: serving.Running) -> Iterator[Any]:
    """A page without the content security policy, which would block the tests' own scripts."""
    with opened(chromium, site, bypass_csp=True) as page:
        yield page


@pytest.fixture
def strict(chromium: Any, site: serving.Running) -> Iterator[Any]:
    """A page under the content security policy of production."""
    with opened(chromium, site) as page:
        yield page


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """The folder for screenshots: temporary, or the value of BEHOLDER_TEST_SCREENSHOTS."""
    folder = Path(os.environ.get("BEHOLDER_TEST_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
