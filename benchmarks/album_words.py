"""Search by words in an album of 50,000 captioned pictures, with the text index of today and with that of before.

    python benchmarks/album_words.py [--pictures 50000]

Captions are sentences of English words and Chinese characters drawn by their rank, as in natural text. `before` is the
same album with FTS5's own tokenizer on the captions as they are, which finds no word inside unspaced text. Both answer
the same queries, in turn; the sentence is embedded beforehand, so that `search` is all else of `Album.search`, and
`words` the full-text part alone. Milliseconds are median, 10th and 90th percentile; `hits` are the files that contain
the words.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from beholder.album.album import Album
from beholder.album.filters import MATCH_ALL
from beholder.album.fulltext import match_expression, words_of
from beholder.album.search import Query, search
from beholder.album.store.descriptions import match_text, update_text_index
from beholder.album.store.models import IndexedModel, add_model

DIMENSIONS, ROUNDS = 512, 40
ENGLISH = [
    f"{a}{b}{c}" for a in "bdfglmnprstv" for b in ("a", "e", "i", "o", "ou") for c in ("l", "n", "rt", "st", "ck")
]
CHINESE = [chr(0x4E00 + number) for number in range(3000)]
QUERIES = {
    "a common English word": ENGLISH[3],
    "two English words": f"{ENGLISH[10]} {ENGLISH[40]}",
    "a rare English word": ENGLISH[-2],  # the last stands for all ranks beyond
    "a Chinese word of two characters": CHINESE[4] + CHINESE[9],
    "a common Chinese character": CHINESE[0],
    "a sentence": " ".join(ENGLISH[20:26]),
}


def captions(count: int) -> list[str]:
    random = np.random.default_rng(0)
    made = []
    for letters, joint in ((ENGLISH, " "), (CHINESE, "")):
        ranks = np.minimum(random.zipf(1.3, (count, 12)) - 1, len(letters) - 1)
        made.append([joint.join(letters[rank] for rank in row) for row in ranks])
    return [f"{english}. {chinese}" for english, chinese in zip(*made, strict=True)]


def build(folder: Path, texts: list[str]) -> tuple[Album, IndexedModel]:
    album = Album.open(folder)
    model = add_model(album.store, "benchmark", "benchmark", DIMENSIONS, None, None)
    vectors = np.random.default_rng(1).normal(size=(len(texts), DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    execute = album.store.connection.execute
    with album.store.transaction():
        for number, (text, vector) in enumerate(zip(texts, vectors.astype(np.float16), strict=True), start=1):
            sql = "INSERT INTO content (id, sha256, width, height, format) VALUES (?, ?, 400, 300, 'JPEG')"
            execute(sql, (number, number.to_bytes(32, "big")))
            sql = "INSERT INTO picture (id, path, name, size, modified, sidecar, content) VALUES (?, ?, ?, 1, 1, 0, ?)"
            execute(sql, (number, f"/p/{number:06}.jpg".encode(), f"p/{number:06}.jpg", number))
            execute("INSERT INTO caption (content, source, text) VALUES (?, 'file', ?)", (number, text))
            execute("INSERT INTO vector (model, content, data) VALUES (?, ?, ?)", (model.id, number, vector.tobytes()))
        update_text_index(album.store, "1", ())
    return album, model


def as_before(album: Album) -> None:
    with album.store.transaction():
        execute = album.store.connection.execute
        execute("DELETE FROM words")
        execute(
            "INSERT INTO words (rowid, name, caption, tag, text) SELECT picture.id, name, caption.text, '', '' "
            "FROM picture JOIN caption ON caption.content = picture.content"
        )


def milliseconds(function: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return [round(float(each), 2) for each in np.percentile(times, [50, 10, 90])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50_000)
    count = parser.parse_args().pictures
    texts = captions(count)
    vector = np.random.default_rng(2).normal(size=DIMENSIONS).astype(np.float32)
    vector /= np.linalg.norm(vector)
    with tempfile.TemporaryDirectory() as scratch:
        sides = {"today": build(Path(scratch) / "today", texts), "before": build(Path(scratch) / "before", texts)}
        as_before(sides["before"][0])
        for name, words in QUERIES.items():
            row: dict[str, object] = {"query": name}
            for side, (album, model) in sides.items():
                index = album._index(model)
                index.refresh()
                terms = words_of(words)
                expression = match_expression(terms) if side == "today" else " ".join(f'"{term}"' for term in terms)
                hits = len(match_text(album.store, expression, count, *(MATCH_ALL.sql, MATCH_ALL.bound)))

                def only_words(album: Album = album, expression: str = expression) -> object:
                    return match_text(album.store, expression, 200, MATCH_ALL.sql, MATCH_ALL.bound)

                def whole(album: Album = album, words: str = words, index=index) -> object:  # type: ignore[no-untyped-def]
                    return search(album.store, index, Query(vector, words), 10)

                row[side] = {"hits": hits, "words": milliseconds(only_words), "search": milliseconds(whole)}
            print(json.dumps(row))
        for album, _ in sides.values():
            album.close()


if __name__ == "__main__":
    main()
