from collections.abc import Iterator

import pytest

import serving
from beholder import DualEncoder, VisionLanguageModel


@pytest.fixture(scope="session")
def server(encoder: DualEncoder, vision_language_model: VisionLanguageModel) -> Iterator[serving.Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}) as running:
        yield running
