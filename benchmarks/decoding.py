"""Time saved by decoding JPEGs at reduced scale, and the resulting difference in the network's input.

    python benchmarks/decoding.py [FOLDER]

Uses the JPEGs of a folder, or three generated pictures of 12 megapixels: noise with the spectrum of photographs
(amplitude falling with frequency) under sharp edges. Full and reduced decoding run in turn. Differences are in steps
of 1/255, between the outputs of ``to_pixels``. ``again`` is the difference caused by saving the picture once more as
a JPEG of quality 90, as a yardstick.
"""

import statistics
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from beholder.pictures.read import REDUCTION_MARGIN, read_picture
from beholder.pictures.transform import Preprocessing, to_pixels

SIDES = (224, 384, 512)
MARGINS = (1.0, 1.5, 2.0, 3.0, 4.0)
ROUNDS = 7


def made_picture(seed: int, width: int = 4000, height: int = 3000) -> bytes:
    """Return a JPEG of quality 90 with detail at every scale."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / max(width, height))
    channels = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
        noise = np.fft.irfft2(amplitude * phase, s=(height, width))
        channels.append(128 + 45 * (noise - noise.mean()) / noise.std())
    picture = np.stack(channels, axis=-1)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    for _ in range(40):  # objects: disks and the edges of half-planes, thin and thick
        centre_x, centre_y, radius = rng.random(3) * (width, height, 400)
        ring = np.abs(np.hypot(x - centre_x, y - centre_y) - radius) < rng.choice((2, 8, 40, 400))
        picture[ring] = picture[ring] * 0.4 + rng.random(3) * 150
    file = BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    steps = np.abs(found - expected) * 255
    return f"{steps.mean():5.2f} {np.percentile(steps, 99):5.1f} {steps.max():5.1f}"


def compare_times(files: list[bytes]) -> None:
    print("time: file to pixels, full and reduced\nside  full ms  reduced ms  full/reduced (lowest to highest)")
    for side in SIDES:
        preprocessing = Preprocessing(side, side, resize=side)
        full, reduced, ratios = [], [], []
        for data in files:
            for _ in range(ROUNDS):
                slow = seconds(lambda: to_pixels(read_picture(data), preprocessing))  # noqa: B023
                fast = seconds(lambda: to_pixels(read_picture(data, reduce_to=side), preprocessing))  # noqa: B023
                full.append(slow * 1000)
                reduced.append(fast * 1000)
                ratios.append(slow / fast)
        print(
            f"{side:4}  {statistics.median(full):7.1f}  {statistics.median(reduced):10.1f}  "
            f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def compare_pixels(files: list[bytes]) -> None:
    print(f"\npixels: mean, 99th percentile, greatest difference; the margin in use is {REDUCTION_MARGIN}")
    print("margin  scale  side   reduced            again")
    for margin in MARGINS:
        for scale in (2, 4, 8):
            reduced_pixels, full_pixels, again_pixels = [], [], []
            for data in files:
                picture = read_picture(data)
                side = int(min(picture.size) / scale / margin)
                preprocessing = Preprocessing(side, side, resize=side)
                reduced = Image.open(BytesIO(data))
                reduced.draft(None, (picture.width // scale, picture.height // scale))
                again = BytesIO()
                picture.save(again, "JPEG", quality=90)
                full_pixels.append(to_pixels(picture, preprocessing).ravel())
                reduced_pixels.append(to_pixels(reduced.convert("RGB"), preprocessing).ravel())
                again_pixels.append(to_pixels(read_picture(again.getvalue()), preprocessing).ravel())
            expected = np.concatenate(full_pixels)
            changed, yardstick = np.concatenate(reduced_pixels), np.concatenate(again_pixels)
            print(
                f"{margin:6}  1/{scale}  {side:5}   {difference(changed, expected)}  {difference(yardstick, expected)}"
            )


def main(folder: str | None = None) -> None:
    if folder is None:
        files = [made_picture(seed) for seed in range(3)]
    else:
        paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]
        files = [path.read_bytes() for path in paths]
    shapes = ", ".join(sorted({"x".join(map(str, Image.open(BytesIO(data)).size)) for data in files}))
    print(f"{len(files)} JPEGs: {shapes}, {statistics.mean(map(len, files)) / 1e6:.1f} MB on average\n")
    compare_times(files)
    compare_pixels(files)


if __name__ == "__main__":
    main(*sys.argv[1:])
