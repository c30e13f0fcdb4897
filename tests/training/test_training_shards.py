import gzip
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from beholder.errors import InvalidSetting
from beholder.training.shards import ShardBatchSampler, is_shards, list_shards, read_shard
from tiny_pairs import write_shard

SIZES = (5, 1, 7, 4)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    for number, size in enumerate(SIZES):
        files = {}
        for sample in range(size):
            files[f"{number}-{sample}.jpg"] = b"picture"
            files[f"{number}-{sample}.txt"] = f"text {number}-{sample}".encode()
        write_shard(tmp_path / f"s-{number}.tar", files)
    return list_shards(str(tmp_path / "s-{0..3}.tar"))


def order(shards: list[str], rank: int = 0, ranks: int = 1, shuffle: int = 3, batch: int = 2) -> ShardBatchSampler:
    return ShardBatchSampler(shards, batch * ranks, 5, shuffle, lambda *_: None, rank, ranks)


def names(order: ShardBatchSampler, steps: int) -> list[str]:
    return [draw.example.name for draws, _ in islice(order.batches(), steps) for draw in draws]


@pytest.mark.parametrize("shuffle", [1, 3, 100])
def test_every_example_is_sampled_exactly_once_per_epoch(shards: list[str], shuffle: int) -> None:
    row = names(order(shards, shuffle=shuffle), 17)
    assert set(Counter(row[:17]).values()) == {1} == set(Counter(row[17:]).values())
    assert row[:17] != row[17:]


def test_no_shard_is_read_by_two_ranks_in_the_same_epoch(shards: list[str]) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    for rank in range(2):
        for draws, _ in islice(order(shards, rank, 2, batch=1).batches(), 60):
            seen.update((draw.seed[1], draw.example.name) for draw in draws)
    for epoch in range(4):  # those that both ranks have completed
        of_epoch = {name: times for (which, name), times in seen.items() if which == epoch}
        assert len(of_epoch) == 17 and set(of_epoch.values()) == {1}


@pytest.mark.parametrize("shuffle", [1, 3, 100])
def test_the_sampler_resumes_from_any_position(shards: list[str], shuffle: int) -> None:
    whole = list(islice(order(shards, shuffle=shuffle).batches(), 14))
    for step in range(13):
        behind = list(islice(order(shards, shuffle=shuffle).batches(whole[step][1]), 13 - step))
        assert behind == whole[step + 1 :]


def test_shards_are_read_from_an_fsspec_file_system(shards: list[str]) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for number, shard in enumerate(shards):
        memory.pipe(f"/data/s-{number}.tar", Path(shard).read_bytes())
    for pattern in ("memory://data/s-{0..3}.tar", "memory://data/s-*.tar"):
        there = list_shards(pattern)
        assert len(there) == 4
        assert len(set(names(order(there), 8))) == 16
    memory.rm("/data", recursive=True)


def test_incomplete_examples_and_truncated_shards_are_reported_by_name(tmp_path: Path) -> None:
    files = {"a.jpg": b"x", "b.txt": b"text", "c.jpg": b"x", "c.json": json.dumps({"caption": "said"}).encode()}
    write_shard(tmp_path / "s.tar", {**files, "d.png": b"x" * 20000, "d.txt": b"late"})
    refused: dict[str, str] = {}
    shard = str(tmp_path / "s.tar")
    found = list(read_shard(shard, refused.__setitem__))
    assert [each and each.texts for each in found] == [None, None, ("said",), ("late",)]
    assert refused == {f"{shard}/a": "has no text", f"{shard}/b": "has no picture"}
    Path(shard).write_bytes(Path(shard).read_bytes()[:9000])
    found = list(read_shard(shard, refused.__setitem__))
    assert [each and each.texts for each in found][:2] == [None, None] and "can't be read to its end" in refused[shard]


def test_a_url_without_shards_is_refused(tmp_path: Path) -> None:
    assert is_shards("s3://bucket/x-{000..100}.tar") and not is_shards("x.jsonl")
    with pytest.raises(InvalidSetting, match="no such shard"):
        list_shards(str(tmp_path / "s-{0..1}.tar"))
    with pytest.raises(InvalidSetting, match="no such shards"):
        list_shards(str(tmp_path / "*.tar"))
    with pytest.raises(InvalidSetting, match="can't be reached"):
        list_shards("nowhere://x.tar")


def test_too_few_shards_and_empty_ones_are_refused(tmp_path: Path, shards: list[str]) -> None:
    with pytest.raises(InvalidSetting, match="can't be distributed"):
        order(shards, 0, 5)
    write_shard(tmp_path / "empty.tar", {"a.jpg": b"x"})
    with pytest.raises(InvalidSetting, match="no picture with a text"):
        names(order([str(tmp_path / "empty.tar")]), 1)


@pytest.mark.parametrize("packed", [False, True])
def test_a_shard_truncated_anywhere_is_reported_by_its_name(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("s.tar.gz" if packed else "s.tar")
    write_shard(tmp_path / "whole.tar", {f"{n}.{kind}": b"x" * 700 for n in range(2) for kind in ("jpg", "txt")})
    whole = (tmp_path / "whole.tar").read_bytes()
    members = 4 * (512 + 1024)
    assert not any(whole[members:])
    for cut in (0, 100, 512, 600, 1300, 1536, 1537, 2 * 1536, 3 * 1536 + 200, members - 1, members):
        path.write_bytes(gzip.compress(whole[:cut]) if packed else whole[:cut])
        refused: dict[str, str] = {}
        list(read_shard(str(path), refused.__setitem__))
        assert str(path) in refused, cut
    path.write_bytes(gzip.compress(whole)[:-200] if packed else whole[:members] + b"garbage" * 100)
    list(read_shard(str(path), refused.__setitem__))
    assert "can't be read to its end" in refused[str(path)]
    path.write_bytes(gzip.compress(whole) if packed else whole)
    refused = {}
    assert len(list(read_shard(str(path), refused.__setitem__))) == 2 and not refused


def test_a_text_that_is_not_utf_8_is_reported_by_its_name(tmp_path: Path) -> None:
    shard = str(tmp_path / "s.tar")
    texts = {"a.txt": "Bär".encode("latin-1"), "b.txt": "\ufeffBär".encode(), "c.json": b'{"caption": "B\xe4r"}'}
    write_shard(
        Path(shard), {name: data for key in texts for name, data in ((f"{key[0]}.jpg", b"x"), (key, texts[key]))}
    )
    refused: dict[str, str] = {}
    found = list(read_shard(shard, refused.__setitem__))
    assert [each and each.texts for each in found] == [None, ("Bär",), None]
    assert refused == {f"{shard}/a": "its text is not UTF-8", f"{shard}/c": "its JSON is not UTF-8 text"}
