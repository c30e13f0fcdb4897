import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.runtime import device as devices
from beholder.runtime.device import bfloat16_is_faster, select_device


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


@pytest.mark.parametrize(("times", "faster"), [((3.0, 1.0), True), ((1.0, 20.0), False)])
def test_a_disturbed_measurement_does_not_decide_about_bfloat16(
    times: tuple[float, float], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first products of each kind take long, and so does one of float32 in the middle."""
    seconds = [time for _ in range(devices.ROUNDS) for time in times]
    seconds[:4] = [50.0, 900.0, 700.0, 90.0]
    seconds[8] = 800.0
    clock = [0.0]
    for each in seconds:
        clock += [clock[-1], clock[-1] + each]
    monkeypatch.setattr(devices.time, "perf_counter", iter(clock[1:]).__next__)
    assert bfloat16_is_faster.__wrapped__(torch.device("cpu")) == faster
