"""The engine of one machine: shards one after the other in this process, decoded by threads."""

from collections.abc import Iterator, Sequence

from beholder.scale.shard_embedder import EmbedOptions, ShardEmbedder, ShardResult
from beholder.tasks.dual_encoder import DualEncoder


def run_local(options: EmbedOptions, shards: Sequence[str], encoder: DualEncoder) -> Iterator[ShardResult]:
    """Yield the outcome of each shard.

    Raises:
        WriteFailed: a part can't be written.
    """
    embedder = ShardEmbedder(options, encoder)
    for shard in shards:
        yield embedder.embed(shard)
