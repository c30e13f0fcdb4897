"""Albums for a server: one of real small pictures, and one of many cheaply created rows."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from beholder import Album, DualEncoder

MARKUP = "<img src=x onerror=alert(1)>"


def photographs(folder: Path, encoder: DualEncoder, count: int = 24) -> Path:
    """Create an album of 8 or more pictures, each in two sizes, with years, cameras, captions, and markup in names."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    random = np.random.default_rng(7)
    for number in range(count // 2):
        coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0132] = f"{2020 + number % 4}:0{1 + number % 9}:01 10:00:00"
        exif[0x010F] = ("Canon", "Nikon", "Leica")[number % 3]
        image.save(photos / f"picture {number:02}.jpg", exif=exif, quality=95)
        image.resize((120, 90)).save(photos / f"smaller {number:02}.png")
    (photos / "picture 00.jpg").rename(photos / f"{MARKUP}.jpg")
    with Album.open(folder / "holiday") as album:
        album.index(photos, model=encoder)
        known = album.get_pictures(album.contents())
        named = {Path(picture.path).name: picture for picture in known.values()}
        album.describe(named["picture 01.jpg"], caption="a red boat by the sea", tags=["sea", "boat"])
        album.describe(named["picture 02.jpg"], caption=MARKUP, tags=["<b>bold</b>"])
        album.describe(named["picture 03.jpg"], caption="a dog on the beach", tags=["sea"])
    return folder / "holiday"


def large(folder: Path, encoder: DualEncoder, count: int) -> Path:
    """Create an album of ``count`` rows that share a few files, each under many paths."""
    album_folder = photographs(folder, encoder)
    with Album.open(album_folder) as album:
        model = album.models()[0].id
        names = sorted(os.fsencode(path.name) for path in (folder / "photos").iterdir())
        vectors = np.random.default_rng(1).normal(size=(count - len(album), encoder.towers.embedding))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        (folder / "many").mkdir()
        execute = album.store.connection.execute
        with album.store.transaction():
            for number, vector in enumerate(vectors.astype(np.float16)):
                place, row = divmod(number, len(names))
                link = folder / "many" / f"{place:05}"
                if row == 0:
                    link.symlink_to(folder / "photos")
                execute(
                    "INSERT INTO content (sha256, width, height, format, taken) VALUES (?, 160, 120, 'JPEG', ?)",
                    (number.to_bytes(32, "big"), f"20{number % 24:02}-05-01T10:00:00"),
                )
                content = album.store.connection.last_insert_rowid()
                execute(
                    "INSERT INTO picture (path, name, size, modified, sidecar, content) VALUES (?, ?, 1000, 1, 0, ?)",
                    (os.fsencode(link) + b"/" + names[row], f"many/{number:06}.jpg", content),
                )
                execute(
                    "INSERT INTO vector (model, content, data) VALUES (?, ?, ?)", (model, content, vector.tobytes())
                )
    return album_folder
