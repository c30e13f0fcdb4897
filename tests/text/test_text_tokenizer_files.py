import gzip
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from beholder.errors import ModelError
from beholder.text.tokenizer_files import TokenizerKind, tokenizer_from_folder
from tiny_vocabularies import CORPUS

KINDS: list[TokenizerKind] = ["clip", "open_clip", "siglip", "siglip2", "bert"]


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, dirs_exist_ok=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_is_an_error_that_names_the_expected_files(tmp_path: Path, kind: TokenizerKind) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer \(looked for tokenizer\.json") as caught:
        tokenizer_from_folder(tmp_path, kind, 77)
    assert str(tmp_path) in str(caught.value)


def test_the_error_for_open_clip_names_the_file_to_copy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"bpe_simple_vocab_16e6\.txt\.gz of the package open_clip_torch"):
        tokenizer_from_folder(tmp_path, "open_clip", 77)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("clip", "tokenizer.json"), ("siglip", "spiece.model"), ("bert", "vocab.txt"), ("clip", "tokenizer_config.json")],
)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00broken", b"[1]", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
)
def test_a_broken_file_is_an_error_that_names_it(
    vocabularies: Path, tmp_path: Path, kind: TokenizerKind, name: str, content: bytes
) -> None:
    folder = copy(vocabularies / kind, tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=str(folder)):
        tokenizer_from_folder(folder, kind, 77)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_broken_vocabulary_or_merges_file_of_clip_is_an_error(vocabularies: Path, tmp_path: Path, name: str) -> None:
    folder = copy(vocabularies / "clip", tmp_path)
    (folder / name).write_text("not what it should be")
    with pytest.raises(ModelError, match=r"vocab\.json and merges\.txt"):
        tokenizer_from_folder(folder, "clip", 77)


def test_a_vocabulary_of_another_family_is_an_error(vocabularies: Path) -> None:
    with pytest.raises(ModelError, match=r"vocabulary has no \[SEP\]"):
        tokenizer_from_folder(vocabularies / "siglip2", "bert", 77)


@pytest.mark.parametrize("packed", [True, False])
def test_openais_merges_are_read_plain_and_compressed(vocabularies: Path, tmp_path: Path, packed: bool) -> None:
    content = (vocabularies / "clip" / "merges.txt").read_bytes()
    name = "bpe_simple_vocab_16e6.txt"
    (tmp_path / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    read = tokenizer_from_folder(tmp_path, "clip", 77)
    np.testing.assert_array_equal(
        read(CORPUS).ids, tokenizer_from_folder(vocabularies / "clip", "clip", 77)(CORPUS).ids
    )


def test_the_pad_token_is_read_from_the_config(vocabularies: Path, tmp_path: Path) -> None:
    folder = copy(vocabularies / "clip", tmp_path)
    for named in ("!", {"content": "!", "lstrip": False}):
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": named}))
        assert tokenizer_from_folder(folder, "clip", 77).settings.pad_id == 0


def test_the_pad_id_of_clip_never_exceeds_the_end_id(vocabularies: Path, tmp_path: Path) -> None:
    folder = copy(vocabularies / "clip", tmp_path)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    settings = tokenizer_from_folder(folder, "clip", 77).settings
    assert settings.pad_id == settings.end_id < vocabulary["<pad>"]


def test_the_smaller_length_limit_applies_unless_padding_is_attended_to(vocabularies: Path, tmp_path: Path) -> None:
    folder = copy(vocabularies / "clip", tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 52}))
    assert tokenizer_from_folder(folder, "clip", 77).settings.context_length == 52
    assert tokenizer_from_folder(folder, "clip", 32).settings.context_length == 32
    assert tokenizer_from_folder(folder, "clip", 77, full_length=True).settings.context_length == 77
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    assert tokenizer_from_folder(folder, "clip", 77).settings.context_length == 77


def test_siglip_ignores_case_punctuation_and_spaces(vocabularies: Path) -> None:
    siglip = tokenizer_from_folder(vocabularies / "siglip", "siglip", 64)
    np.testing.assert_array_equal(siglip(["  A Photo, of... a\nDOG!"]).ids, siglip(["a photo of a dog"]).ids)


def test_siglip_2_ignores_case_and_keeps_punctuation(vocabularies: Path) -> None:
    siglip2 = tokenizer_from_folder(vocabularies / "siglip2", "siglip2", 64)
    np.testing.assert_array_equal(siglip2(["A DOG!"]).ids, siglip2(["a dog!"]).ids)
    assert siglip2(["a dog!"]).ids.tolist() != siglip2(["a dog"]).ids.tolist()


@pytest.mark.parametrize("written_as", ["GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer", None])
def test_siglip_2_is_recognized_by_its_vocabulary_whatever_its_tokenizer_class(
    vocabularies: Path, tmp_path: Path, written_as: str | None
) -> None:
    folder = copy(vocabularies / "siglip2", tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": written_as}))
    known, named = (tokenizer_from_folder(folder, kind, 64) for kind in ("siglip", "siglip2"))
    assert known.settings == named.settings


def test_open_clip_cleans_text_that_clip_leaves_unchanged(vocabularies: Path) -> None:
    clip, open_clip = (tokenizer_from_folder(vocabularies / "clip", kind, 77) for kind in ("clip", "open_clip"))
    plain = "it's a dog & a cat"
    for messy in ("it’s a dog &amp; a cat", "it's a dog &amp;amp; a cat"):
        assert open_clip.tokenize(messy) == clip.tokenize(plain)
        assert clip.tokenize(messy) != clip.tokenize(plain)


@pytest.mark.slow
def test_any_truncated_sentencepiece_file_gives_an_error_or_a_tokenizer(vocabularies: Path, tmp_path: Path) -> None:
    whole = (vocabularies / "siglip" / "spiece.model").read_bytes()
    errors = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in range(0, len(whole), 97):
            (tmp_path / "spiece.model").write_bytes(whole[:length])
            try:
                tokenizer_from_folder(tmp_path, "siglip", 64)
            except ModelError:
                errors += 1
    assert errors > 10
