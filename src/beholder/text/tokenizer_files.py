"""Tokenizers from the folders of other projects, and into them."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import punctuation
from typing import Any, Literal

import tokenizers
from tokenizers import Regex, normalizers, processors
from tokenizers.models import BPE

from beholder.errors import ModelError
from beholder.text import clip_bpe, sentence_piece, word_piece
from beholder.text.cleaning import OPEN_CLIP, SIGLIP, SIGLIP2, Step
from beholder.text.tokenizer import FILE, Tokenizer, TokenizerSettings, read_backend

TokenizerKind = Literal["clip", "open_clip", "siglip", "siglip2", "bert"]

VOCABULARY, MERGES = "vocab.json", "merges.txt"
OPENAI_LISTS = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
SENTENCE_PIECE = "spiece.model"
WORD_PIECE = "vocab.txt"


@dataclass(frozen=True)
class TokenizerFamily:
    """How a family of models surrounds a sentence.

    A mark is a pair: its entry in ``tokenizer_config.json``, and the name that it has where there is no entry.
    """

    start: tuple[str, str] | None
    end: tuple[str, str]
    pad: tuple[str, str]
    full_length: bool = False
    cleaning: tuple[Step, ...] = ()


TOKENIZER_FAMILIES: dict[TokenizerKind, TokenizerFamily] = {
    "clip": TokenizerFamily(("bos_token", clip_bpe.START), ("eos_token", clip_bpe.END), ("pad_token", clip_bpe.END)),
    "open_clip": TokenizerFamily(  # pads with id 0, which is "!" in CLIP's vocabulary
        ("bos_token", clip_bpe.START), ("eos_token", clip_bpe.END), ("", "!"), cleaning=OPEN_CLIP
    ),
    "siglip": TokenizerFamily(None, ("eos_token", "</s>"), ("pad_token", "</s>"), full_length=True, cleaning=SIGLIP),
    "siglip2": TokenizerFamily(
        None, ("eos_token", "<eos>"), ("pad_token", "<pad>"), full_length=True, cleaning=SIGLIP2
    ),
    "bert": TokenizerFamily(("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("pad_token", "[PAD]")),
}
EXPECTED_FILES: dict[TokenizerKind, str] = {
    "clip": f"{FILE}, {VOCABULARY} with {MERGES}, {' or '.join(OPENAI_LISTS)}",
    "open_clip": f"{FILE}, {VOCABULARY} with {MERGES}, {' or '.join(OPENAI_LISTS)}",
    "siglip": f"{FILE} or {SENTENCE_PIECE}",
    "siglip2": FILE,
    "bert": f"{FILE} or {WORD_PIECE}",
}


def tokenizer_from_folder(
    folder: Path, kind: TokenizerKind, context_length: int, full_length: bool | None = None
) -> Tokenizer:
    """The tokenizer beside a foreign checkpoint.

    Args:
        folder: holds ``tokenizer.json`` or the older files of a vocabulary.
        kind: the family, as the checkpoint's config says it; ``siglip`` finds out whether it is ``siglip2``.
        context_length: tokens that the network has positions for. A shorter ``model_max_length`` in
            ``tokenizer_config.json`` wins where the padding is not seen.
        full_length: whether the network sees its padding; by default as the family does.

    Raises:
        ModelError: the folder has no vocabulary, or one that is broken or of another family.
    """
    config = _read_config(folder)
    backend = _read_vocabulary(folder, kind, config)
    if kind == "siglip" and isinstance(backend.model, BPE):
        # SigLIP 2, whose config says siglip, too. Its tokenizer goes by several names, but no unigram is among them.
        kind = "siglip2"
    conventions = TOKENIZER_FAMILIES[kind]
    full_length = conventions.full_length if full_length is None else full_length
    limit = config.get("model_max_length")
    if isinstance(limit, int | float) and not full_length:  # absent limits are written as huge numbers
        context_length = int(min(context_length, limit))
    end_id = _id(folder, backend, config, conventions.end)
    pad_id = _id(folder, backend, config, conventions.pad)
    if kind == "clip":
        pad_id = min(pad_id, end_id)  # some of these networks take the highest id for the end
    settings = TokenizerSettings(
        context_length=context_length,
        end_id=end_id,
        start_id=None if conventions.start is None else _id(folder, backend, config, conventions.start),
        pad_id=pad_id,
        padding="full" if full_length else "longest",
        cleaning=conventions.cleaning,
    )
    return Tokenizer(backend, settings)


def _read_vocabulary(folder: Path, kind: TokenizerKind, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    if (folder / FILE).is_file():
        return read_backend(folder / FILE)
    if kind in ("clip", "open_clip"):
        if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
            return clip_bpe.from_vocabulary_and_merges(folder / VOCABULARY, folder / MERGES)
        for name in OPENAI_LISTS:
            if (folder / name).is_file():
                return clip_bpe.from_openai_merges(folder / name)
    if kind == "siglip" and (folder / SENTENCE_PIECE).is_file():
        return sentence_piece.from_model_file(folder / SENTENCE_PIECE)
    if kind == "bert" and (folder / WORD_PIECE).is_file():
        return word_piece.from_vocabulary_file(folder / WORD_PIECE, config)
    advice = "copy it from where the model came from"
    if kind == "open_clip":
        advice = f"the default vocabulary is the file {OPENAI_LISTS[0]} of the package open_clip_torch: copy it there"
    raise ModelError(f"{folder}: has no tokenizer (looked for {EXPECTED_FILES[kind]}); {advice}")


def _read_config(folder: Path) -> dict[str, Any]:
    """What the tokenizer's small files say, of which ``tokenizer_config.json`` wins; marks by their bare names."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                config |= json.loads((folder / name).read_text("utf-8"))
            except (OSError, ValueError, TypeError) as error:
                raise ModelError(f"{folder / name}: cannot be read as a JSON object ({error})") from None
    return {
        key: value.get("content") if key.endswith("_token") and isinstance(value, dict) else value
        for key, value in config.items()
    }


