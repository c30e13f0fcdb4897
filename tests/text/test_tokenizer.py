import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from beholder.errors import InvalidSetting, ModelError
from beholder.text.tokenizer import Tokenizer, TokenizerSettings, TruncationWarning
from beholder.text.tokenizer_files import TokenizerKind, tokenizer_from_folder

KINDS: list[TokenizerKind] = ["clip", "siglip", "siglip2", "bert"]
CONTROL = ["<|startoftext|>", "<|endoftext|>", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "</s>", "<pad>", "<eos>", "<bos>"]
LONG = "the quick brown fox jumps over the lazy dog and a cat sleeps on the red sofa"


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, vocabularies: Path) -> Tokenizer:
    return tokenizer_from_folder(vocabularies / request.param, request.param, 32)


@pytest.fixture(scope="module")
def clip(vocabularies: Path) -> Tokenizer:
    return tokenizer_from_folder(vocabularies / "clip", "clip", 16)


def body(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids without start and end tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        tokens = tokenizer([text])
    return tokens.ids[tokens.mask].tolist()[tokenizer.settings.start_id is not None : -1]


def test_ids_are_int64_and_the_mask_is_bool(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["a dog", "a photo of a dog"])
    assert tokens.ids.dtype == np.int64
    assert tokens.mask.dtype == bool
    assert tokens.ids.shape == tokens.mask.shape
    assert (tokens.ids[~tokens.mask] == tokenizer.settings.pad_id).all()


@pytest.mark.parametrize(("kind", "length"), [("clip", 5), ("bert", 5), ("siglip", 32), ("siglip2", 32)])
def test_sentences_are_padded_to_the_longest_or_to_the_full_length(
    vocabularies: Path, kind: TokenizerKind, length: int
) -> None:
    made = tokenizer_from_folder(vocabularies / kind, kind, 32)
    assert made(["a dog", "a dog running"]).ids.shape == (2, length)


def test_an_empty_list_gives_no_rows(tokenizer: Tokenizer) -> None:
    assert len(tokenizer([]).ids) == 0


def test_an_empty_sentence_has_only_its_special_tokens(tokenizer: Tokenizer) -> None:
    assert body(tokenizer, "") == []
    assert tokenizer([""]).mask.sum() == (1 if tokenizer.settings.start_id is None else 2)


def test_a_sentence_that_just_fits_is_not_truncated(clip: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = clip(["a " * 14])
    assert tokens.ids.shape == (1, 16)
    assert tokens.truncated == ()


def test_a_truncated_sentence_keeps_its_end_token(clip: Tokenizer) -> None:
    with pytest.warns(TruncationWarning):
        tokens = clip(["a dog", "a " * 15])
    assert tokens.ids.shape == (2, 16)
    assert tokens.ids[1, -1] == clip.settings.end_id
    assert tokens.truncated == (1,)


def test_the_truncation_warning_names_the_sentence_and_the_lost_text(clip: Tokenizer) -> None:
    with pytest.warns(TruncationWarning) as caught:
        clip(["a dog", LONG])
    message = str(caught[0].message)
    kept, _, lost = message.partition("; lost: ")
    assert 'sentence 2 ("the quick brown fox jumps over' in kept
    assert kept.endswith('truncated after "the quick brown fox jumps over the"')
    assert lost == '"lazy dog and a cat sleeps on the red sofa"'


def test_the_truncation_warning_uses_the_callers_numbers(clip: Tokenizer) -> None:
    with pytest.warns(TruncationWarning, match="sentence 41 "):
        clip([LONG], numbers=[41])


def test_the_truncation_warning_fits_on_one_line_for_any_sentence(clip: Tokenizer) -> None:
    with pytest.warns(TruncationWarning) as caught:
        clip(["a\n\x1b[31m\u202e" * 5000])
    message = str(caught[0].message)
    assert len(message) < 400
    assert message.isprintable()


@pytest.mark.parametrize("typed", CONTROL)
def test_a_typed_special_token_is_ordinary_text(tokenizer: Tokenizer, typed: str) -> None:
    settings = tokenizer.settings
    control = {tokenizer.backend.token_to_id(name) for name in CONTROL} | {settings.start_id, settings.end_id}
    for sentence in (typed, f"a dog {typed} a cat", f"{typed}{typed}"):
        assert not control & set(body(tokenizer, sentence)) - {None}


@pytest.mark.parametrize("bad", [["a", "dog \ud83d"], ["a", None], ["a", b"dog"]])
def test_a_value_that_is_not_text_is_reported_by_its_number(tokenizer: Tokenizer, bad: list[Any]) -> None:
    with pytest.raises(InvalidSetting, match=r"^sentence 2 ") as caught:
        tokenizer(bad)
    str(caught.value).encode()


def test_a_single_string_is_not_treated_as_a_list_of_characters(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidSetting, match="must be a list"):
        tokenizer("a dog")


TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text(" adogct<|>[]/'.!猫é🐕\n", max_size=400)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text_fits_the_context_and_does_not_depend_on_the_batch(tokenizer: Tokenizer, texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        batch = tokenizer(texts)
        alone = [tokenizer([text]) for text in texts]
    assert batch.ids.shape[1] <= 32
    assert batch.ids.max() < tokenizer.backend.get_vocab_size()
    for row, single in enumerate(alone):
        np.testing.assert_array_equal(batch.ids[row][batch.mask[row]], single.ids[single.mask])
        assert (np.diff(batch.mask[row].astype(int)) <= 0).all()


@hypothesis_settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_the_tokens_of_any_text_can_be_displayed(tokenizer: Tokenizer, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        shown = tokenizer.tokenize(text)
    assert shown[-1] == "<end>"
    assert all(shown)
    assert len(shown) == len(body(tokenizer, text)) + 1 + (tokenizer.settings.start_id is not None)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("clip", ["<start>", "a", "dog", "be", "·ho", "·ld", "!", "<end>"]),
        ("bert", ["<start>", "a", "dog", "be", "·h", "·o", "·ld", "!", "<end>"]),
        ("siglip", ["a", "dog", "b", "·e", "·ho", "·ld", "<end>"]),
        ("siglip2", ["a", "dog", "b", "·e", "·ho", "·ld", "·!", "<end>"]),
    ],
)
def test_displayed_tokens_are_readable(vocabularies: Path, kind: TokenizerKind, shown: list[str]) -> None:
    assert tokenizer_from_folder(vocabularies / kind, kind, 32).tokenize("A dog behold!") == shown


def test_displayed_bytes_and_unknown_pieces_are_labeled(vocabularies: Path, clip: Tokenizer) -> None:
    assert clip.tokenize("a ©") == ["<start>", "a", r"\xc2", r"·\xa9", "<end>"]
    bert = tokenizer_from_folder(vocabularies / "bert", "bert", 32)
    assert bert.tokenize("a ©") == ["<start>", "a", "<unknown>", "<end>"]


def test_a_saved_tokenizer_has_the_same_ids_and_settings(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    written = json.loads(json.dumps(asdict(tokenizer.settings)))
    again = Tokenizer.load(tmp_path, written)
    assert again.settings == tokenizer.settings
    sentences = ["A Photo, of  a DOG!", "<|endoftext|> </s> [SEP] café 猫 🐕"]
    np.testing.assert_array_equal(again(sentences).ids, tokenizer(sentences).ids)
    assert again.backend.to_str() == tokenizer.backend.to_str()


def test_truncation_and_padding_settings_in_the_file_are_ignored(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[END]": 1}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    made = Tokenizer(backend, TokenizerSettings(context_length=8, end_id=1))
    assert made(["a a a a"]).ids.tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    "wrong", [{"context_length": 2}, {"padding": "left"}, {"cleaning": ["polish"]}, {"colour": 1}, {"end_id": ...}]
)
def test_inconsistent_settings_are_refused(clip: Tokenizer, tmp_path: Path, wrong: dict[str, Any]) -> None:
    clip.save(tmp_path)
    written = {key: value for key, value in {**asdict(clip.settings), **wrong}.items() if value is not ...}
    with pytest.raises(InvalidSetting):
        Tokenizer.load(tmp_path, written)


def test_a_missing_or_broken_file_is_a_model_error_that_names_it(clip: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json: .* missing"):
        Tokenizer.load(tmp_path, asdict(clip.settings))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer.load(tmp_path, asdict(clip.settings))
