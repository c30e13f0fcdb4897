import pytest

from beholder.text import clip_bpe
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from tiny_vocabularies import CORPUS


def test_a_trained_vocabulary_encodes_any_text_and_has_the_requested_size() -> None:
    backend = clip_bpe.train_bpe(CORPUS, 560)
    assert backend.get_vocab_size() == 560
    marks = backend.get_vocab()
    end = marks[clip_bpe.EOS_TOKEN]
    assert end == 559, "some networks take the highest id for the end"
    tokenizer = Tokenizer(backend, TokenizerSettings(64, end, marks[clip_bpe.BOS_TOKEN]))
    for text in ("a photo of a dog", "ÅÄÖ 猫 🦆", "\x00 \u2028", "<|endoftext|>"):
        ids = tokenizer([text]).ids[0]
        assert (ids == end).sum() == 1 and ids[-1] == end, "no unknown token, which is written as the end mark"


def test_a_frequent_word_becomes_a_single_token() -> None:
    few, many = (clip_bpe.train_bpe(CORPUS, size) for size in (514, 620))
    text = "a photo of the snow"
    assert len(many.encode(text).ids) < len(few.encode(text).ids)


@pytest.mark.parametrize("size", [514, 600])
def test_training_a_vocabulary_is_deterministic(size: int) -> None:
    first = clip_bpe.train_bpe(CORPUS, size).to_str()
    assert all(clip_bpe.train_bpe(CORPUS, size).to_str() == first for _ in range(5))
