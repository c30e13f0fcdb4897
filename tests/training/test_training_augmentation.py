import numpy as np
import pytest
from PIL import Image, ImageOps

from beholder.errors import InvalidSetting
from beholder.training.augmentation import Augmentation, augment, random_color_jitter, random_crop, random_flip


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (1, 1), (3, 500)])
def test_a_crop_has_at_least_the_minimum_area_and_stays_within_the_picture(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    whole = picture(*size)
    for _ in range(50):
        part = random_crop(whole, generator, 0.3)
        if part is whole:
            continue  # no crop with a suitable aspect ratio was found
        assert part.width * part.height >= 0.3 * whole.width * whole.height - max(part.size) - 1
        assert part.width <= whole.width and part.height <= whole.height
    assert random_crop(whole, generator, 0.3).width >= 1


def test_a_flip_is_applied_with_the_given_probability() -> None:
    generator = np.random.default_rng(0)
    whole = picture()
    mirrored = sum(random_flip(whole, generator, 0.3) is not whole for _ in range(300))
    assert 60 < mirrored < 120
    assert random_flip(whole, generator, 1.0).tobytes() == ImageOps.mirror(whole).tobytes()


def test_color_jitter_stays_within_its_strength() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    for seed in range(20):
        moved = np.asarray(random_color_jitter(grey, np.random.default_rng(seed), 0.2), np.float64)
        assert moved.min() >= 75 and moved.max() <= 125
    assert random_color_jitter(picture(), np.random.default_rng(0), 0.5).tobytes() != picture().tobytes()


def test_augmentation_depends_on_the_generator_alone() -> None:
    settings = Augmentation(smallest_crop=0.4, flip=0.5, color_jitter=0.3)
    first, second, other = (augment(picture(), settings, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.size == second.size and first.tobytes() == second.tobytes()
    assert (first.size, first.tobytes()) != (other.size, other.tobytes())


def test_default_settings_change_nothing() -> None:
    whole = picture()
    assert augment(whole, Augmentation(), np.random.default_rng(0)) is whole


@pytest.mark.parametrize(
    "values", [{"smallest_crop": 0.0}, {"smallest_crop": 1.5}, {"flip": -1.0}, {"color_jitter": 1.0}]
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting):
        Augmentation(**values)
