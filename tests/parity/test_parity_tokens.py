"""Our tokenizers against the reference tokenizers, with the same files."""

import importlib.util
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from beholder.text.tokenizer import Tokenizer, TruncationWarning
from beholder.text.tokenizer_files import TokenizerKind, tokenizer_from_folder

transformers = pytest.importorskip("transformers")

SENTENCES = [
    "a photo of a dog",
    "A Photo of a DOG.",
    "",
    "   ",
    "  leading and trailing  ",
    "many     spaces\tand\ttabs\nand\r\nlines",
    "it's, they've, don't, she'll, I'M, 'twas the child'S",
    "“curly quotes” and it’s an apostrophe",
    "12 candles, 2024, 3.14, 1,000 and ½ ² ٣",
    "café naïve École STRASSE straße cafe\u0301 A\u030angstro\u0308m",
    "ﬁne ligatures, ｆｕｌｌ ｗｉｄｔｈ, Ⅷ",
    "一只猫在沙发上睡觉 sofa 猫",
    "こんにちは 세계 Привет мир مرحبا नमस्ते",
    "a 🐕 and a 👩‍👩‍👧 and 🏳️‍🌈!",
    "hyphen-ated snake_case a/b c\\d e|f <g> {h} [i] (j) k&l m=n o+p #q @r $5 ~^`",
    "fish &amp; chips &lt;b&gt; &eacute; &amp;amp;",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break \ufeffmark \u2028 line",
    "dots... and — dashes – …",
    "İstanbul ǅ ß ẞ ŉ",
    "x\x00y\x01z\x7f",
    "a" * 500,
    "the quick brown fox jumps over the lazy dog " * 20,
    "!!!???" * 60,
]
CONTEXT = {"clip": 77, "bert": 52, "siglip": 64, "siglip2": 64, "xlm_roberta": 77}
REFERENCES: dict[str, Callable[..., Any]] = {
    "clip": lambda folder: transformers.CLIPTokenizer.from_pretrained(folder),
    "bert": lambda folder: transformers.BertTokenizer.from_pretrained(folder),
    "siglip": lambda folder: transformers.SiglipTokenizer.from_pretrained(folder),
    "siglip2": lambda folder: transformers.Siglip2Tokenizer.from_pretrained(folder),
    "xlm_roberta": lambda folder: transformers.PreTrainedTokenizerFast.from_pretrained(folder),
}


@cache
def reference(vocabularies: Path, kind: TokenizerKind) -> Any:
    return REFERENCES[kind](vocabularies / kind)


def ours(folder: Path, kind: TokenizerKind, context_length: int | None = None) -> Tokenizer:
    return tokenizer_from_folder(folder, kind, context_length or CONTEXT[kind])


def ids_of(tokenizer: Tokenizer, sentences: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        return tokenizer(sentences).ids


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: ascii(sentence[:20]))
@pytest.mark.parametrize("kind", REFERENCES)
def test_the_ids_of_a_sentence_equal_those_of_the_reference(
    vocabularies: Path, kind: TokenizerKind, sentence: str
) -> None:
    padding = "max_length" if kind.startswith("siglip") else True
    expected = reference(vocabularies, kind)([sentence], padding=padding, truncation=True, max_length=CONTEXT[kind])[
        "input_ids"
    ]
    assert ids_of(ours(vocabularies / kind, kind), [sentence]).tolist() == expected


@pytest.mark.parametrize("kind", REFERENCES)
def test_ids_and_mask_of_a_batch_equal_those_of_the_reference(vocabularies: Path, kind: TokenizerKind) -> None:
    sentences = ["a dog", "a photo of two cats in the snow", "x"]
    padding = "max_length" if kind.startswith("siglip") else True
    expected = reference(vocabularies, kind)(
        sentences, padding=padding, truncation=True, max_length=CONTEXT[kind], return_attention_mask=True
    )
    tokens = ours(vocabularies / kind, kind)(sentences)
    assert tokens.ids.tolist() == expected["input_ids"]
    assert tokens.mask.astype(int).tolist() == expected["attention_mask"]


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_tokenizer_json_saved_by_transformers_gives_the_same_ids(
    vocabularies: Path, kind: TokenizerKind, tmp_path: Path
) -> None:
    REFERENCES[kind](vocabularies / kind).save_pretrained(tmp_path)
    if kind != "siglip":  # its reference writes no such file
        assert (tmp_path / "tokenizer.json").is_file()
    again, before = ours(tmp_path, kind), ours(vocabularies / kind, kind)
    np.testing.assert_array_equal(ids_of(again, SENTENCES), ids_of(before, SENTENCES))