def _id(folder: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any], mark: tuple[str, str]) -> int:
    entry, usual = mark
    name = str(config.get(entry) or usual)
    token = backend.token_to_id(name)
    if token is None:
        raise ModelError(f"{folder}: the tokenizer's vocabulary has no {name}, so it is not the one of this model")
    return token


def write_tokenizer(tokenizer: Tokenizer, folder: Path, conventions: TokenizerFamily) -> str:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json`` as transformers reads them, marks and cleaning included.

    Returns:
        What the files can't tell it to do to a text: ``"repaired"``, or nothing.
    """
    settings, backend = tokenizer.settings, tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    ours = [CLEANING[step] for step in settings.cleaning if step in CLEANING]
    if ours:
        backend.normalizer = normalizers.Sequence(
            [step() for step in ours] + ([backend.normalizer] if backend.normalizer else [])
        )
    # Where nothing sees the padding, it is what the family pads with: a piece that a text can hold is no good mark.
    unseen = settings.padding == "longest" and conventions.pad[1] == conventions.end[1]
    end = backend.id_to_token(settings.end_id)
    pad = end if unseen else backend.id_to_token(settings.pad_id)
    start = None if settings.start_id is None else backend.id_to_token(settings.start_id)
    marks = [(end, settings.end_id)] + ([] if start is None else [(start, settings.start_id)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start or ''} $A {end}".strip(), special_tokens=marks
    )
    backend.add_special_tokens([mark for mark, _ in marks])
    backend.save(str(folder / FILE))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings.context_length,
        "padding_side": "right",
        conventions.end[0]: end,
        "pad_token": pad,
    }
    if conventions.start is not None and start is not None:
        config[conventions.start[0]] = start
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return "repaired" if "repair" in settings.cleaning else ""


# The cleaning steps that a tokenizer's own file can hold.
CLEANING: dict[Step, Callable[[], Any]] = {
    "lower": normalizers.Lowercase,
    "no_punctuation": lambda: normalizers.Replace(Regex(f"[{re.escape(punctuation)}]"), ""),
    "single_spaces": lambda: normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]),
}
