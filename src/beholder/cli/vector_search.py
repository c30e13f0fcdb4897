"""``beholder search --vectors``: find pictures in an index of shards."""

from __future__ import annotations

from collections.abc import Sequence

from beholder.cli.output import print_json, printable
from beholder.cli.pictures import load_encoder


def search_vectors(
    address: str,
    queries: Sequence[str],
    image: Sequence[str],
    minus: Sequence[str],
    minus_image: Sequence[str],
    where: str,
    top: int,
    json: bool,
) -> None:
    """Print the pictures of an index that come closest to each query.

    Raises:
        InvalidSetting: there is no index, or its vectors are of another model than the one of this name.
        InvalidFilter: of ``where``.
        PictureError: an example can't be used.
    """
    import numpy as np

    from beholder.album.search import combine_queries
    from beholder.errors import InvalidSetting
    from beholder.scale.remote_index import fetch_index
    from beholder.scale.segments import ShardIndex

    index = ShardIndex(fetch_index(address))
    index.check_filter(where)
    settings = index.manifest.settings
    encoder = load_encoder(settings.model, precision=settings.precision)
    if encoder.fingerprint != settings.fingerprint:
        raise InvalidSetting(f"{address}: {settings.model} is no longer the model that made its vectors")
    examples = encoder.embed_images(image)
    subtracted = np.concatenate([encoder.embed_texts(minus), encoder.embed_images(minus_image)])
    for query in queries or [""]:
        words = encoder.embed_texts([query]) if query else examples[:0]
        hits = index.search(combine_queries(np.concatenate([words, examples]), subtracted), top, where)
        if not json and len(queries) > 1:
            print(f"{query}:")
        for hit in hits:
            row = {name: value for name, value in hit.row.items() if name != "sha256"}
            if json:
                print_json({"id": hit.id, "image": row["key"], "score": hit.cosine, "query": query} | row)
            else:
                caption = row["caption"] or row["generated_caption"] or ""
                print(printable(f"score {hit.cosine:+.3f}  {row['key']}  {row['shard']}  {caption}".rstrip()))
