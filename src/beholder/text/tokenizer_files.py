"""Tokenizers in the file formats of other projects: read from their folders, and written for them."""

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
from beholder.text.cleaning import OPEN_CLIP, OPEN_CLIP_CASED, SIGLIP, SIGLIP2, Step
from beholder.text.tokenizer import FILE, Tokenizer, TokenizerSettings, read_backend

TokenizerKind = Literal["clip", "open_clip", "siglip", "siglip2", "bert", "xlm_roberta", "open_clip_xlm_roberta"]

VOCABULARY, MERGES = "vocab.json", "merges.txt"
OPENAI_MERGE_FILES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
SENTENCEPIECE_MODEL = "spiece.model"
WORDPIECE_VOCABULARY = "vocab.txt"


@dataclass(frozen=True)
class TokenizerFamily:
    """The special tokens, padding and cleaning of a family of models.

    A special token is a pair: its entry in ``tokenizer_config.json``, and the token where there is no entry.
    """

    start: tuple[str, str] | None
    end: tuple[str, str]
    pad: tuple[str, str]
    full_length: bool = False
    cleaning: tuple[Step, ...] = ()


TOKENIZER_FAMILIES: dict[TokenizerKind, TokenizerFamily] = {
    "clip": TokenizerFamily(
        ("bos_token", clip_bpe.BOS_TOKEN), ("eos_token", clip_bpe.EOS_TOKEN), ("pad_token", clip_bpe.EOS_TOKEN)
    ),
    "open_clip": TokenizerFamily(  # pads with id 0, which is "!" in CLIP's vocabulary
        ("bos_token", clip_bpe.BOS_TOKEN), ("eos_token", clip_bpe.EOS_TOKEN), ("", "!"), cleaning=OPEN_CLIP
    ),
    "siglip": TokenizerFamily(None, ("eos_token", "</s>"), ("pad_token", "</s>"), full_length=True, cleaning=SIGLIP),
    "siglip2": TokenizerFamily(
        None, ("eos_token", "<eos>"), ("pad_token", "<pad>"), full_length=True, cleaning=SIGLIP2
    ),
    "bert": TokenizerFamily(("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("pad_token", "[PAD]")),
    "xlm_roberta": TokenizerFamily(("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")),
    "open_clip_xlm_roberta": TokenizerFamily(
        ("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), cleaning=OPEN_CLIP_CASED
    ),
}
EXPECTED_FILES: dict[TokenizerKind, str] = {
    "clip": f"{FILE}, {VOCABULARY} with {MERGES}, {' or '.join(OPENAI_MERGE_FILES)}",
    "open_clip": f"{FILE}, {VOCABULARY} with {MERGES}, {' or '.join(OPENAI_MERGE_FILES)}",
    "siglip": f"{FILE} or {SENTENCEPIECE_MODEL}",
    "siglip2": FILE,
    "bert": f"{FILE} or {WORDPIECE_VOCABULARY}",
    "xlm_roberta": FILE,
    "open_clip_xlm_roberta": FILE,
}


def tokenizer_from_folder(
    folder: Path, kind: TokenizerKind, context_length: int, full_length: bool | None = None
) -> Tokenizer:
    """Load the tokenizer beside a checkpoint of another project.

    Args:
        folder: with ``tokenizer.json`` or the older vocabulary files.
        kind: the family, according to the checkpoint's config; ``siglip`` recognizes ``siglip2`` by its vocabulary.
        context_length: number of the network's positions. A shorter ``model_max_length`` in ``tokenizer_config.json``
            takes precedence where padding is masked.
        full_length: whether the network attends to padding; by default as in its family.

    Raises:
        ModelError: the folder has no vocabulary, or one that is damaged or of another family.
    """
    config = _read_config(folder)
    backend = _read_vocabulary(folder, kind, config)
    if kind == "siglip" and isinstance(backend.model, BPE):
        # SigLIP 2, whose config says siglip, too. Its tokenizer class has several names, but is never a unigram model.
        kind = "siglip2"
    family = TOKENIZER_FAMILIES[kind]
    full_length = family.full_length if full_length is None else full_length
    limit = config.get("model_max_length")
    if isinstance(limit, int | float) and not full_length:  # a missing limit is written as a huge number
        context_length = int(min(context_length, limit))
    end_id = _token_id(folder, backend, config, family.end)
    pad_id = _token_id(folder, backend, config, family.pad)
    if kind == "clip":
        pad_id = min(pad_id, end_id)  # some of these networks pool at the highest id
    settings = TokenizerSettings(
        context_length=context_length,
        end_id=end_id,
        start_id=None if family.start is None else _token_id(folder, backend, config, family.start),
        pad_id=pad_id,
        padding="full" if full_length else "longest",
        cleaning=family.cleaning,
    )
    return Tokenizer(backend, settings)


def _read_vocabulary(folder: Path, kind: TokenizerKind, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    if (folder / FILE).is_file():
        return read_backend(folder / FILE)
    if kind in ("clip", "open_clip"):
        if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
            return clip_bpe.from_vocabulary_and_merges(folder / VOCABULARY, folder / MERGES)
        for name in OPENAI_MERGE_FILES:
            if (folder / name).is_file():
                return clip_bpe.from_openai_merges(folder / name)
    if kind == "siglip" and (folder / SENTENCEPIECE_MODEL).is_file():
        return sentence_piece.from_model_file(folder / SENTENCEPIECE_MODEL)
    if kind == "bert" and (folder / WORDPIECE_VOCABULARY).is_file():
        return word_piece.from_vocabulary_file(folder / WORDPIECE_VOCABULARY, config)
    advice = "copy it from where the model came from"
    if kind == "open_clip":
        advice = (
            f"the default vocabulary is the file {OPENAI_MERGE_FILES[0]} of the package open_clip_torch: copy it there"
        )
    raise ModelError(f"{folder}: has no tokenizer (looked for {EXPECTED_FILES[kind]}); {advice}")


def _read_config(folder: Path) -> dict[str, Any]:
    """Merge the tokenizer's small files; ``tokenizer_config.json`` takes precedence. Special tokens are plain text."""
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


def _token_id(folder: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: tuple[str, str]) -> int:
    entry, default = special
    name = str(config.get(entry) or default)
    token = backend.token_to_id(name)
    if token is None:
        raise ModelError(f"{folder}: the tokenizer's vocabulary has no {name}, so it is not the one of this model")
    return token


def write_tokenizer(tokenizer: Tokenizer, folder: Path, family: TokenizerFamily) -> str:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as transformers reads them, with the text cleaning.

    Returns:
        The step that the files can't express, as a participle: ``"repaired"``, or nothing.
    """
    settings, backend = tokenizer.settings, tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    steps = [CLEANING[step] for step in settings.cleaning if step in CLEANING]
    if steps:
        backend.normalizer = normalizers.Sequence(
            [step() for step in steps] + ([backend.normalizer] if backend.normalizer else [])
        )
    # Where padding is masked, use the family's pad token: an ordinary token would be misleading.
    masked = settings.padding == "longest" and family.pad[1] == family.end[1]
    end = backend.id_to_token(settings.end_id)
    pad = end if masked else backend.id_to_token(settings.pad_id)
    start = None if settings.start_id is None else backend.id_to_token(settings.start_id)
    specials = [(end, settings.end_id)] + ([] if start is None else [(start, settings.start_id)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start or ''} $A {end}".strip(), special_tokens=specials
    )
    backend.add_special_tokens([token for token, _ in specials])
    backend.save(str(folder / FILE))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings.context_length,
        "padding_side": "right",
        family.end[0]: end,
        "pad_token": pad,
    }
    if family.start is not None and start is not None:
        config[family.start[0]] = start
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return "repaired" if "repair" in settings.cleaning else ""


# The cleaning steps that tokenizer.json can express.
CLEANING: dict[Step, Callable[[], Any]] = {
    "lower": normalizers.Lowercase,
    "no_punctuation": lambda: normalizers.Replace(Regex(f"[{re.escape(punctuation)}]"), ""),
    "single_spaces": lambda: normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]),
}
