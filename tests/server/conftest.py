from collections.abc import Iterator

import pytest

import serving
from beholder import DualEncoder, VisionLanguageModel


@pytest.fixture(scope="session")
def server(encoder: DualEncoder, writer: VisionLanguageModel) -> Iterator[serving.Running]:
    with serving.running({"tiny": encoder}, {"tiny": writer}) as running:
        yield running
