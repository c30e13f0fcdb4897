"""DualEncoder: images and texts in one embedding space."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import InvalidSetting, ModelError, NotFinite
from beholder.files import reported
from beholder.pictures.read import Limits
from beholder.runtime.pipeline import batches
from beholder.runtime.precision import Precision, check_precision
from beholder.runtime.towers import Towers, torch_towers
from beholder.tasks.classify import choose_label, label_prompts, rank_labels
from beholder.tasks.inputs import checked_batch_size, text_list
from beholder.tasks.origin import Origin, Reloadable
from beholder.tasks.pictures import FailedPicture, Picture, PreprocessedBatch, image_list, preprocess_batches
from beholder.text.script import is_non_latin
from beholder.text.templates import SINGLE

if TYPE_CHECKING:
    from beholder.models.dual_encoder import TwoTowers
    from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder
    from beholder.text.tokenizer import Tokenizer
    from beholder.weights.loaded import LoadedDualEncoder


@dataclass(frozen=True, eq=False)
class EmbeddedPicture:
    """An embedded picture of a stream: its position in the call, its name, and its embedding (E,)."""

    index: int
    name: str
    embedding: np.ndarray
    error: None = field(default=None, init=False, repr=False)


class DualEncoder(Reloadable):
    """An image tower and a text tower with a joint embedding space of E dimensions.

    Created by `from_pretrained`. All embeddings are float32 of unit length, so that a dot product is a cosine.

    Args:
        loaded: the network with its preprocessing, tokenizer and calibration, or its compiled form.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; by default the fastest available. A compiled model runs
            on the CPU.
        precision: how close embeddings must be to those of the network in single precision (`from_pretrained`).
    """

    def __init__(
        self,
        loaded: LoadedDualEncoder | CompiledDualEncoder,
        device: str | None = None,
        precision: Precision = "exact",
    ):
        from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder, CompiledTowers

        precision = check_precision(precision)
        self.loaded = loaded
        self.towers: Towers
        if isinstance(loaded, CompiledDualEncoder):
            self.towers = CompiledTowers(loaded, precision)
        else:
            from beholder.runtime.device import select_device

            self.towers = torch_towers(loaded, select_device(device), precision)

    @property
    def network(self) -> TwoTowers:
        """The network itself, in torch."""
        return self.loaded.network

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        precision: Precision = "exact",
        revision: str | None = None,
        allow_pickle: bool = True,
    ) -> DualEncoder:
        """Load ``"mini"``, a folder, or a hub id such as ``"openai/clip-vit-base-patch32"``.

        On the CPU, a model that was compiled (`compile`) is loaded in its compiled form, which starts in a fraction of
        the time. ``"mini"`` is compiled on first use if OpenVINO is installed, and so is any model with a precision
        other than ``"exact"``. On a GPU, ``"fastest"`` compiles the image tower with ``torch.compile``, which takes up
        to a minute, and runs small batches as a CUDA graph. If compilation fails, a warning says why and the network
        runs in torch.

        Args:
            name: the model.
            device: where to run; by default the fastest available.
            precision: how close embeddings must be to those of the network in single precision. ``"exact"``: equal to
                1e-5. ``"fast"``: a cosine of at least 0.9999. ``"fastest"``: at least 0.999. The fastest configuration
                within that bound is measured on first use on this processor or GPU, and remembered.
            revision: for a hub id, the branch, tag or commit; all files come from one commit.
            allow_pickle: if there are no safetensors, read a pickle by torch's restricted unpickler, once, and keep it
                as safetensors in the cache. False refuses pickles.

        Raises:
            InvalidSetting: unknown precision, or a device that can't be used.
            ModelNotFound: there is no such model.
            WeightsMismatch: a tensor is missing, unexpected or has another shape.
            DownloadFailed: a file could not be fetched.
        """
        from beholder.runtime.compiled_dual_encoder import COMPILED_DUAL_ENCODER
        from beholder.runtime.device import has_accelerator
        from beholder.runtime.engine import available

        precision = check_precision(precision)
        origin = Origin(name, device=device, precision=precision, revision=revision, allow_pickle=allow_pickle)
        on_cpu = device == "cpu" or (device is None and not has_accelerator())
        compiled = COMPILED_DUAL_ENCODER.find(name) if on_cpu else None
        to_compile = compiled is None and on_cpu and available() and (name == "mini" or precision != "exact")
        if to_compile:
            folder = _folder_to_compile(name, revision, allow_pickle)
            compiled = COMPILED_DUAL_ENCODER.find(folder)
        if compiled is not None:
            return cls(compiled, precision=precision)._loaded_from(origin)
        from beholder.weights.load import load_dual_encoder

        loaded = load_dual_encoder(name, revision=revision, allow_pickle=allow_pickle)
        if to_compile:
            try:
                return cls(COMPILED_DUAL_ENCODER.compile(loaded, folder), precision=precision)._loaded_from(origin)
            except (ModelError, OSError) as error:  # such as a full disk
                warnings.warn(f"{name} could not be compiled, so it is slower: {error}", stacklevel=2)
        return cls(loaded, device, precision)._loaded_from(origin)

    @staticmethod
    def compile(
        name: str | Path,
        *,
        precision: Precision = "exact",
        revision: str | None = None,
        allow_pickle: bool = True,
    ) -> DualEncoder:
        """Compile a model for this processor, once; `from_pretrained` then loads that.

        Exact embeddings stay the same to 1e-5.

        Raises:
            ModelError: OpenVINO is not installed, or the network can't be compiled, or the compiled network would give
                other embeddings.
        """
        from beholder.runtime.compiled_dual_encoder import COMPILED_DUAL_ENCODER

        precision = check_precision(precision)
        origin = Origin(name, device="cpu", precision=precision, revision=revision, allow_pickle=allow_pickle)
        folder = _folder_to_compile(name, revision, allow_pickle)
        compiled = COMPILED_DUAL_ENCODER.find(folder)
        if compiled is None:
            from beholder.weights.load import load_dual_encoder

            loaded = load_dual_encoder(name, revision=revision, allow_pickle=allow_pickle)
            compiled = COMPILED_DUAL_ENCODER.compile(loaded, folder)
        return DualEncoder(compiled, precision=precision)._loaded_from(origin)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` loads again bit for bit, with a model card.

        Raises:
            InvalidSetting: the folder exists and holds something other than a model.
            WriteFailed: it can't be written.
        """
        from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder
        from beholder.weights.native import save_dual_encoder

        loaded = self.loaded
        network = loaded.loaded if isinstance(loaded, CompiledDualEncoder) else loaded
        with reported(Path(folder)):
            save_dual_encoder(network, Path(folder))

    @property
    def fingerprint(self) -> str:
        """A hexadecimal hash of everything that determines an embedding; only embeddings with the same one compare."""
        from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder

        if isinstance(self.loaded, CompiledDualEncoder):
            return self.loaded.fingerprint
        from beholder.weights.native import fingerprint

        return fingerprint(self.loaded)

    @property
    def calibrated(self) -> bool:
        """Whether the model can tell the probability that a text matches an image (`match`)."""
        return self.loaded.calibration is not None or self.towers.bias is not None

    def stream_images(
        self,
        images: Iterable[Picture],
        *,
        batch_size: int | None = None,
        exact: bool = False,
        allow_urls: bool = False,
        limits: Limits | None = None,
        features: bool = False,
    ) -> Iterator[EmbeddedPicture | FailedPicture]:
        """Embed pictures in batches; one that can't be used is returned as a `FailedPicture`, in its place.

        Args:
            images: paths, bytes, PIL images, arrays (H, W, 3); addresses with ``allow_urls``.
            batch_size: pictures per batch; by default what suits the device. On a GPU, a batch that does not fit into
                memory is computed in halves.
            exact: decode large JPEGs at full resolution. Otherwise they are decoded at reduced scale, several times
                faster; the embedding then differs by less than the noise of the photograph.
            allow_urls: fetch http(s) addresses.
            limits: maximum pixels, bytes and sides of a picture.
            features: return the pooled features (D,) of the image tower, before its projection, as a linear probe uses
                them.

        Raises:
            InvalidSetting: ``images`` can't be iterated, or ``batch_size`` is not positive.
        """
        stream = preprocess_batches(
            images,
            self.loaded.preprocessing,
            batch_size=self.towers.batch if batch_size is None else batch_size,
            exact=exact,
            allow_urls=allow_urls,
            limits=limits,
        )
        return self._stream_images(stream, self.towers.pooled_image if features else self.towers.embed_image)

    @staticmethod
    def _stream_images(
        stream: Iterator[PreprocessedBatch], embed: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[EmbeddedPicture | FailedPicture]:
        for batch in stream:
            embeddings: Iterator[np.ndarray] = iter(())
            if batch.pixels is not None:
                embeddings = iter(embed(batch.pixels))
            for index, name, error in batch.pictures:
                if error is not None:
                    yield FailedPicture(index, name, error)
                else:
                    yield EmbeddedPicture(index, name, finite(next(embeddings), name))

    def embed_images(
        self,
        images: Iterable[Picture] | Picture,
        *,
        batch_size: int | None = None,
        exact: bool = False,
        allow_urls: bool = False,
        limits: Limits | None = None,
    ) -> np.ndarray:
        """Return the embeddings (n, E) of n pictures, float32, unit length; arguments as for `stream_images`.

        Raises:
            PictureError: a picture can't be used (`stream_images` continues with the rest).
        """
        embeddings = []
        stream = self.stream_images(
            image_list(images), batch_size=batch_size, exact=exact, allow_urls=allow_urls, limits=limits
        )
        for picture in stream:
            if picture.error is not None:
                raise picture.error
            embeddings.append(picture.embedding)
        return np.stack(embeddings) if embeddings else np.zeros((0, self.towers.embedding), np.float32)

    def embed_texts(self, texts: Iterable[str] | str, *, batch_size: int | None = None) -> np.ndarray:
        """Return the embeddings (n, E) of n texts, float32, unit length.

        Texts of similar length are computed together, ``batch_size`` at a time, to keep padding short; by default what
        suits the device. A model with a second text tower embeds texts in other scripts than Latin by that one.

        Raises:
            InvalidSetting: a text is not a str, or ``batch_size`` is not positive.
        """
        sentences = text_list(texts)
        batch_size = self.towers.batch if batch_size is None else checked_batch_size(batch_size)
        result = np.zeros((len(sentences), self.towers.embedding), np.float32)
        for tokenizer, embed, own in self.by_text_tower(sentences):
            for rows in batches(sorted(own, key=lambda row: len(sentences[row])), batch_size):
                tokens = tokenizer([sentences[row] for row in rows], numbers=[row + 1 for row in rows])
                result[rows] = finite(embed(tokens.ids, tokens.mask), "the texts")
        return result

    def by_text_tower(
        self, texts: Sequence[str]
    ) -> Iterator[tuple[Tokenizer, Callable[[np.ndarray, np.ndarray], np.ndarray], list[int]]]:
        """Yield, for each text tower that embeds any of the texts, its tokenizer, itself, and the texts' rows."""
        second = self._in_second_tower(texts)
        if not second.all():
            yield self.loaded.tokenizer, self.towers.embed_text, np.flatnonzero(~second).tolist()
        if second.any() and self.loaded.multilingual is not None:
            tokenizer = self.loaded.multilingual.tokenizer
            yield tokenizer, self.towers.embed_multilingual_text, np.flatnonzero(second).tolist()

    def _in_second_tower(self, texts: Sequence[str]) -> np.ndarray:
        """Return which of the texts (n,) the second text tower embeds."""
        if self.loaded.multilingual is None:
            return np.zeros(len(texts), bool)
        return np.array([isinstance(text, str) and is_non_latin(text) for text in texts], bool)

    def similarity(self, images: Iterable[Picture] | Picture, texts: Iterable[str] | str) -> np.ndarray:
        """Return the cosine similarities (n_images, n_texts)."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def match(
        self, image_embeddings: np.ndarray, text_embeddings: np.ndarray, texts: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return the probability (n, m) that each text matches each image, at even prior odds.

        It comes from the model's calibration, or, for a network trained with SigLIP's loss, from its own logits.

        Args:
            image_embeddings: (n, E).
            text_embeddings: (m, E).
            texts: the m texts. A model with a second text tower is calibrated separately for the texts of each; without
                them, all count as texts of the first.

        Raises:
            InvalidSetting: the embeddings have other shapes.
            ModelError: the model has neither calibration nor such logits.
        """
        self._check_embeddings(image_embeddings=image_embeddings, text_embeddings=text_embeddings)
        if texts is not None and len(texts) != len(text_embeddings):
            raise InvalidSetting(f"{len(text_embeddings)} text_embeddings for {len(texts)} texts: one for each")
        cosines = image_embeddings @ text_embeddings.T
        if self.loaded.calibration is not None:
            match = self.loaded.calibration.match(image_embeddings, cosines)
            multilingual = self.loaded.multilingual
            if texts is not None and multilingual is not None:
                second = self._in_second_tower(texts)
                if second.any() and multilingual.calibration is not None:
                    match[:, second] = multilingual.calibration.match(image_embeddings, cosines[:, second])
            return match
        if self.towers.bias is None:
            raise ModelError(
                f"{self.loaded.name}: this model has no calibration, so it has no matching probabilities; "
                "fit one with beholder.evaluation.calibration.fit_calibration on pictures with known captions"
            )
        logits = cosines * self.towers.scale + self.towers.bias
        return 1 / (1 + np.exp(-logits))

    def embed_labels(self, labels: Sequence[str], templates: Sequence[str] = SINGLE) -> np.ndarray:
        """Return one embedding per label (L, E): the mean over the templates, normalized to unit length.

        Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, section 3.1.4.
        """
        embeddings = self.embed_texts(label_prompts(labels, templates)).reshape(len(labels), len(templates), -1)
        mean = embeddings.mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def classify(
        self,
        image: Picture,
        labels: Sequence[str],
        template: str | Sequence[str] = SINGLE,
        *,
        none: bool = False,
        multi: bool = False,
    ) -> list[tuple[str, float]]:
        """Classify a picture zero-shot; return (label, probability) pairs, best first.

        Args:
            image: one picture.
            labels: the candidate labels.
            template: the sentence around a label, such as ``"a photo of a {}"``, or several to average over.
            none: add the answer "none of these".
            multi: score each label independently; the probabilities need not add up to 1.

        Raises:
            InvalidSetting: no labels, or a template without a placeholder for the label.
            ModelError: ``none`` or ``multi`` with a model that has no calibration.
        """
        templates = text_list(template, "templates")
        label_embeddings = self.embed_labels(labels, templates)
        return self.classify_embeddings(self.embed_images([image]), labels, label_embeddings, none=none, multi=multi)[0]

    def classify_embeddings(
        self,
        image_embeddings: np.ndarray,
        labels: Sequence[str],
        label_embeddings: np.ndarray,
        *,
        none: bool = False,
        multi: bool = False,
    ) -> list[list[tuple[str, float]]]:
        """Classify embeddings (n, E) of pictures; return each picture's (label, probability) pairs, best first.

        Args:
            image_embeddings: (n, E).
            labels: L names.
            label_embeddings: (L, E), from `embed_labels`.
            none: as for `classify`.
            multi: as for `classify`.

        Raises:
            InvalidSetting: the embeddings have other shapes, or ``none`` and ``multi`` are both set.
            ModelError: ``none`` or ``multi`` with a model that has no calibration.
        """
        if none and multi:
            raise InvalidSetting("none and multi exclude each other: with multi, no label need match anyway")
        self._check_embeddings(image_embeddings=image_embeddings, label_embeddings=label_embeddings)
        if len(labels) != len(label_embeddings):
            raise InvalidSetting(f"{len(label_embeddings)} label_embeddings for {len(labels)} labels: one for each")
        if multi:
            return rank_labels(self.match(image_embeddings, label_embeddings, labels), labels)
        logits = image_embeddings @ label_embeddings.T * self.towers.scale
        match = self.match(image_embeddings, label_embeddings, labels) if none else None
        return choose_label(logits, labels, match)

    def _check_embeddings(self, **embeddings: np.ndarray) -> None:
        for name, values in embeddings.items():
            shape = getattr(values, "shape", None)
            if shape is None or len(shape) != 2 or shape[1] != self.towers.embedding:
                got = type(values).__name__ if shape is None else f"an array {shape}"
                raise InvalidSetting(f"{name} must be an array (n, {self.towers.embedding}), not {got}")


def finite(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return the embeddings.

    Raises:
        NotFinite: one holds NaN or infinity.
    """
    if not np.isfinite(vectors).all():
        raise NotFinite(f"{name}: the network gave NaN or infinity; its weights may be damaged (beholder doctor MODEL)")
    return vectors


def _folder_to_compile(name: str | Path, revision: str | None, allow_pickle: bool) -> str | Path:
    """Return what a model is compiled under: ``"mini"``, or its folder, which for a hub id is that of one commit."""
    from beholder.weights.sources import find_model

    return name if name == "mini" else find_model(name, revision=revision, allow_pickle=allow_pickle)
