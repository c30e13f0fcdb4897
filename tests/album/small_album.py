"""Small pictures with distinct colors, and the content of an album as plain values."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from beholder.album.album import Album
from beholder.tasks.dual_encoder import DualEncoder


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 32), exif: Image.Exif | None = None) -> Path:
    """Draw a picture of coarse random colors; the same seed yields the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    if exif is None:
        image.save(path)
    else:
        image.save(path, exif=exif)
    return path


def tiny_encoder() -> DualEncoder:
    import tiny_model

    return DualEncoder(tiny_model.build())


def content(album: Album) -> dict[str, object]:
    """Return everything an album holds, except internal row ids."""
    rows = album.store.query
    vectors = {}
    sql = """SELECT path, fingerprint, data FROM picture JOIN vector USING (content) JOIN model ON model.id = model"""
    for path, fingerprint, data in rows(sql):
        vectors[os.fsdecode(path), fingerprint] = np.frombuffer(data, np.float16).astype(np.float32)
    return {
        "files": rows(
            "SELECT path, picture.name, size, modified, sidecar, sha256 FROM picture "
            "JOIN content ON content.id = content ORDER BY path"
        ),
        "contents": rows("SELECT sha256, width, height, format, taken, camera FROM content ORDER BY sha256"),
        "captions": rows("SELECT sha256, source, text FROM caption JOIN content ON id = content ORDER BY 1, 2"),
        "tags": rows("SELECT sha256, source, text FROM tag JOIN content ON id = content ORDER BY 1, 2, 3"),
        "words": rows(
            "SELECT path, words.name, words.caption, words.tag FROM words JOIN picture ON picture.id = "
            "words.rowid ORDER BY path"
        ),
        "counts": rows("SELECT (SELECT count(*) FROM vector), (SELECT count(*) FROM words)"),
        "failed": rows("SELECT path, reason FROM failed ORDER BY path"),
        "vectors": vectors,
    }


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    """Assert equality; embeddings may differ by rounding due to different batch sizes."""
    for key in one.keys() - {"vectors"}:
        assert one[key] == other[key], key
    mine, theirs = one["vectors"], other["vectors"]
    assert mine.keys() == theirs.keys()  # type: ignore[attr-defined]
    for key, vector in mine.items():  # type: ignore[attr-defined]
        np.testing.assert_allclose(vector, theirs[key], atol=1e-3)  # type: ignore[index]
