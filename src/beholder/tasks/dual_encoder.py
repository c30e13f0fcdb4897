"""DualEncoder: pictures and sentences in one vector space, for people who have files and words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import InvalidSetting, ModelError, NotFinite, PictureError
from beholder.pictures.read import Limits, Source
from beholder.runtime.pipeline import batches
from beholder.tasks.classify import choose, judge, label_prompts
from beholder.tasks.pictures import prepared, several
from beholder.text.templates import SINGLE

if TYPE_CHECKING:
    from beholder.weights.load import LoadedDualEncoder


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
        loaded: the network with its preprocessing, tokenizer and calibration.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; the fastest there is by default.
    """

    def __init__(self, loaded: LoadedDualEncoder, device: str | None = None):
        from beholder.runtime.device import pick_device

        self.loaded = loaded
        self.device = pick_device(device)
        self.network = loaded.network.to(self.device).eval()

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str | None = None, revision: str | None = None, allow_pickle: bool = False
    ) -> DualEncoder:
        """Loads ``"mini"``, a folder, or a hub id such as ``"openai/clip-vit-base-patch32"``.

        Args:
            name: what to load.
            device: where to run; the fastest there is by default.
            revision: for a hub id, the branch, tag or commit; one commit serves all files.
            allow_pickle: read weights from a pickle (with ``weights_only``) where there are no safetensors.

        Raises:
            ModelNotFound: nothing is there.
            WeightsMismatch: a tensor is missing, unexpected or of another shape.
            DownloadFailed: a part could not be fetched.
        """
        from beholder.weights.load import load_dual_encoder

        return cls(load_dual_encoder(name, revision=revision, allow_pickle=allow_pickle), device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that `from_pretrained` loads again bit for bit, with a model card."""
        from beholder.weights.ours import save_dual_encoder

        save_dual_encoder(self.loaded, Path(folder))

    @property
    def calibrated(self) -> bool:
        """Whether the model can say how sure it is that a sentence fits (`match`)."""
        return self.loaded.calibration is not None or self.network.logit_bias is not None

    def stream_images(
        self,
        images: Iterable[Source],
        *,
        batch_size: int = 16,
        exact: bool = False,
        allow_urls: bool = False,
        limits: Limits | None = None,
    ) -> Iterator[EmbeddedPicture]:
        """Embeds pictures one after the other; one that can't be used is reported in its place and the rest go on.

        Args:
            images: paths, bytes, PIL images, arrays (H, W, 3); addresses where ``allow_urls``.
            batch_size: pictures that go through the network together.
            exact: decode large JPEGs in full. Otherwise they are decoded at reduced scale, several times faster, with
                a vector that differs by less than the photograph's own noise.
            allow_urls: fetch http(s) addresses.
            limits: the caps on pixels, bytes and sides.
        """
        import torch

        stream = prepared(
            images,
            self.loaded.preprocessing,
            batch_size=batch_size,
            exact=exact,
            allow_urls=allow_urls,
            limits=limits,
        )
        for batch in stream:
            vectors: Iterator[np.ndarray] = iter(())
            if batch.pixels is not None:
                with torch.inference_mode():
                    output = self.network.embed_image(torch.from_numpy(batch.pixels).to(self.device))
                vectors = iter(output.float().cpu().numpy())
            for index, name, error in batch.pictures:
                vector = None if error else finite(next(vectors), name)
                yield EmbeddedPicture(index, name, vector, error)

    def embed_images(
        self,
        images: Iterable[Source] | Source,
        *,
        batch_size: int = 16,
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
            several(images), batch_size=batch_size, exact=exact, allow_urls=allow_urls, limits=limits
        )
        for picture in stream:
            if picture.error is not None:
                raise picture.error
            vectors.append(picture.embedding)
        return np.stack(vectors) if vectors else np.zeros((0, self.network.settings.embedding), np.float32)  # type: ignore[arg-type]

    def embed_texts(self, texts: Iterable[str] | str, *, batch_size: int = 64) -> np.ndarray:
        """Vectors (n, E) of n sentences, float32, unit length. Sentences of like length are computed together."""
        import torch

        sentences = [texts] if isinstance(texts, str) else list(texts)
        result = np.zeros((len(sentences), self.network.settings.embedding), np.float32)
        order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
        for rows in batches(order, batch_size):
            tokens = self.loaded.tokenizer([sentences[row] for row in rows], numbers=[row + 1 for row in rows])
            ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
            with torch.inference_mode():
                output = self.network.embed_text(ids.to(self.device), mask.to(self.device))
            result[rows] = finite(output.float().cpu().numpy(), "the sentences")
        return result

    def similarity(self, images: Iterable[Source] | Source, texts: Iterable[str] | str) -> np.ndarray:
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
        if self.network.logit_bias is None:
            raise ModelError(
                f"{self.loaded.name}: this model carries no calibration, so it can't say how sure it is; "
                "fit one with beholder.evaluation.calibration.fit_calibration on pictures whose captions you know"
            )
        logits = cosines * self.network.logit_scale.exp().item() + self.network.logit_bias.item()
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
        image: Source,
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
        return self.label(self.embed_images([image]), labels, label_vectors, none=none, multi=multi)[0]

    def label(
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
        logits = image_embeddings @ label_embeddings.T * self.network.logit_scale.exp().item()
        fits = self.match(image_embeddings, label_embeddings) if none else None
        return choose(logits, labels, fits)


def finite(vectors: np.ndarray, name: str) -> np.ndarray:
    """The vectors, unless one holds NaN or infinity."""
    if not np.isfinite(vectors).all():
        raise NotFinite(f"{name}: the network gave NaN or infinity; its weights may be damaged (beholder doctor MODEL)")
    return vectors
