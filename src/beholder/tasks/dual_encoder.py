"""DualEncoder: pictures and sentences in one vector space, for people who have files and words."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import InvalidSetting, ModelError, NotFinite, PictureError
from beholder.pictures.read import Limits
from beholder.runtime.pipeline import batches
from beholder.runtime.precision import Precision, check_precision
from beholder.runtime.towers import Towers, torch_towers
from beholder.tasks.classify import choose, judge, label_prompts
from beholder.tasks.pictures import Picture, image_list, preprocess_batches
from beholder.text.templates import SINGLE

if TYPE_CHECKING:
    from beholder.models.dual_encoder import TwoTowers
    from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder
    from beholder.weights.loaded import LoadedDualEncoder


@dataclass(frozen=True)
class EmbeddedPicture:
    """One picture of a stream: its place in the call, its name, and its vector (E,) or the error that kept it out."""

    index: int
    name: str
    embedding: np.ndarray | None
    error: PictureError | None


class DualEncoder:
    """A picture tower and a text tower over one space of E dimensions.

    Made by `from_pretrained`. All vectors are float32 of unit length, so that a dot product is a cosine.

    Args:
        loaded: the network with its preprocessing, tokenizer and calibration, or what was compiled of it.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; the fastest there is by default. What was compiled runs
            on the CPU.
        precision: how near the vectors have to be to those of the network in single precision (`from_pretrained`).
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
        allow_pickle: bool = False,
    ) -> DualEncoder:
        """Loads ``"mini"``, a folder, or a hub id such as ``"openai/clip-vit-base-patch32"``.

        Args:
            name: what to load.
            device: where to run; the fastest there is by default.
            precision: how near the vectors have to be to those of the network in single precision. ``"exact"``: equal
                to 1e-5. ``"fast"``: a cosine of at least 0.9999 with them. ``"fastest"``: at least 0.999. What is
                the fastest within that is measured the first time on this processor or GPU, and remembered.
            revision: for a hub id, the branch, tag or commit; one commit serves all files.
            allow_pickle: read weights from a pickle (with ``weights_only``) where there are no safetensors.

        On the CPU, a model that was compiled (`compile`) is taken from there and starts in a fraction of the time.
        ``"mini"`` is compiled on first use where OpenVINO is installed, and so is any model that is to be faster than
        exact. On a GPU, ``"fastest"`` compiles the picture tower by ``torch.compile``, in up to a minute, and starts a
        few pictures as a CUDA graph. Where compiling fails, a warning says why and the network runs as it is.

        Raises:
            InvalidSetting: the precision is none of these, or the device can't be used.
            ModelNotFound: nothing is there.
            WeightsMismatch: a tensor is missing, unexpected or of another shape.
            DownloadFailed: a part could not be fetched.
        """
        from beholder.runtime.compiled_dual_encoder import compile_dual_encoder, find_compiled_dual_encoder
        from beholder.runtime.device import has_accelerator
        from beholder.runtime.engine import available

        precision = check_precision(precision)
        on_cpu = device == "cpu" or (device is None and not has_accelerator())
        compiled = find_compiled_dual_encoder(name) if on_cpu else None
        to_compile = compiled is None and on_cpu and available() and (name == "mini" or precision != "exact")
        if to_compile:
            folder = _to_compile(name, revision, allow_pickle)
            compiled = find_compiled_dual_encoder(folder)
        if compiled is not None:
            return cls(compiled, precision=precision)
        from beholder.weights.load import load_dual_encoder

        loaded = load_dual_encoder(name, revision=revision, allow_pickle=allow_pickle)
        if to_compile:
            try:
                return cls(compile_dual_encoder(loaded, folder), precision=precision)
            except (ModelError, OSError) as error:  # such as a disk that is full
                warnings.warn(f"{name} could not be compiled, so it is slower: {error}", stacklevel=2)
        return cls(loaded, device, precision)

    @staticmethod
    def compile(
        name: str | Path,
        *,
        precision: Precision = "exact",
        revision: str | None = None,
        allow_pickle: bool = False,
    ) -> DualEncoder:
        """Compiles a model for this processor, once; `from_pretrained` then takes that.

        Exact vectors stay the same to 1e-5.

        Raises:
            ModelError: OpenVINO is not installed, or the network can't be compiled or would give other vectors.
        """
        from beholder.runtime.compiled_dual_encoder import compile_dual_encoder, find_compiled_dual_encoder

        precision = check_precision(precision)
        folder = _to_compile(name, revision, allow_pickle)
        compiled = find_compiled_dual_encoder(folder)
        if compiled is None:
            from beholder.weights.load import load_dual_encoder

            loaded = load_dual_encoder(name, revision=revision, allow_pickle=allow_pickle)
            compiled = compile_dual_encoder(loaded, folder)
        return DualEncoder(compiled, precision=precision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that `from_pretrained` loads again bit for bit, with a model card."""
        from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder
        from beholder.weights.ours import save_dual_encoder

        loaded = self.loaded
        save_dual_encoder(loaded.loaded if isinstance(loaded, CompiledDualEncoder) else loaded, Path(folder))

    @property
    def fingerprint(self) -> str:
        """What decides a vector, in hexadecimal: only vectors of the same fingerprint may be compared."""
        from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder

        if isinstance(self.loaded, CompiledDualEncoder):
            return self.loaded.fingerprint
        from beholder.weights.ours import fingerprint

        return fingerprint(self.loaded)

    @property
    def calibrated(self) -> bool:
        """Whether the model can say how sure it is that a sentence fits (`match`)."""
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
    ) -> Iterator[EmbeddedPicture]:
        """Embeds pictures one after the other; one that can't be used is reported in its place and the rest go on.

        Args:
            images: paths, bytes, PIL images, arrays (H, W, 3); addresses where ``allow_urls``.
            batch_size: pictures that go through the network together; by default what suits the device. On a GPU a
                batch that is too large for its memory is computed in halves.
            exact: decode large JPEGs in full. Otherwise they are decoded at reduced scale, several times faster, with
                a vector that differs by less than the photograph's own noise.
            allow_urls: fetch http(s) addresses.
            limits: the caps on pixels, bytes and sides.
            features: give what the picture tower pools (D,), before its head: what a linear probe looks at.
        """
        stream = preprocess_batches(
            images,
            self.loaded.preprocessing,
            batch_size=batch_size or self.towers.batch,
            exact=exact,
            allow_urls=allow_urls,
            limits=limits,
        )
        for batch in stream:
            vectors: Iterator[np.ndarray] = iter(())
            if batch.pixels is not None:
                embed = self.towers.pooled_image if features else self.towers.embed_image
                vectors = iter(embed(batch.pixels))
            for index, name, error in batch.pictures:
                vector = None if error else finite(next(vectors), name)
                yield EmbeddedPicture(index, name, vector, error)

    def embed_images(
        self,
        images: Iterable[Picture] | Picture,
        *,
        batch_size: int | None = None,
        exact: bool = False,
        allow_urls: bool = False,
        limits: Limits | None = None,
    ) -> np.ndarray:
        """Vectors (n, E) of n pictures, float32, unit length; the arguments are those of `stream_images`.

        Raises:
            PictureError: a picture can't be used (`stream_images` goes on with the rest).
        """
        vectors = []
        stream = self.stream_images(
            image_list(images), batch_size=batch_size, exact=exact, allow_urls=allow_urls, limits=limits
        )
        for picture in stream:
            if picture.error is not None:
                raise picture.error
            vectors.append(picture.embedding)
        return np.stack(vectors) if vectors else np.zeros((0, self.towers.embedding), np.float32)  # type: ignore[arg-type]

    def embed_texts(self, texts: Iterable[str] | str, *, batch_size: int | None = None) -> np.ndarray:
        """Vectors (n, E) of n sentences, float32, unit length.

        Sentences of like length are computed together, ``batch_size`` at a time, so that little padding is; by default
        what suits the device.
        """
        sentences = [texts] if isinstance(texts, str) else list(texts)
        result = np.zeros((len(sentences), self.towers.embedding), np.float32)
        order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
        for rows in batches(order, batch_size or self.towers.batch):
            tokens = self.loaded.tokenizer([sentences[row] for row in rows], numbers=[row + 1 for row in rows])
            result[rows] = finite(self.towers.embed_text(tokens.ids, tokens.mask), "the sentences")
        return result

    def similarity(self, images: Iterable[Picture] | Picture, texts: Iterable[str] | str) -> np.ndarray:
        """Cosines (n_images, n_texts)."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def match(self, image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
        """How sure it is that each sentence fits each picture: (n, m) probabilities at even odds.

        From the calibration that the model carries, or, for a network trained by SigLIP's loss, from its own logits.

        Raises:
            ModelError: the model has neither.
        """
        cosines = image_embeddings @ text_embeddings.T
        if self.loaded.calibration is not None:
            return self.loaded.calibration.match(image_embeddings, cosines)
        if self.towers.bias is None:
            raise ModelError(
                f"{self.loaded.name}: this model carries no calibration, so it can't say how sure it is; "
                "fit one with beholder.evaluation.calibration.fit_calibration on pictures whose captions you know"
            )
        logits = cosines * self.towers.scale + self.towers.bias
        return 1 / (1 + np.exp(-logits))

    def embed_labels(self, labels: Sequence[str], templates: Sequence[str] = SINGLE) -> np.ndarray:
        """One vector per label (L, E): the mean over the templates, brought back to unit length.

        Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, section 3.1.4.
        """
        vectors = self.embed_texts(label_prompts(labels, templates)).reshape(len(labels), len(templates), -1)
        mean = vectors.mean(axis=1)
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
        """Which label fits the picture, without any training: (label, probability), best first.

        Args:
            image: one picture.
            labels: the choice.
            template: the sentence around a label, such as ``"a photo of a {}"``, or several to average over.
            none: leave room for "none of these".
            multi: judge each label by itself; the probabilities need not add up to 1.

        Raises:
            InvalidSetting: no labels, or a template without a place for the label.
            ModelError: ``none`` or ``multi`` on a model without a calibration.
        """
        templates = (template,) if isinstance(template, str) else tuple(template)
        label_vectors = self.embed_labels(labels, templates)
        return self.classify_embeddings(self.embed_images([image]), labels, label_vectors, none=none, multi=multi)[0]

    def classify_embeddings(
        self,
        image_embeddings: np.ndarray,
        labels: Sequence[str],
        label_embeddings: np.ndarray,
        *,
        none: bool = False,
        multi: bool = False,
    ) -> list[list[tuple[str, float]]]:
        """`classify` for vectors that are there already: for each picture (label, probability), best first."""
        if none and multi:
            raise InvalidSetting("none and multi exclude each other: judged one by one, no label need fit anyway")
        if multi:
            return judge(self.match(image_embeddings, label_embeddings), labels)
        logits = image_embeddings @ label_embeddings.T * self.towers.scale
        fits = self.match(image_embeddings, label_embeddings) if none else None
        return choose(logits, labels, fits)


def finite(vectors: np.ndarray, name: str) -> np.ndarray:
    """The vectors, unless one holds NaN or infinity."""
    if not np.isfinite(vectors).all():
        raise NotFinite(f"{name}: the network gave NaN or infinity; its weights may be damaged (beholder doctor MODEL)")
    return vectors


def _to_compile(name: str | Path, revision: str | None, allow_pickle: bool) -> str | Path:
    """What a model is compiled under: ``"mini"``, or a folder; that of a hub id is of one commit, so stands for it."""
    from beholder.weights.sources import find

    return name if name == "mini" else find(name, revision=revision, allow_pickle=allow_pickle)
