import errno
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet
from small_shards import jpeg, shard, tar_of, write_shards

from beholder import DualEncoder, VisionLanguageModel
from beholder.scale import storage
from beholder.scale.embed import EmbedRun
from beholder.scale.parts import RunSettings, vectors_of
from beholder.scale.shard_embedder import EmbedOptions
from beholder.scale.shards import list_shards
from command import beholder


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts, sorted by key."""
    rows = [row for part in out.glob("part-*.parquet") for row in parquet.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: row["key"])


def embed(source: Path | str, out: Path | str, model: Path, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; return its exit code, its JSON lines and its messages."""
    run = beholder("scale", "embed", source, "--out", out, "--model", model, "--json", *options)
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def test_each_picture_of_each_shard_is_a_row_with_its_vector(tmp_path: Path, tiny_model: Path) -> None:
    code, lines, _ = embed(write_shards(tmp_path / "shards", 3, 5), tmp_path / "out", tiny_model)
    assert code == 0 and sorted(line["rows"] for line in lines) == [5, 5, 5]
    assert sorted(line["shards_left"] for line in lines) == [0, 1, 2]
    rows = rows_of(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"{s:03}-{place:03}" for s in range(3) for place in range(5)]
    images = [jpeg(s, place) for s in range(3) for place in range(5)]
    expected = DualEncoder.from_pretrained(tiny_model).embed_images(images)
    assert np.abs(np.array([row["vector"] for row in rows]) - expected).max() < 1e-3
    assert {(row["width"], row["height"], row["caption"][:14], row["error"]) for row in rows} == {
        (48, 40, "the dog number", None)
    }


def test_parts_say_what_they_were_made_from_and_two_runs_give_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    shards = write_shards(tmp_path / "shards", 2, 4)
    for out in ("one", "two"):
        assert embed(shards, tmp_path / out, tiny_model, "--score")[0] == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir()) and len(names) == 3
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    about = json.loads(parquet.read_schema(tmp_path / "one" / names[0]).metadata[b"beholder"])
    assert about["shard"] in {str(shards / "000.tar"), str(shards / "001.tar")}
    assert about["rows"] == 4 and about["version"] == f"size {(shards / '000.tar').stat().st_size}"


