"""Shards of small pictures, made here."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(*seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """Return a JPEG of random colors, always the same for the same numbers."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def tar_of(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a tar file with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def shard(number: int, pictures: int) -> bytes:
    """Return a tar file of pictures with captions; their keys are unique over all shards."""
    members = []
    for place in range(pictures):
        key = f"{number:03}-{place:03}"
        members += [(f"{key}.jpg", jpeg(number, place)), (f"{key}.txt", f"the dog number {place}".encode())]
    return tar_of(members)


def write_shards(folder: Path, shards: int, pictures: int) -> Path:
    """Write tar files into a new folder."""
    folder.mkdir()
    for number in range(shards):
        (folder / f"{number:03}.tar").write_bytes(shard(number, pictures))
    return folder
