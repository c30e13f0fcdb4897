import numpy as np
import pytest
from PIL import Image, ImageOps

from beholder.errors import InvalidSetting
from beholder.training.augmentation import Augmentation, augment, random_colour, random_crop, random_flip


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (1, 1), (3, 500)])
def test_a_crop_is_a_part_of_the_picture_of_the_asked_size_and_shape(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    whole = picture(*size)
    for _ in range(50):
        part = random_crop(whole, generator, 0.3)
        if part is whole:
            continue  # no part of a suitable shape was found
        assert part.width * part.height >= 0.3 * whole.width * whole.height - max(part.size) - 1
        assert part.width <= whole.width and part.height <= whole.height
    assert random_crop(whole, generator, 0.3).width >= 1


def test_a_flip_mirrors_in_its_share_of_cases() -> None:
    generator = np.random.default_rng(0)
    whole = picture()
    mirrored = sum(random_flip(whole, generator, 0.3) is not whole for _ in range(300))
    assert 60 < mirrored < 120
    assert random_flip(whole, generator, 1.0).tobytes() == ImageOps.mirror(whole).tobytes()


def test_colours_move_and_stay_near() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    for seed in range(20):
        moved = np.asarray(random_colour(grey, np.random.default_rng(seed), 0.2), np.float64)
        assert moved.min() >= 75 and moved.max() <= 125
    assert random_colour(picture(), np.random.default_rng(0), 0.5).tobytes() != picture().tobytes()


def test_the_generator_alone_decides() -> None:
    settings = Augmentation(smallest_crop=0.4, flip=0.5, colour=0.3)
    first, second, other = (augment(picture(), settings, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.size == second.size and first.tobytes() == second.tobytes()
    assert (first.size, first.tobytes()) != (other.size, other.tobytes())


def test_without_settings_nothing_is_changed() -> None:
    whole = picture()
    assert augment(whole, Augmentation(), np.random.default_rng(0)) is whole


@pytest.mark.parametrize("values", [{"smallest_crop": 0.0}, {"smallest_crop": 1.5}, {"flip": -1.0}, {"colour": 1.0}])
def test_impossible_amounts_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting):
        Augmentation(**values)
