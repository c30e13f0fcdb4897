"""What several folders of tests share."""

from pathlib import Path

import pytest

import tiny_vocabularies


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny vocabularies in the folders ``clip``, ``bert``, ``siglip`` and ``siglip2``; copy before you change one."""
    return tiny_vocabularies.write_all(tmp_path_factory.mktemp("vocabularies"))
