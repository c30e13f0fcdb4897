import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.runtime.device import select_device


def test_the_requested_device_is_selected() -> None:
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_available_device_is_the_default(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device() == torch.device(expected)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", ""])
def test_an_unavailable_device_is_reported_by_name(device: str) -> None:
    with pytest.raises(InvalidSetting, match=f"device '{device}'.*device='cpu'"):
        select_device(device)
