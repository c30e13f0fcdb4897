"""BERT's WordPiece vocabulary, from ``vocab.txt``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from beholder.errors import ModelError


def from_vocabulary_file(file: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Build a tokenizer from a file with one token per line, and the options in ``tokenizer_config.json``.

    Source of the defaults: transformers' ``BertTokenizer``.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        pieces = file.read_text("utf-8").split("\n")
        vocabulary = {piece.rstrip("\r"): token for token, piece in enumerate(pieces) if piece}
        backend = Tokenizer(WordPiece(vocabulary, unk_token=config.get("unk_token", "[UNK]")))
    except Exception as error:  # of decoding, or the library's, which is a bare Exception
        raise ModelError(f"{file}: cannot be read as a vocabulary ({error})") from None
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend
