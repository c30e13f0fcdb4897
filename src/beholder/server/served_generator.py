"""Image generators behind the server, each with a thread of its own, which draws one picture after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from beholder.server.http_errors import HTTPError
from beholder.server.served_models import PictureReader
from beholder.server.worker import Job, Worker

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.tasks.generate import GeneratedPicture, GenerationPlan, ImageGenerator

MAX_PENDING_PREVIEWS = 8  # of a request; a client that reads slowly sees fewer of them


@dataclass(frozen=True)
class DrawingParams:
    """What a request asks for; the options are those of `ImageGenerator.plan`.

    Attributes:
        text: What to draw; None for variations of pictures.
        minus: What not to draw.
        count: Number of pictures.
        candidates: Drawn for each of them.
        seed: Of the first candidate.
        steps: Of the sampling; None for the model's own number.
        guidance: None for the model's own.
        size: Width and height; None for the model's own.
        previews: Pictures shown while a candidate is being drawn.
    """

    text: str | None
    minus: tuple[str, ...]
    count: int
    candidates: int
    seed: int
    steps: int | None
    guidance: float | None
    size: tuple[int, int] | None
    previews: int = 0


@dataclass(frozen=True, eq=False)
class Started:
    """The request is valid: the response may start."""


@dataclass(frozen=True, eq=False)
class Preview:
    """A picture as it is after a step: its number in the request, the number of the preview, and the step's number."""

    index: int
    number: int
    step: int
    steps: int
    picture: Image


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture that is done: the best of its candidates, and its number in the request."""

    index: int
    generated: GeneratedPicture


DrawingEvent = Started | Preview | Drawn


class ServedGenerator:
    """An image generator with its thread. A batch is one drawing, so that clients take turns after each."""

    def __init__(self, reader: PictureReader, name: str, model: ImageGenerator):
        self.name = name
        self.model = model
        self.reader = reader
        self.worker = Worker(f"generator {name}", 1, on_batch=reader.metrics.record_batch, share=reader.share)

    async def draw(self, params: DrawingParams, urls: Sequence[str | bytes]) -> AsyncIterator[DrawingEvent]:
        """Yield `Started`, then previews and pictures. Leaving the loop cancels what is not drawn yet.

        Args:
            params: What to draw.
            urls: Of the pictures that it is to resemble, or their bytes.

        Raises:
            InvalidSetting: The model can't draw it.
            PictureError: A picture can't be used.
        """
        from beholder.tasks.generate import best

        like = await self.reader.load(list(urls), None)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[DrawingEvent | Exception] = asyncio.Queue()  # bounded by pictures and previews

        def emit(event: DrawingEvent | Exception) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        plan: list[GenerationPlan] = []  # made with the first drawing, in the model's thread
        candidates: list[GeneratedPicture] = []

        def draw(seeds: list[int], check_cancelled: Callable[[], None]) -> list[None]:
            check_cancelled()
            (seed,) = seeds
            index, candidate = divmod(seed - params.seed, params.candidates)
            if not plan:
                plan.append(self._plan(params, like))
                emit(Started())

            def on_step(step: int, steps: int, picture: Callable[[], Image]) -> None:
                check_cancelled()
                number = preview_number(step, steps, params.previews)
                if number is not None and events.qsize() < MAX_PENDING_PREVIEWS:
                    emit(Preview(index, candidate * params.previews + number, step, steps, picture()))

            candidates.append(plan[0].draw(seed, on_step))
            self.reader.metrics.drawings.labels(self.name).inc()
            if candidate == params.candidates - 1:
                emit(Drawn(index, best(candidates)))
                candidates.clear()
            return [None]

        seeds = list(range(params.seed, params.seed + params.count * params.candidates))
        job = Job(("draw", object()), seeds, draw)
        job.result.add_done_callback(partial(_report_failure, emit))
        try:
            self.worker.submit(job)
            left = params.count
            while left:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                left -= isinstance(event, Drawn)
        finally:
            job.cancelled = True

    def _plan(self, params: DrawingParams, like: Sequence[Any]) -> GenerationPlan:
        for text, param in ((params.text, "prompt"), *((each, "minus") for each in params.minus)):
            if text is not None and self.model.backend.truncates(text):
                message = f"{param} is too long for this model"
                raise HTTPError(400, message, code="context_length_exceeded", param=param)
        return self.model.plan(
            params.text,
            like=like,
            minus=params.minus,
            count=params.count,
            candidates=params.candidates,
            guidance=params.guidance,
            steps=params.steps,
            seed=params.seed,
            size=params.size,
        )


def preview_number(step: int, steps: int, previews: int) -> int | None:
    """Return which preview is shown after a step, from 0; None for none. They are spread evenly, without the last step.

    Args:
        step: From 1.
        steps: Number of steps.
        previews: Number of previews; fewer are shown of fewer steps.
    """
    before, after = (step - 1) * (previews + 1) // steps, step * (previews + 1) // steps
    return after - 1 if after > before and step < steps else None


def _report_failure(emit: Callable[[DrawingEvent | Exception], None], done: Any) -> None:
    error = None if done.cancelled() else done.exception()
    if isinstance(error, Exception):
        emit(error)
