"""CLIP's byte-level vocabulary of word pieces, from the files that it travels in.

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
from beholder.text.byte_characters import CHARACTER_OF

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
FIRST_PRIVATE = 0xE000  # of Unicode's area for private use
# The list is longer than what OpenAI took of it: a vocabulary of 49,408, less 2 × 256 single bytes and the two marks.
OPENAI_MERGES = 49408 - 2 * 256 - 2

Merges = list[tuple[str, str]]


def from_vocabulary(vocabulary: dict[str, int], merges: Merges) -> Tokenizer:
    """The tokenizer of a vocabulary (piece → id) and the pairs that are joined, most frequent first."""
    backend = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix=WORD_END, unk_token=END))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return backend


def from_vocabulary_and_merges(vocabulary: Path, merges: Path) -> Tokenizer:
    """From ``vocab.json`` and ``merges.txt``.

    Raises:
        ModelError: a file is broken, or the two do not belong together.
    """
    try:
        return from_vocabulary(*BPE.read_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{vocabulary} and {merges.name}: cannot be read as CLIP's vocabulary ({error})") from None


def from_openai_merges(file: Path) -> Tokenizer:
    """From ``bpe_simple_vocab_16e6.txt`` or its ``.gz``: a line of heading, then a pair a line.

    Raises:
        ModelError: the file is broken.
    """
    try:
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
        merges: Merges = [(first, second) for first, second in map(str.split, text.splitlines()[1 : OPENAI_MERGES + 1])]
        return from_merges(merges)
    except Exception as error:  # of gzip, of the decoding, of a line, or the library's, which has no name
        raise ModelError(f"{file}: cannot be read as OpenAI's list of pairs ({error})") from None


def from_merges(merges: Merges) -> Tokenizer:
    """The vocabulary that follows from its pairs: single bytes, the same at the end of a word, pairs, two marks."""
    letters = list(CHARACTER_OF.values())
    pieces = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges), START, END]
    return from_vocabulary({piece: token for token, piece in enumerate(pieces)}, merges)


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """A vocabulary of at most ``size`` pieces, learned from texts. Every text can be spelled with it.

    Source: Sennrich et al., *Neural Machine Translation of Rare Words with Subword Units*, section 3.2.
    """
    words = from_merges([])
    # The library would number letters at the end of a word as it meets them, in an order that changes from run to run,
    # and settle ties by these numbers. So each is a character of its own here, and all are numbered before.
    ending = {letter: chr(FIRST_PRIVATE + place) for place, letter in enumerate(CHARACTER_OF.values())}
    spelled = {private: letter + WORD_END for letter, private in ending.items()}

    def marked(text: str) -> str:
        pieces = words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(text))
        return " ".join(piece[:-1] + ending[piece[-1]] for piece, _ in pieces)

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = [*CHARACTER_OF.values(), *ending.values()]
    merges = max(size - words.get_vocab_size(), 0)
    trainer = BpeTrainer(vocab_size=len(letters) + merges, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(map(marked, texts), trainer)
    merges = json.loads(backend.to_str())["model"]["merges"]
    return from_merges([(_spelled(first, spelled), _spelled(second, spelled)) for first, second in merges])


def _spelled(piece: str, spelled: dict[str, str]) -> str:
    return piece[:-1] + spelled.get(piece[-1], piece[-1])
