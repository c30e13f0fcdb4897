import pytest

from beholder.text import clip_bpe
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from tiny_vocabularies import CORPUS


def test_a_learned_vocabulary_spells_every_text_and_is_as_large_as_asked() -> None:
    backend = clip_bpe.train_bpe(CORPUS, 560)
    assert backend.get_vocab_size() == 560
    marks = backend.get_vocab()
    end = marks[clip_bpe.EOS_TOKEN]
    assert end == 559, "some networks take the highest id for the end"
    tokenizer = Tokenizer(backend, TokenizerSettings(64, end, marks[clip_bpe.BOS_TOKEN]))
    for text in ("a photo of a dog", "ÅÄÖ 猫 🦆", "\x00 \u2028", "<|endoftext|>"):
        ids = tokenizer([text]).ids[0]
        assert (ids == end).sum() == 1 and ids[-1] == end, "no unknown token, which is written as the end mark"


def test_what_is_frequent_becomes_one_token() -> None:
    few, many = (clip_bpe.train_bpe(CORPUS, size) for size in (514, 620))
    text = "a photo of the snow"
    assert len(many.encode(text).ids) < len(few.encode(text).ids)


@pytest.mark.parametrize("size", [514, 600])
def test_it_is_learned_the_same_each_time(size: int) -> None:
    first = clip_bpe.train_bpe(CORPUS, size).to_str()
    assert all(clip_bpe.train_bpe(CORPUS, size).to_str() == first for _ in range(5))
