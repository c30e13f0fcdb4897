"""What several folders of tests share."""

from pathlib import Path

import pytest

import tiny_vocabularies


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny vocabularies in the folders ``clip``, ``bert``, ``siglip`` and ``siglip2``; copy before you change one."""
    return tiny_vocabularies.write_all(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random dual encoder in our own format."""
    import tiny_model
    from beholder.weights.ours import save_dual_encoder

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_dual_encoder(tiny_model.build(), folder)
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Four pictures in a folder of their own, sorted by name."""
    import tiny_model

    (tmp_path / "photographs").mkdir()
    return tiny_model.paint(tmp_path / "photographs")
