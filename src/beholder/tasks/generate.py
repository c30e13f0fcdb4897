"""ImageGenerator: pictures from sentences, from other pictures, and from embeddings."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from beholder.errors import InvalidSetting, ModelError, ModelNotFound
from beholder.runtime.precision import Precision, check_precision
from beholder.tasks.generator_backend import Drawer, DrawingRequest, GeneratorBackend, OnStep
from beholder.tasks.inputs import text_list
from beholder.tasks.origin import Origin, Reloadable

if TYPE_CHECKING:
    import numpy as np

    from beholder.pictures.read import ImageSource
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.pipeline_backend import LatentBackend

MOST_STEPS = 1000
MOST_PICTURES = 1000  # of a call
LARGEST_SEED = 2**63 - 1
DEFAULT_RERANKER = "mini"  # of a generator without a dual encoder of its own


@dataclass(frozen=True, eq=False)
class GeneratedPicture:
    """A picture that was drawn.

    Attributes:
        picture: itself.
        seed: with which the same call, with a count of 1 and without other candidates, draws it again.
        cosine: of its embedding with what was asked for; None without a dual encoder.
        match: the probability that the text fits it; None without a text, or if the dual encoder is not calibrated.
    """

    picture: Image.Image
    seed: int
    cosine: float | None = None
    match: float | None = None


class ImageGenerator(Reloadable):
    """Draws pictures; created by `from_pretrained`.

    Args:
        backend: the model.
        reranker: the dual encoder that chooses among candidates; by default the backend's own.
    """

    def __init__(self, backend: GeneratorBackend, reranker: DualEncoder | None = None):
        self.backend = backend
        self.reranker = reranker

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        precision: Precision = "exact",
        reranker: str | Path | None = None,
        ip_adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
    ) -> ImageGenerator:
        """Load a folder that ``beholder train generator`` wrote, or a pipeline of diffusers.

        Pipelines are Stable Diffusion and SDXL, with their Turbo kin (``steps=1, guidance=1``), and Kandinsky 2.2's
        decoder, in a folder with a ``model_index.json`` and safetensors. Stable Diffusion and SDXL draw texts, and
        pictures with an IP-Adapter; Kandinsky's decoder draws pictures.

        On the CPU, with a precision other than ``"exact"``, the networks that are evaluated at each step are compiled
        by OpenVINO on first use, if it is installed. If compilation fails, a warning says why and they run in torch.

        Args:
            name: a folder, a hub id, or ``"mini"``.
            device: where to run; by default the fastest available.
            precision: how close what a network predicts at each step must be to what it predicts in single precision.
                ``"exact"``: in torch, in single precision. ``"fast"``: a cosine of at least 0.9999. ``"fastest"``: at
                least 0.999. The fastest configuration within that bound is measured on first use on this processor, and
                remembered. On a GPU, all are in single precision.
            reranker: the dual encoder that chooses among candidates: a name, a folder or a hub id. By default the one
                that the generator was trained with; for a pipeline, ``mini`` where there are candidates.
            ip_adapter: for Stable Diffusion and SDXL, the safetensors of an IP-Adapter that takes one embedding of a
                picture.
            image_encoder: the folder of the image tower of transformers that embeds pictures for an IP-Adapter, by
                default ``image_encoder`` beside its file; for Kandinsky's decoder, that of its prior.

        Raises:
            ModelNotFound: there is no such model.
            ModelError: it holds no image generator, or half of one.
            MissingExtra: it holds a pipeline, and diffusers is not installed.
        """
        from beholder.runtime.device import has_accelerator
        from beholder.runtime.engine import available
        from beholder.tasks.dual_encoder import DualEncoder

        precision = check_precision(precision)
        origin = Origin(
            name,
            device=device,
            precision=precision,
            reranker=reranker,
            ip_adapter=ip_adapter,
            image_encoder=image_encoder,
        )
        if not (device == "cpu" or (device is None and not has_accelerator())) or not available():
            precision = "exact"
        backend = _load_backend(name, device, precision, ip_adapter, image_encoder)
        encoder = None if reranker is None else DualEncoder.from_pretrained(reranker, device=device)
        return cls(backend, encoder)._loaded_from(origin)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.backend.name

    @property
    def fingerprint(self) -> str:
        """A hexadecimal hash of everything that determines a picture."""
        return self.backend.fingerprint

    def generate(self, text: str | None = None, **options: Any) -> list[Image.Image]:
        """Draw pictures; each has its ``seed``, ``cosine`` and ``match`` in its ``info`` (`GeneratedPicture`).

        The options are those of `plan`.
        """
        pictures = []
        for each in self.stream(text, **options):
            each.picture.info.update(seed=each.seed, cosine=each.cosine, match=each.match)
            pictures.append(each.picture)
        return pictures

    def stream(
        self, text: str | None = None, *, on_step: OnStep | None = None, **options: Any
    ) -> Iterator[GeneratedPicture]:
        """Draw pictures, each returned when it is done.

        Args:
            text: what the pictures are to show.
            on_step: called at each step with its number, the number of steps, and a function that returns the picture
                as it is by then.
            options: those of `plan`.
        """
        return self.plan(text, **options).run(on_step)

    def plan(
        self,
        text: str | None = None,
        *,
        like: Iterable[ImageSource] | ImageSource = (),
        minus: Iterable[str] | str = (),
        embedding: np.ndarray | None = None,
        count: int = 1,
        candidates: int = 1,
        guidance: float | None = None,
        steps: int | None = None,
        seed: int | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> GenerationPlan:
        """Check what is to be drawn, and return it; nothing is drawn yet.

        What is given is added up: a text and pictures together ask for a picture between them, and ``minus`` takes away
        from it, as in "this picture − night + day".

        Args:
            text: what the pictures are to show.
            like: pictures that they are to resemble.
            minus: texts of what they are not to show.
            embedding: (E,), such as `DualEncoder.embed_images` returns.
            count: number of pictures.
            candidates: how many are drawn for each of them; the one is kept whose embedding is nearest to what was
                asked for.
            guidance: how closely to follow; 1 is without guidance. By default the model's own.
            steps: of the sampling. By default the model's own.
            seed: of the first candidate, from which the others count up; by default a random one.
            size: side, or width and height, in pixels. By default the model's own.

        Raises:
            InvalidSetting: nothing is asked for, or an argument has an invalid value.
            PictureError: a picture can't be used.
        """
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise InvalidSetting(
                "text must be a sentence; it is empty" if isinstance(text, str) else "text must be a str"
            )
        wanted, unwanted = _read_pictures(like), text_list(minus, "minus")
        if any(not each.strip() for each in unwanted):
            raise InvalidSetting("minus must be a sentence; it is empty")
        if text is None and not wanted and embedding is None:
            raise InvalidSetting("nothing to draw: give a text, a picture that it is to be like, or an embedding")
        for name, value, most in (("count", count, MOST_PICTURES), ("candidates", candidates, MOST_PICTURES)):
            _check_count(name, value, most)
        if steps is not None:
            _check_count("steps", steps, MOST_STEPS)
        if guidance is not None and not 0 <= guidance <= 100:
            raise InvalidSetting(f"guidance {guidance} must be between 0 and 100")
        if seed is None:
            seed = random_seed()
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED - count * candidates:
            raise InvalidSetting(f"seed {seed!r} must be an integer between 0 and {LARGEST_SEED}")
        request = DrawingRequest(text, wanted, unwanted, embedding, steps, guidance, _size(size))
        drawer = self.backend.prepare(request)
        scorer = self._scorer(candidates)
        if scorer is not None and scorer is not self.backend.encoder:
            request = replace(request, embedding=None)  # it is of another space
            if text is None and not wanted:
                if candidates > 1:
                    raise InvalidSetting("candidates of an embedding: only the generator's own dual encoder can choose")
                scorer = None
        return GenerationPlan(drawer, request, scorer, count, candidates, seed)

    def _scorer(self, candidates: int) -> DualEncoder | None:
        """Return the dual encoder that scores drawings; None if there is none and none is needed."""
        from beholder.tasks.dual_encoder import DualEncoder

        if self.reranker is None and self.backend.encoder is None and candidates > 1:
            self.reranker = DualEncoder.from_pretrained(DEFAULT_RERANKER)
        return self.backend.encoder if self.reranker is None else self.reranker


class GenerationPlan:
    """Pictures to draw; created by `ImageGenerator.plan`.

    Args:
        drawer: of the request, which has been checked.
        request: what the drawings are compared with.
        encoder: scores what is drawn; None for no scores.
        count: number of pictures.
        candidates: drawn for each of them.
        seed: of the first candidate.
    """

    def __init__(
        self,
        drawer: Drawer,
        request: DrawingRequest,
        encoder: DualEncoder | None,
        count: int,
        candidates: int,
        seed: int,
    ):
        self.drawer = drawer
        self.request = request
        self.encoder = encoder
        self.seeds = [range(first, first + candidates) for first in range(seed, seed + count * candidates, candidates)]

    def run(self, on_step: OnStep | None = None) -> Iterator[GeneratedPicture]:
        """Draw the pictures, each returned when it is done."""
        for seeds in self.seeds:
            yield best([self.draw(seed, on_step) for seed in seeds])

    def draw(self, seed: int, on_step: OnStep | None = None) -> GeneratedPicture:
        """Draw one candidate and score it."""
        return self._score(self.drawer.draw(seed, on_step), seed)

    @cached_property
    def _target(self) -> np.ndarray | None:
        """The embedding (E,) that a good picture has: of the text if there is one, else of the pictures."""
        import numpy as np

        encoder, request = self.encoder, self.request
        if encoder is None:
            return None
        if request.text is not None:
            return encoder.embed_texts([request.text])[0]
        parts = [encoder.embed_images(list(request.like)).sum(0)] if request.like else []
        parts += [] if request.embedding is None else [request.embedding / np.linalg.norm(request.embedding)]
        total = np.sum(parts, axis=0)
        return total / max(float(np.linalg.norm(total)), 1e-12)

    def _score(self, picture: Image.Image, seed: int) -> GeneratedPicture:
        encoder, target = self.encoder, self._target
        if encoder is None or target is None:
            return GeneratedPicture(picture, seed)
        embedding = encoder.embed_images([picture])
        match, text = None, self.request.text
        if text is not None and encoder.calibrated:
            match = float(encoder.match(embedding, target[None], [text])[0, 0])
        return GeneratedPicture(picture, seed, float(embedding[0] @ target), match)


def best(candidates: Sequence[GeneratedPicture]) -> GeneratedPicture:
    """Return the candidate that is nearest to what was asked for; the first where there are no scores."""
    return max(candidates, key=lambda each: -2.0 if each.cosine is None else each.cosine)


def random_seed() -> int:
    """Return a seed that leaves room for those that count up from it."""
    return secrets.randbelow(2**31)


def _load_backend(
    name: str | Path,
    device: str | None,
    precision: Precision,
    ip_adapter: str | Path | None,
    image_encoder: str | Path | None,
) -> GeneratorBackend:
    from beholder.runtime.compiled_unclip import COMPILED_UNCLIP
    from beholder.tasks.unclip_backend import UnclipBackend
    from beholder.weights import mini_generator

    adapted = ip_adapter is not None or image_encoder is not None
    compiled = None if precision == "exact" or adapted else COMPILED_UNCLIP.find(name)
    if compiled is not None:
        return UnclipBackend(compiled, precision=precision)
    from beholder.weights.load import error_context
    from beholder.weights.native_generator import load_image_generator
    from beholder.weights.sources import find_image_generator, is_pipeline

    folder = mini_generator.folder() if name == "mini" else find_image_generator(name)
    with error_context(name):
        if is_pipeline(folder):
            shown = folder.absolute().name if Path(name).expanduser().is_dir() else str(name)
            pipeline = _pipeline_backend(folder, shown, device, ip_adapter, image_encoder)
            if precision != "exact":
                try:
                    pipeline.compile(folder, precision)
                except (ModelError, OSError) as error:
                    _warn_of_torch(name, error)
            return pipeline
        if adapted:
            raise InvalidSetting("ip_adapter and image_encoder are for pipelines of diffusers")
        loaded = load_image_generator(folder)
        if precision != "exact":
            try:
                compiled = COMPILED_UNCLIP.find(folder) or COMPILED_UNCLIP.compile(loaded, folder)
            except (ModelError, OSError) as error:  # such as a full disk
                _warn_of_torch(name, error)
        return UnclipBackend(loaded, device) if compiled is None else UnclipBackend(compiled, precision=precision)


def _warn_of_torch(name: str | Path, error: Exception) -> None:
    warnings.warn(f"{name} could not be compiled, so it is slower: {error}", stacklevel=4)


def _pipeline_backend(
    folder: Path, name: str, device: str | None, ip_adapter: str | Path | None, image_encoder: str | Path | None
) -> LatentBackend:
    from beholder.tasks.kandinsky_backend import KandinskyBackend
    from beholder.tasks.pipeline_backend import PipelineBackend
    from beholder.weights.diffusers_pipeline import load_pipeline
    from beholder.weights.image_prompts import load_image_prompt_encoder, load_ip_adapter

    tower = None if image_encoder is None else Path(image_encoder).expanduser()
    if tower is not None and not tower.is_dir():
        raise ModelNotFound(f"image_encoder {image_encoder}: no such folder")
    adapter = None if ip_adapter is None else load_ip_adapter(Path(ip_adapter).expanduser(), tower)
    loaded = load_pipeline(folder, name)
    if loaded.kind != "KandinskyV22Pipeline":
        if adapter is None and tower is not None:
            raise InvalidSetting("image_encoder: without an IP-Adapter, this pipeline does not take pictures")
        return PipelineBackend(loaded, device, adapter)
    if adapter is not None:
        raise InvalidSetting("ip_adapter: Kandinsky's decoder takes pictures without one")
    if tower is None:
        raise ModelNotFound(f"{name}: name the folder of the image tower, that of Kandinsky's prior (image_encoder)")
    return KandinskyBackend(loaded, load_image_prompt_encoder(tower), device)


def _read_pictures(like: Iterable[ImageSource] | ImageSource) -> Sequence[Image.Image]:
    from beholder.pictures.read import display_name, read_picture
    from beholder.tasks.pictures import is_one_image

    sources = [like] if is_one_image(like) else like
    return [read_picture(each, name=display_name(each, row)) for row, each in enumerate(sources)]  # type: ignore[arg-type]


def _check_count(name: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidSetting(f"{name} {value!r} must be an integer between 1 and {most}")


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 8 <= side <= 8192 for side in sides):
        raise InvalidSetting(f"size {size!r} must be a number of pixels between 8 and 8192, or width and height")
    return sides[0], sides[1]
