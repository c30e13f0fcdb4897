"""``beholder doctor``: checks that a checkpoint gives the same results here as in its reference implementation.

Shapes: B batch, T text tokens, E the shared space.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from beholder.errors import BeholderError
from beholder.evaluation import plausibility
from beholder.evaluation.reference import (
    Reference,
    ReferenceMissingError,
    embed_with_sentence_transformers,
    find_reference,
)
from beholder.pictures.preprocess import preprocess
from beholder.weights import native, sentence_transformers
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.sources import find_model

# Unit vectors of two sound implementations differ by the rounding of float32, some 1e-6; a wrong activation, the
# smallest mistake of settings, moves them by 1e-3 and more.
TOLERANCE = 1e-4

SENTENCES = (
    "a photo of a dog",
    "Two cats sleep on the RED sofa, don't they?",
    "café naïve Straße, 12 candles & 3 friends!",
    "一只猫在沙发上睡觉 🐕",
    "  spaces \n and   lines ",
    "",
    "the end of this sentence is lost " * 20,
)
SIZES = ((640, 480), (481, 641), (224, 224), (97, 61), (300, 140))  # width, height

Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis: ``ok`` is None if the check could not be made, for the reason in ``detail``."""

    check: str
    ok: bool | None
    detail: str


def diagnose(name: str | Path, allow_pickle: bool = True) -> Iterator[Check]:
    """Check a model, yielding one `Check` after another; stops early if the rest makes no sense.

    Args:
        name: ``"mini"``, a folder or a hub id.
        allow_pickle: if there are no safetensors, read a pickle by torch's restricted unpickler, once, and keep it as
                safetensors in the cache. False refuses pickles.
    """
    try:
        root = folder = find_model(name, allow_pickle=allow_pickle)
        yield Check("files", True, str(root))
        loaded = load_dual_encoder(root, allow_pickle=allow_pickle)
        by_sentence_transformers = (root / sentence_transformers.LIST).is_file()
        if by_sentence_transformers:
            folder = sentence_transformers.clip_folder(root)
    except BeholderError as error:
        yield Check("loading", False, str(error))
        return
    tensors = len(loaded.network.state_dict())
    yield Check("loading", True, f"{tensors} tensors, none missing, none left over, all of the right shape")
    yield _attempt("finite weights", _finite_weights, loaded)
    vocabulary = _attempt("vocabulary", _vocabulary, loaded)
    yield vocabulary
    if not vocabulary.ok and loaded.tokenizer.backend.get_vocab_size() > loaded.network.settings.text.vocabulary:
        return  # the network has no vectors for these tokens
    if not (folder / native.CONFIG).is_file():  # any settings are plausible for a model trained here
        yield _attempt("settings", _settings, loaded, folder)
    yield _attempt("pictures in a batch", _pictures_in_a_batch, loaded)
    yield _attempt("sentences in a batch", _sentences_in_a_batch, loaded)
    yield _attempt("padding", _padding, loaded)
    yield from _against_reference(folder, loaded, allow_pickle)
    if by_sentence_transformers:
        yield _attempt("sentence-transformers", _against_sentence_transformers, root, loaded)
    yield _attempt("saving and loading", _saving_and_loading, loaded)


def golden_pictures() -> list[Image.Image]:
    """Return generated pictures of several shapes, smooth with added noise, which expose wrong filters and offsets."""
    pictures = []
    for number, (width, height) in enumerate(SIZES):
        x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
        smooth = np.stack([np.sin(x + y + number), np.cos(2 * x - y), np.sin(x * y)], axis=-1) * 90 + 128
        noise = np.random.default_rng(number).normal(0, 30, smooth.shape)
        pictures.append(Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)))
    return pictures


