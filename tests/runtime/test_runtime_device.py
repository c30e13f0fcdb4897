import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.runtime.device import select_device


def test_the_wished_device_is_taken() -> None:
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_without_a_wish_the_fastest_that_is_there_is_taken(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device() == torch.device(expected)


@pytest.mark.parametrize("wish", ["abacus", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(wish: str) -> None:
    with pytest.raises(InvalidSetting, match=f"device '{wish}'.*device='cpu'"):
        select_device(wish)
