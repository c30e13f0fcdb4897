"""SentencePiece unigram vocabularies, from ``spiece.model``.

The file is a protocol buffer of which four fields matter, so it is parsed here and no compiled reader is needed.
Source: ``sentencepiece_model.proto`` and ``normalizer.cc`` of google/sentencepiece.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import Unigram

from beholder.errors import ModelError

# Field numbers of the model, of a piece, and of the trainer's and the normalizer's settings.
PIECE, TRAINER, NORMALIZER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_TYPE = 1, 2, 3
TRAINER_MODEL_TYPE, TRAINER_BYTE_FALLBACK = 3, 35
NORMALIZER_TABLE = 2
UNIGRAM = 1
UNKNOWN = 2
SPACE = "▁"


def from_model_file(file: Path) -> Tokenizer:
    """Build a tokenizer from a unigram model that adds a dummy prefix and collapses spaces, as SigLIP's does.

    Raises:
        ModelError: the file is damaged, or another kind of model.
    """
    try:
        backend = _build(file.read_bytes())
    except Exception as error:  # of the fields, of decoding, or the library's, which is a bare Exception
        raise ModelError(f"{file}: cannot be read as a SentencePiece unigram model ({error})") from None
    return backend


def _build(data: bytes) -> Tokenizer:
    pieces: list[tuple[str, float]] = []
    unknown = None
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in fields(data):
        if field == PIECE:
            piece = dict(fields(_bytes(value)))
            if piece.get(PIECE_TYPE) == UNKNOWN:
                unknown = len(pieces)
            score = struct.unpack("<f", _bytes(piece.get(PIECE_SCORE, bytes(4))))[0]
            pieces.append((_bytes(piece[PIECE_TEXT]).decode(), score))
        elif field == TRAINER:
            trainer = dict(fields(_bytes(value)))
        elif field == NORMALIZER:
            normalizer = dict(fields(_bytes(value)))
    if trainer.get(TRAINER_MODEL_TYPE, UNIGRAM) != UNIGRAM:
        raise ValueError("it is of another model type")
    backend = Tokenizer(Unigram(pieces, unknown, bool(trainer.get(TRAINER_BYTE_FALLBACK, 0))))
    table = _bytes(normalizer.get(NORMALIZER_TABLE, b""))
    backend.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(table)] if table else []),
            normalizers.Strip(),
            normalizers.Replace(Regex(" +"), SPACE),
            normalizers.Prepend(SPACE),
        ]
    )
    return backend


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer, in order: (number, value).

    Raises:
        ValueError: the bytes are truncated or hold an unknown wire type.
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(data) or shift > 63:
                raise ValueError("a varint without an end")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(data):
        tag = varint()
        match tag & 7:
            case 0:
                yield tag >> 3, varint()
                continue
            case 1:
                size = 8
            case 2:
                size = varint()
            case 5:
                size = 4
            case kind:
                raise ValueError(f"wire type {kind}")
        if position + size > len(data):
            raise ValueError("it is truncated")
        yield tag >> 3, data[position : position + size]
        position += size


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number in place of text")
    return value