def _attempt(check: str, run: Callable[..., Verdict], *arguments: object) -> Check:
    """Run a check, or report why it could not run; a failing check does not prevent the others."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # truncated sentences and pictures of extreme shape are intended here
            return Check(check, *run(*arguments))
    except ReferenceMissingError as reason:
        return Check(check, None, str(reason))
    except Exception as error:  # any error of a broken network, here or in the reference
        return Check(check, False, f"{type(error).__name__}: {error}")


def _finite_weights(loaded: LoadedDualEncoder) -> Verdict:
    broken = [name for name, tensor in loaded.network.state_dict().items() if not torch.isfinite(tensor).all()]
    return not broken, f"NaN or infinity in {', '.join(broken)}" if broken else "no NaN, no infinity"


def _vocabulary(loaded: LoadedDualEncoder) -> Verdict:
    faults = list(plausibility.vocabulary_faults(loaded.tokenizer, loaded.network.settings))
    return not faults, "; ".join(faults) or "the tokenizer's equals the network's"


def _settings(loaded: LoadedDualEncoder, folder: Path) -> Verdict:
    faults = [
        *plausibility.activation_faults(loaded.network.settings),
        *plausibility.pixel_faults(loaded.preprocessing, loaded.network.settings),
        *plausibility.contradictions(folder, loaded),
    ]
    return not faults, "; ".join(faults) or plausibility.summary(loaded)


def _pictures_in_a_batch(loaded: LoadedDualEncoder) -> Verdict:
    pictures = golden_pictures()
    alone = torch.cat([_embed_pictures(loaded, [picture]) for picture in pictures])
    return _same(alone, _embed_pictures(loaded, pictures), "each vector equals the one computed alone")


def _sentences_in_a_batch(loaded: LoadedDualEncoder) -> Verdict:
    alone = torch.cat([_embed_sentences(loaded, [sentence]) for sentence in SENTENCES])
    return _same(alone, _embed_sentences(loaded, SENTENCES), "each vector equals the one computed alone")


def _padding(loaded: LoadedDualEncoder) -> Verdict:
    settings = loaded.tokenizer.settings
    if settings.padding == "full":
        return True, f"every sentence is padded to {settings.context_length} tokens, as in training"
    ids, mask = _ids_and_mask(loaded, ("a dog", ""))
    more = (0, settings.context_length - ids.shape[1])
    with torch.inference_mode():
        short = loaded.network.embed_text(ids, mask)
        full = loaded.network.embed_text(pad(ids, more, value=settings.pad_id), pad(mask, more, value=False))
    return _same(short, full, f"up to {settings.context_length} tokens it changes no vector")


def _against_reference(folder: Path, loaded: LoadedDualEncoder, allow_pickle: bool) -> Iterator[Check]:
    try:
        reference = find_reference(folder, loaded, allow_pickle)
    except ReferenceMissingError as reason:
        yield Check("reference implementation", None, str(reason))
        return
    yield _attempt("pixels", _same_pixels, reference, loaded)
    yield _attempt("tokens", _same_tokens, reference, loaded)
    # The two networks get the same input, so that each line names one culprit.
    yield _attempt("image network", _same_picture_vectors, reference, loaded)
    yield _attempt("text network", _same_sentence_vectors, reference, loaded)


def _same_pixels(reference: Reference, loaded: LoadedDualEncoder) -> Verdict:
    differences: list[tuple[float, str]] = []
    for picture in golden_pictures():
        here, there = preprocess(picture, loaded.preprocessing), np.asarray(reference.pixels(picture), np.float32)
        name = f"a picture of {picture.width} x {picture.height}"
        if here.shape != there.shape:
            return False, f"{name} becomes {here.shape} here and {there.shape} in {reference.name}"
        differences.append((float(np.abs(here - there).max()), name))
    worst, where = max(differences)
    return worst <= TOLERANCE, f"{reference.name}: largest difference {worst:.1e}, in {where}"


def _same_tokens(reference: Reference, loaded: LoadedDualEncoder) -> Verdict:
    tokens = loaded.tokenizer(SENTENCES)
    full = loaded.tokenizer.settings.padding == "full"
    for row, there in enumerate(reference.ids(SENTENCES)):
        here = (tokens.ids[row] if full else tokens.ids[row][tokens.mask[row]]).tolist()
        for place, pair in enumerate(zip_longest(here, there), start=1):
            if pair[0] != pair[1]:
                ours, theirs = (_named(loaded, token) for token in pair)
                sentence = SENTENCES[row][:40].strip()
                return False, f'token {place} of "{sentence}" is {ours} here and {theirs} in {reference.name}'
    return True, f"{reference.name}: the same ids for {len(SENTENCES)} sentences"


def _named(loaded: LoadedDualEncoder, token: int | None) -> str:
    return "none" if token is None else f"{token} ({loaded.tokenizer.backend.id_to_token(token)})"


def _same_picture_vectors(reference: Reference, loaded: LoadedDualEncoder) -> Verdict:
    pixels = _pixels(loaded, golden_pictures())
    with torch.inference_mode():
        here, there = loaded.network.embed_image(pixels), reference.embed_images(pixels)
    return _same(here, there, f"given the same pixels, the vectors of {reference.name}")


def _same_sentence_vectors(reference: Reference, loaded: LoadedDualEncoder) -> Verdict:
    ids, mask = _ids_and_mask(loaded, SENTENCES)
    with torch.inference_mode():
        here, there = loaded.network.embed_text(ids, mask), reference.embed_texts(ids, mask)
    return _same(here, there, f"given the same tokens, the vectors of {reference.name}")


def _against_sentence_transformers(root: Path, loaded: LoadedDualEncoder) -> Verdict:
    pictures, sentences = embed_with_sentence_transformers(root, golden_pictures(), SENTENCES)
    for what, here, there in (
        ("pictures", _embed_pictures(loaded, golden_pictures()), pictures),
        ("sentences", _embed_sentences(loaded, SENTENCES), sentences),
    ):
        ok, detail = _same(here, torch.from_numpy(there), f"the vectors of {what}")
        if not ok:
            return ok, detail
    return True, "the vectors of pictures and of sentences are the same"


def _saving_and_loading(loaded: LoadedDualEncoder) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="beholder-doctor-") as scratch:
        native.save_dual_encoder(loaded, Path(scratch) / "model")
        again = load_dual_encoder(Path(scratch) / "model")
        same = native.fingerprint(again) == native.fingerprint(loaded)
    return same, "bit for bit the same" if same else "what was saved and loaded again is different"


def _embed_pictures(loaded: LoadedDualEncoder, pictures: Sequence[Image.Image]) -> Tensor:
    """Unit vectors (B, E)."""
    with torch.inference_mode():
        return loaded.network.embed_image(_pixels(loaded, pictures))


def _embed_sentences(loaded: LoadedDualEncoder, sentences: Sequence[str]) -> Tensor:
    """Unit vectors (B, E)."""
    with torch.inference_mode():
        return loaded.network.embed_text(*_ids_and_mask(loaded, sentences))


def _pixels(loaded: LoadedDualEncoder, pictures: Sequence[Image.Image]) -> Tensor:
    """(B, 3, H, W), or marked patches."""
    return torch.from_numpy(np.stack([preprocess(picture, loaded.preprocessing) for picture in pictures]))


def _ids_and_mask(loaded: LoadedDualEncoder, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(B, T) and (B, T)."""
    tokens = loaded.tokenizer(sentences)
    return torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)


def _same(here: Tensor, there: Tensor, wanted: str) -> Verdict:
    if here.shape != there.shape:
        return False, f"vectors of shape {tuple(here.shape)} here and {tuple(there.shape)} there; wanted: {wanted}"
    difference = (here - there).abs().max().item()
    ok = difference <= TOLERANCE  # false for NaN, too
    return ok, f"{wanted}: largest difference {difference:.1e}" + ("" if ok else f", above {TOLERANCE}")