# Characters known to this Python's Unicode version: newer ones may be lowercased by only one of the two.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"])


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.lists(st.text(KNOWN, max_size=40), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", REFERENCES)
def test_the_ids_of_any_sentence_without_special_tokens_equal_those_of_the_reference(
    vocabularies: Path, kind: TokenizerKind, sentences: list[str]
) -> None:
    hypothesis.assume(not any(mark in sentence for sentence in sentences for mark in "<[Σ"))
    padding = "max_length" if kind.startswith("siglip") else True
    expected = reference(vocabularies, kind)(sentences, padding=padding, truncation=True, max_length=CONTEXT[kind])
    assert ids_of(ours(vocabularies / kind, kind), sentences).tolist() == expected["input_ids"]


@pytest.mark.parametrize("options", [{"do_lower_case": False}, {"strip_accents": False}])
def test_the_options_of_bert_are_read_from_its_config(
    vocabularies: Path, options: dict[str, bool], tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_bytes((vocabularies / "bert" / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **options}))
    sentences = ["A photo of the café in the SNOW", "École"]
    expected = REFERENCES["bert"](tmp_path)(sentences, padding=True)["input_ids"]
    assert ours(tmp_path, "bert")(sentences).ids.tolist() == expected
    assert ours(vocabularies / "bert", "bert")(sentences).ids.tolist() != expected


@pytest.mark.parametrize(("kind", "typed"), [("clip", "<|endoftext|>"), ("bert", "[SEP]"), ("siglip2", "<eos>")])
def test_a_typed_special_token_is_text_here_and_special_in_the_reference(
    vocabularies: Path, kind: TokenizerKind, typed: str
) -> None:
    tokenizer = ours(vocabularies / kind, kind)
    sentence = f"a dog {typed} a cat"
    assert reference(vocabularies, kind)(sentence)["input_ids"].count(tokenizer.settings.end_id) == 2
    assert ids_of(tokenizer, [sentence])[0].tolist().count(tokenizer.settings.end_id) == 1


def test_a_final_greek_sigma_is_lowercased_as_in_training_and_not_as_in_the_reference(vocabularies: Path) -> None:
    tokenizer = ours(vocabularies / "siglip2", "siglip2")
    siglip2 = reference(vocabularies, "siglip2")
    assert ids_of(tokenizer, ["ΟΔΟΣ"]).tolist() == ids_of(tokenizer, ["οδος"]).tolist()
    assert siglip2("ΟΔΟΣ")["input_ids"] != siglip2("οδος")["input_ids"]


@pytest.fixture(scope="session")
def open_clip_tokenizer() -> Any:
    """Return the tokenizer module alone, since the package imports torchvision."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open_clip is not installed")
    specification = importlib.util.spec_from_file_location(
        "open_clip_tokenizer", Path(package.origin).with_name("tokenizer.py")
    )
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    specification.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: ascii(sentence[:20]))
def test_the_ids_of_a_sentence_equal_those_of_open_clip(open_clip_tokenizer: Any, sentence: str) -> None:
    folder = Path(open_clip_tokenizer.default_bpe()).parent
    tokenizer = tokenizer_from_folder(folder, "open_clip", 77, full_length=True)
    np.testing.assert_array_equal(ids_of(tokenizer, [sentence]), open_clip_tokenizer.SimpleTokenizer()([sentence]))


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: ascii(sentence[:20]))
def test_the_ids_of_a_sentence_equal_those_of_open_clip_with_xlm_roberta(
    open_clip_tokenizer: Any, vocabularies: Path, sentence: str
) -> None:
    folder = vocabularies / "xlm_roberta"
    theirs = open_clip_tokenizer.HFTokenizer(str(folder), context_length=40)([sentence])
    tokenizer = tokenizer_from_folder(folder, "open_clip_xlm_roberta", 40, full_length=True)
    np.testing.assert_array_equal(ids_of(tokenizer, [sentence]), theirs)


def test_the_merges_of_open_clip_are_the_vocabulary_of_openai(open_clip_tokenizer: Any) -> None:
    backend = tokenizer_from_folder(Path(open_clip_tokenizer.default_bpe()).parent, "open_clip", 77).backend
    # Ids in openai/clip-vit-base-patch32.
    known = {"!": 0, "a</w>": 320, "photo</w>": 1125, "dog</w>": 1929, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    assert {piece: backend.token_to_id(piece) for piece in known} == known
