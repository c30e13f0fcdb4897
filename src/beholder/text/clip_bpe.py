"""CLIP's byte-level BPE vocabulary, from the files in which it is distributed.

Source: the tokenizer of OpenAI's CLIP; the rules are those of Hugging Face's ``CLIPTokenizer``.
"""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from beholder.errors import ModelError
from beholder.text.byte_characters import BYTE_TO_CHARACTER

BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
FIRST_PRIVATE = 0xE000  # of Unicode's private use area
# The file has more merges than OpenAI used: a vocabulary of 49,408, less 2 × 256 single bytes and two special tokens.
OPENAI_MERGES = 49408 - 2 * 256 - 2

Merges = list[tuple[str, str]]


def from_vocabulary(vocabulary: dict[str, int], merges: Merges) -> Tokenizer:
    """Build the tokenizer of a vocabulary (token → id) and its merges, most frequent first."""
    backend = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix=END_OF_WORD, unk_token=EOS_TOKEN))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return backend


def from_vocabulary_and_merges(vocabulary: Path, merges: Path) -> Tokenizer:
    """Build the tokenizer of ``vocab.json`` and ``merges.txt``.

    Raises:
        ModelError: a file is damaged, or the two do not belong together.
    """
    try:
        return from_vocabulary(*BPE.read_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(f"{vocabulary} and {merges.name}: cannot be read as CLIP's vocabulary ({error})") from None


def from_openai_merges(file: Path) -> Tokenizer:
    """Build the tokenizer of ``bpe_simple_vocab_16e6.txt`` or its ``.gz``: a heading, then one merge per line.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
        merges: Merges = [(first, second) for first, second in map(str.split, text.splitlines()[1 : OPENAI_MERGES + 1])]
        return from_merges(merges)
    except Exception as error:  # of gzip, of decoding, of a line, or the library's, which is a bare Exception
        raise ModelError(f"{file}: cannot be read as OpenAI's list of merges ({error})") from None


def from_merges(merges: Merges) -> Tokenizer:
    """Build the vocabulary that follows from its merges: bytes, bytes that end a word, merges, two special tokens."""
    letters = list(BYTE_TO_CHARACTER.values())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), BOS_TOKEN, EOS_TOKEN]
    return from_vocabulary({token: token_id for token_id, token in enumerate(tokens)}, merges)


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a vocabulary of at most ``size`` tokens on texts. It can encode every text.

    Source: Sennrich et al., *Neural Machine Translation of Rare Words with Subword Units*, section 3.2.
    """
    words = from_merges([])
    # The library numbers letters at the end of a word as it meets them, in an order that changes from run to run, and
    # breaks ties by these numbers. So each of them is a character of its own here, numbered in advance.
    ending = {letter: chr(FIRST_PRIVATE + place) for place, letter in enumerate(BYTE_TO_CHARACTER.values())}
    original = {private: letter + END_OF_WORD for letter, private in ending.items()}

    def mark_word_ends(text: str) -> str:
        tokens = words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(text))
        return " ".join(token[:-1] + ending[token[-1]] for token, _ in tokens)

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = [*BYTE_TO_CHARACTER.values(), *ending.values()]
    num_merges = max(size - words.get_vocab_size(), 0)
    trainer = BpeTrainer(vocab_size=len(letters) + num_merges, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(map(mark_word_ends, texts), trainer)
    merges = json.loads(backend.to_str())["model"]["merges"]
    return from_merges([(_unmark(first, original), _unmark(second, original)) for first, second in merges])


def _unmark(token: str, original: dict[str, str]) -> str:
    return token[:-1] + original.get(token[-1], token[-1])
