"""Fuzz the picture reader: read randomly damaged pictures; anything but a picture or a PictureError ends the run.

    python tests/pictures/mutations.py COUNT [SEED [FIRST]]

Memory is capped, and a picture that takes longer than ten seconds ends the run with a stack trace. Each
mutation depends only on the seed and its number, so ``COUNT=1 FIRST=n`` repeats the n-th. Prints one JSON object.
"""

import faulthandler
import json
import random
import resource
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from awkward import color_profile, encoded, png_chunk, swapped_profile, turned_with_note
from PIL import Image

from beholder.errors import PictureError
from beholder.pictures.limits import Limits
from beholder.pictures.read import read_picture

MEMORY_CAP = 2 * 1024**3  # of address space, including libraries and thread stacks
SECONDS_EACH = 60
LIMITS = Limits(megapixels=4)
INTERESTING = [0, 1, 0x7F, 0x80, 0xFE, 0xFF]


def _good_files() -> list[bytes]:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((40, 30))
    see_through = smooth.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(smooth.size))
    frames = {"save_all": True, "append_images": [smooth.rotate(90)], "duration": 50}
    profile = swapped_profile()
    return [
        encoded(smooth, "JPEG", icc_profile=profile),
        turned_with_note("JPEG", 6),
        encoded(smooth, "JPEG", progressive=True),
        encoded(smooth.convert("CMYK"), "JPEG"),
        encoded(smooth.convert("L"), "JPEG", icc_profile=color_profile(b"GRAY", {})),
        encoded(see_through, "PNG", icc_profile=profile),
        encoded(smooth.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        encoded(smooth.convert("I;16"), "PNG"),
        encoded(smooth, "PNG", **frames),
        encoded(smooth, "GIF", **frames),
        encoded(smooth, "BMP"),
        encoded(smooth.quantize(4), "BMP"),
        encoded(smooth, "TIFF"),
        encoded(smooth, "TIFF", compression="tiff_lzw", icc_profile=profile),
        encoded(smooth, "TIFF", compression="jpeg"),
        encoded(smooth.convert("1"), "TIFF", compression="group4"),
        encoded(smooth.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
        turned_with_note("TIFF", 6),
        encoded(smooth, "WEBP"),
        encoded(see_through, "WEBP", lossless=True, icc_profile=profile),
        encoded(smooth, "WEBP", **frames),
        turned_with_note("WEBP", 5),
        encoded(see_through, "AVIF"),
        turned_with_note("AVIF", 7),
        encoded(smooth, "AVIF", **frames),
        encoded(smooth, "JPEG2000"),
        encoded(see_through, "JPEG2000"),
        encoded(smooth, "HEIF"),
        turned_with_note("HEIF", 8),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Apply one to eight changes: flip bits, replace bytes, delete, duplicate or insert runs, or truncate."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        # Half of the changes affect the first bytes, where the headers are.
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 128)
        place = rng.randrange(end) if end else 0
        length = rng.choice((1, 2, 4, 16, 64))
        match rng.randrange(7):
            case 0 if changed:
                changed[place] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[place] = rng.choice(INTERESTING)
            case 2:
                changed[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)))
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = rng.randbytes(length)
            case 5:
                changed[place:place] = changed[place : place + length]
            case _:
                if rng.random() < 0.3:
                    del changed[place:]
                else:
                    changed[place : place + 2] = rng.randbytes(2)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:  # otherwise the checksums reject everything before decoding
        return with_checksums(bytes(changed))
    return bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """Recompute the checksums of all chunks of a PNG that can still be parsed."""
    repaired, place = data[:8], 8
    while place + 12 <= len(data):
        length = min(int.from_bytes(data[place : place + 4], "big"), len(data) - place - 12)
        repaired += png_chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length])
        place += 12 + length
    return repaired + data[place:]


def peak_megabytes() -> int:
    """Return the peak memory of this process; getrusage would include the parent's memory before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(count: int, seed: int = 0, first: int = 0) -> None:
    files = _good_files()
    for file in files:
        read_picture(file, limits=LIMITS)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_CAP, MEMORY_CAP))
    outcomes: Counter[str] = Counter()
    for number in range(first, first + count):
        rng = random.Random(f"{seed} {number}")
        data = mutated(rng.choice(files), rng)
        faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
        try:
            picture = read_picture(data, limits=LIMITS, reduce_to=rng.choice((None, 8)))
            outcomes["read" if picture.mode == "RGB" else f"mode {picture.mode}"] += 1
        except PictureError as error:
            outcomes[type(error).__name__] += 1
        except BaseException:
            print(f"seed {seed}, mutation {number}: {data[:64]!r}", file=sys.stderr)
            raise
    faulthandler.cancel_dump_traceback_later()
    peak = peak_megabytes()
    print(json.dumps({"outcomes": outcomes, "peak MiB": peak}))


if __name__ == "__main__":
    faulthandler.enable()
    main(*map(int, sys.argv[1:]))