def test_the_same_command_goes_on_with_the_shards_that_have_no_part(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = write_shards(tmp_path / "shards", 3, 2), tmp_path / "out"
    assert embed(shards / "001.tar", out, tiny_model)[0] == 0
    assert len(embed(shards, out, tiny_model)[1]) == 2
    monkeypatch.chdir(tmp_path)
    assert embed("shards/*.tar", "out", tiny_model) == (0, [], "")  # the same shards by another name
    assert [row["key"] for row in rows_of(out)] == [f"{s:03}-{place:03}" for s in range(3) for place in range(2)]


def test_captions_are_scored_as_similarity_scores_them(tmp_path: Path, tiny_model: Path) -> None:
    embed(write_shards(tmp_path / "shards", 1, 3), tmp_path / "out", tiny_model, "--score")
    encoder = DualEncoder.from_pretrained(tiny_model)
    for row in rows_of(tmp_path / "out"):
        image, text = encoder.embed_images([jpeg(0, int(row["key"][4:]))]), encoder.embed_texts([row["caption"]])
        assert row["cosine"] == pytest.approx((image @ text.T).item(), abs=1e-5)
        assert row["match"] == pytest.approx(encoder.match(image, text).item(), abs=1e-5)


def test_pictures_in_a_table_are_bytes_or_addresses(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(jpeg(1))
    table = pa.table({"id": ["a", "b"], "image": [{"bytes": jpeg(0), "path": None}] * 2, "text": ["a dog", ""]})
    parquet.write_table(table, tmp_path / "bytes.parquet")
    addresses = [f"file://{tmp_path}/picture.jpg", "http://127.0.0.1/picture.jpg", "s3://bucket/x.jpg", None]
    parquet.write_table(pa.table({"where": addresses}), tmp_path / "addresses.parquet")
    assert embed(tmp_path / "bytes.parquet", tmp_path / "one", tiny_model)[0] == 0
    rows = rows_of(tmp_path / "one")
    assert [(row["key"], row["caption"], row["error"]) for row in rows] == [("a", "a dog", None), ("b", None, None)]
    options = ("--image-column", "where")
    _, [line], _ = embed(tmp_path / "addresses.parquet", tmp_path / "two", tiny_model, *options)
    first, *others = rows_of(tmp_path / "two")
    assert first["error"] is None and line["failed"] == 3
    assert ["--allow-urls" in others[0]["error"], "file system" in others[1]["error"]] == [True, True]
    assert [row["vector"] for row in others] == [None] * 3


def test_a_list_of_shards_names_them(tmp_path: Path, tiny_model: Path) -> None:
    shards = write_shards(tmp_path / "shards", 4, 1)
    listed = tmp_path / "list.txt"
    listed.write_text(f"# the first, and two more\n{shards}/000.tar\n\n{shards}/{{002..003}}.tar\n")
    assert len(embed(listed, tmp_path / "out", tiny_model)[1]) == 3
    assert [row["key"] for row in rows_of(tmp_path / "out")] == ["000-000", "002-000", "003-000"]


def test_a_thousand_broken_pictures_are_rows_with_their_errors(tmp_path: Path, tiny_model: Path) -> None:
    broken = [(f"{number:04}.jpg", jpeg(0)[: number % 300]) for number in range(1000)]
    (tmp_path / "broken.tar").write_bytes(tar_of([*broken, ("whole.jpg", jpeg(1)), ("without.txt", b"a dog")]))
    code, [line], _ = embed(tmp_path / "broken.tar", tmp_path / "out", tiny_model)
    assert (code, line["rows"], line["failed"]) == (0, 1002, 1001)
    rows = rows_of(tmp_path / "out")
    assert all((row["error"] is None) == (row["key"] == "whole") == (row["vector"] is not None) for row in rows)
    assert "has no picture" in rows[-1]["error"]


def test_shards_that_cannot_be_read_are_named_and_the_rest_done(tmp_path: Path, tiny_model: Path) -> None:
    shards, out = write_shards(tmp_path / "shards", 3, 4), tmp_path / "out"
    whole = (shards / "001.tar").read_bytes()
    (shards / "001.tar").write_bytes(whole[: len(whole) // 2])
    (shards / "003.tar").write_bytes(b"no tar file at all" * 100)
    parquet.write_table(pa.table({"other": [1]}), shards / "004.parquet")
    (shards / "005.parquet").write_bytes(b"PAR1 and then nothing")
    code, lines, _ = embed(shards, out, tiny_model)
    errors = {Path(line["shard"]).name: line["error"] for line in lines if line["error"]}
    assert code == 1 and sorted(errors) == ["001.tar", "003.tar", "004.parquet", "005.parquet"]
    assert "cut off" in errors["001.tar"] and "no column with pictures; its columns are other" in errors["004.parquet"]
    failed = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert {Path(row["shard"]).name: row["error"] for row in failed} == errors
    assert [row["key"][:3] for row in rows_of(out)] == ["000"] * 4 + ["002"] * 4
    (shards / "001.tar").write_bytes(whole)
    for name in ("003.tar", "004.parquet", "005.parquet"):
        (shards / name).unlink()
    assert embed(shards, out, tiny_model)[0] == 0
    assert len(rows_of(out)) == 12 and not (out / "failed.jsonl").exists()


def test_a_hopeless_run_ends_early(tmp_path: Path, tiny_model: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{tmp_path}/{number}.tar\n" for number in range(20)))
    code, lines, message = embed(listed, tmp_path / "out", tiny_model, "--max-failed", "3")
    assert (code, len(lines)) == (2, 4)
    assert "4 shards failed, more than --max-failed 3" in message and "there is no such shard" in message


class SilentFileSystem(MemoryFileSystem):
    """Answers what it is asked about files, but sends none of their bytes."""

    protocol = "silent"
    answering = threading.Event()

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": 10, "type": "file"}

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.answering.wait()
        return super()._open(path, *arguments, **options)


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_a_shard_of_which_nothing_arrives_is_given_up(tmp_path: Path, tiny_model: Path) -> None:
    fsspec.register_implementation("silent", SilentFileSystem, clobber=True)
    listed = tmp_path / "list.txt"
    listed.write_text(f"silent://slow.tar\n{write_shards(tmp_path / 'shards', 1, 1)}/000.tar\n")
    try:
        code, lines, _ = embed(listed, tmp_path / "out", tiny_model, "--timeout", "0.5")
    finally:
        SilentFileSystem.answering.set()
    assert code == 1 and [line["error"] for line in lines if line["error"]] == [
        "silent://slow.tar: can't be read: nothing arrived for 0.5 seconds"
    ]
    assert len(rows_of(tmp_path / "out")) == 1


def test_shards_and_parts_may_be_on_any_file_system(tiny_model: Path, memory: MemoryFileSystem) -> None:
    for number in range(2):
        memory.pipe_file(f"/in/{number:03}.tar", shard(number, 2))
    assert embed("memory://in/*.tar", "memory://out", tiny_model)[0] == 0
    parts = [path for path in memory.ls("/out", detail=False) if "part-" in path]
    keys = {key for path in parts for key in parquet.read_table(memory.open(path))["key"].to_pylist()}
    assert len(parts) == 2 and keys == {"000-000", "000-001", "001-000", "001-001"}
    assert embed("memory://in", "memory://out", tiny_model)[1] == []


def test_vectors_of_other_settings_need_another_folder(tmp_path: Path, tiny_model: Path) -> None:
    shards = write_shards(tmp_path / "shards", 1, 1)
    embed(shards, tmp_path / "out", tiny_model)
    code, lines, message = embed(shards, tmp_path / "out", tiny_model, "--score")
    assert code == 2 and not lines and "score False, not True" in message


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = write_shards(tmp_path / "shards", 3, 2), tmp_path / "out"
    write, written = storage.write_bytes, []

    def write_until_full(path: Path, content: bytes) -> None:
        if len(written) == 2:  # run.json and a part
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, content)

    with monkeypatch.context() as full:
        full.setattr(storage, "write_bytes", write_until_full)
        code, lines, message = embed(shards, out, tiny_model)
    assert code == 2 and len(lines) == 1 and "No space left on device" in message
    assert len(embed(shards, out, tiny_model)[1]) == 2
    assert len(rows_of(out)) == 6


def test_captions_are_written_for_the_pictures_that_can_be_used(
    tmp_path: Path, tiny_model: Path, vision_language_model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionLanguageModel, "from_pretrained", lambda *_, **__: vision_language_model)
    pictures = [jpeg(0, number) for number in range(18)]
    members = [(f"{number:02}.jpg", picture) for number, picture in enumerate([*pictures[:5], b"", *pictures[5:]])]
    (tmp_path / "shard.tar").write_bytes(tar_of(members))
    assert embed(tmp_path / "shard.tar", tmp_path / "out", tiny_model, "--caption")[0] == 0
    captions = [row["generated_caption"] for row in rows_of(tmp_path / "out")]
    assert captions.pop(5) is None
    assert captions == vision_language_model.caption(pictures) and len(set(captions)) > 1


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.tar", "none.txt", "unknown://x.tar"])
def test_a_source_without_shards_is_refused(tmp_path: Path, source: str, tiny_model: Path) -> None:
    place = source if "://" in source else tmp_path / source
    code, lines, message = embed(place, tmp_path / "out", tiny_model)
    assert code in (1, 2) and not [line for line in lines if not line["error"]]
    assert "unknown" in source or source.split("/")[0] in message


def test_a_column_of_vectors_is_read_as_it_was_stored(tmp_path: Path, tiny_model: Path) -> None:
    embed(write_shards(tmp_path / "shards", 1, 5), tmp_path / "out", tiny_model)
    [part] = (tmp_path / "out").glob("part-*.parquet")
    table = parquet.read_table(part)
    vectors = vectors_of(table.slice(1, 3)["vector"], 8)
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors, np.array(table["vector"].to_pylist()[1:4], np.float16))


def test_of_many_parts_the_listing_tells_what_is_left(tmp_path: Path, tiny_model: Path) -> None:
    encoder = DualEncoder.from_pretrained(tiny_model)
    settings = RunSettings(str(tiny_model), encoder.fingerprint, encoder.towers.embedding)
    shards = list_shards([f"{tmp_path}/shards/{{0000..2999}}.tar"])
    (tmp_path / "out").mkdir()
    for done in shards[:-3]:
        (tmp_path / "out" / settings.part(done)).touch()
    run = EmbedRun(shards, EmbedOptions(str(tmp_path / "out"), settings), encoder)
    assert sorted(run.todo) == shards[-3:]
    assert (run.progress.shards, run.progress.done_before, run.progress.left) == (3000, 2997, 3)
