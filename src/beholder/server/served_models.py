"""Models behind the server, each with a thread of its own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from beholder.errors import ModelError
from beholder.pictures.url import is_url
from beholder.server.clients import KeyedLimiter, current_client
from beholder.server.decoding_scheduler import DecodingJob, DecodingScheduler, Generation
from beholder.server.fair_share import FairShare
from beholder.server.http_errors import HTTPError
from beholder.server.metrics import Metrics
from beholder.server.picture_loading import AlbumFile, check_count, check_total_bytes, fetch_url, load_pictures
from beholder.server.settings import ServerSettings
from beholder.server.worker import Job, Worker

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from beholder.pictures.preprocess import AnyPreprocessing
    from beholder.tasks.attention_maps import AttentionMaps
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.pictures import Picture
    from beholder.tasks.vision_language import VisionLanguageModel
    from beholder.tasks.vision_language_results import CaptionedPicture

Result = TypeVar("Result")
READER_THREADS = 4  # for uploads and thumbnails
FETCH_THREADS = 16  # for URLs, apart from the others: a slow host must not keep them waiting
MAX_FETCHES_PER_CLIENT = 4
MAX_FETCHES_PER_HOST = 4
TOKENIZER_BATCH = 512
LABEL_CACHE_SIZE = 32


class PictureReader:
    """Threads that fetch and decode pictures.

    Args:
        settings: The server's limits.
        metrics: Counts the pictures.

    Attributes:
        album_file: Returns the file of an album's picture; None while no album is served.
        share: Of each client in the time of all models, which is shared as the threads are.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics):
        self.settings = settings
        self.metrics = metrics
        self.album_file: AlbumFile | None = None
        self.share = FairShare()
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="beholder-read")
        self._fetch_threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="beholder-fetch")
        self._per_client = KeyedLimiter(MAX_FETCHES_PER_CLIENT)
        self._per_host = KeyedLimiter(MAX_FETCHES_PER_HOST)

    async def load(self, urls: Sequence[str | bytes], preprocessing: AnyPreprocessing | None) -> list[Picture]:
        """Return the pictures of a request; raises what `load_pictures` raises."""
        check_count(urls, self.settings)
        fetched = {}
        for index, url in enumerate(urls):
            if isinstance(url, str) and self.settings.allow_urls and is_url(url) and url not in fetched:
                fetched[url] = await self._fetch(url, f"picture {index + 1}")
                check_total_bytes(fetched.values(), self.settings)
        pictures = await self.run(load_pictures, urls, preprocessing, self.settings, self.album_file, fetched)
        self.metrics.pictures.inc(len(pictures))
        return pictures

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that reads files or decodes pictures in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _fetch(self, url: str, name: str) -> bytes:
        async with (
            self._per_client.hold(current_client.get()),
            self._per_host.hold(urlsplit(url).netloc.rpartition("@")[2].lower()),
        ):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._fetch_threads, fetch_url, url, name, self.settings)

    def close(self) -> None:
        """Drop what has not started."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._fetch_threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class CaptionResult:
    """A caption, its image-text matching score, and all candidates; scores only where candidates were ranked."""

    text: str
    score: float | None
    candidates: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen: greedily, or by nucleus sampling where ``top_p`` is given."""

    max_tokens: int
    top_p: float | None = None
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class StreamEnd:
    """The end of an answer: whether the model finished it, and the numbers of prompt and generated tokens."""

    finished: bool
    prompt_tokens: int
    completion_tokens: int


class ServedEncoder:
    """A dual encoder with its thread."""

    def __init__(self, reader: PictureReader, name: str, model: DualEncoder):
        self.name = name
        self.model = model
        self.reader = reader
        self.worker = Worker(f"encoder {name}", on_batch=reader.metrics.record_batch, share=reader.share)
        self._label_embeddings: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = OrderedDict()

    async def embed_images(self, urls: list[str]) -> np.ndarray:
        """Return the embeddings (n, E) of pictures; raises what `load_pictures` raises."""
        import numpy as np

        pictures = await self.reader.load(urls, self.model.loaded.preprocessing)

        def embed(batch: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any]:
            check_cancelled()
            return list(self.model.embed_images(batch))

        return np.stack(await run_job(self.worker, Job(("embed pictures",), list(pictures), embed)))

    async def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Return the embeddings (n, E) of texts."""
        import numpy as np

        def embed(batch: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any]:
            check_cancelled()
            return list(self.model.embed_texts(batch))

        return np.stack(await run_job(self.worker, Job(("embed texts",), texts, embed)))

    async def count_tokens(self, texts: list[str]) -> int:
        """Return the total number of tokens of texts.

        Raises:
            HTTPError: A text exceeds the model's context length.
        """
        total = 0
        for start in range(0, len(texts), TOKENIZER_BATCH):
            batch = texts[start : start + TOKENIZER_BATCH]
            for tokenizer, _, rows in self.model.by_text_tower(batch):
                tokens = await asyncio.to_thread(tokenizer, [batch[row] for row in rows])
                if tokens.truncated:
                    raise HTTPError(
                        400,
                        f"text {start + rows[tokens.truncated[0]] + 1} is too long: the model's context length is "
                        f"{tokenizer.settings.context_length} tokens",
                        code="context_length_exceeded",
                        param="input",
                    )
                total += int(tokens.mask.sum())
        return total

    async def classify(
        self, urls: list[str], labels: list[str], templates: tuple[str, ...], none: bool, multi: bool
    ) -> list[tuple[str, float]]:
        """Return the labels of one picture, best first; raises what `DualEncoder.classify` raises."""
        image = await self.embed_images(urls)
        embeddings = await self._embed_labels(labels, templates)
        return self.model.classify_embeddings(image, labels, embeddings, none=none, multi=multi)[0]

    async def _embed_labels(self, labels: list[str], templates: tuple[str, ...]) -> np.ndarray:
        """Return the mean embedding of each label over the templates (n, E), from the cache if possible."""
        import numpy as np

        from beholder.tasks.classify import label_prompts

        key = (tuple(labels), templates)
        if key in self._label_embeddings:
            self._label_embeddings.move_to_end(key)
            return self._label_embeddings[key]
        prompts = label_prompts(labels, templates)
        await self.count_tokens(prompts)
        embeddings = (await self.embed_texts(prompts)).reshape(len(labels), len(templates), -1).mean(1)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        self._label_embeddings[key] = embeddings
        if len(self._label_embeddings) > LABEL_CACHE_SIZE:
            self._label_embeddings.popitem(last=False)
        return embeddings


class ServedVisionLanguageModel:
    """A vision-language model with its thread."""

    def __init__(self, reader: PictureReader, name: str, model: VisionLanguageModel):
        self.name = name
        self.model = model
        self.reader = reader
        self.scheduler: DecodingScheduler | None = None
        with suppress(ModelError):  # it was trained without a language model
            self.scheduler = DecodingScheduler(
                model.language, reader.settings.cache_tokens, partial(reader.metrics.record_step, name), reader.share
            )
            reader.metrics.watch_scheduler(name, self.scheduler)
        self.worker = Worker(
            f"vlm {name}", 8, on_batch=reader.metrics.record_batch, scheduler=self.scheduler, share=reader.share
        )

    async def caption(
        self, urls: list[str], prompt: str | None, sampling: SamplingParams, beams: int | None, candidates: int | None
    ) -> CaptionResult:
        """Return a caption of one picture. Requests with equal options are batched."""
        from beholder.tasks.caption_options import CaptionOptions

        pictures = await self.reader.load(urls, self.model.preprocessing)
        # Sampled tokens depend on the rest of the batch, so a sampled caption is computed alone. Pictures that are cut
        # into tiles take long to encode: each by itself, so that running texts go on in between.
        unique = object() if sampling.top_p is not None or self._reads_tiles else None
        group = ("captions", prompt, sampling, beams, candidates, unique)

        def options_for(batch: list[Any], check_cancelled: Callable[[], None] | None = None) -> CaptionOptions:
            return CaptionOptions(
                prompt=prompt,
                max_new_tokens=sampling.max_tokens,
                num_beams=beams,
                top_p=sampling.top_p,
                seed=sampling.seed,
                num_candidates=candidates,
                batch_size=len(batch),
                on_token=check_cancelled,
            )

        def write(batch: list[Any], check_cancelled: Callable[[], None]) -> Generation:
            demand, start = self.model.prepare_captions(batch, options_for(batch), check_cancelled)
            return Generation(demand, lambda: start().map(results))

        def results(captions: list[CaptionedPicture]) -> list[CaptionResult]:
            return [CaptionResult(each.caption, each.score, each.candidates) for each in captions]

        def write_elsewhere(batch: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any]:
            captions = []
            for each in self.model.stream_captions(batch, options=options_for(batch, check_cancelled)):
                if each.error is not None:
                    raise each.error
                captions.append(each)
            return results(captions)

        if self.model.decodes_here:
            job = Job(group, list(pictures), write, generates=True)
        else:
            job = Job(group, list(pictures), write_elsewhere)
        captions: list[CaptionResult] = await run_job(self.worker, job)
        return captions[0]

    async def attention_maps(self, urls: list[str], text: str | None) -> tuple[AttentionMaps, Image]:
        """Return the cross-attention map of each word of a caption, and the picture as the network sees it."""
        from beholder.pictures.transform import to_pil_image
        from beholder.tasks.pictures import PreprocessedImage

        bridge = self.model.with_bridge("an attention map")
        if text is None:  # the model's own, generated together with other texts
            caption = (await self.caption(urls, None, SamplingParams(20), None, None)).text
            text = bridge.loaded.prompts.uncapitalize(caption)
        pictures = await self.reader.load(urls, bridge.preprocessing)

        def compute(batch: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any]:
            check_cancelled()
            return [self.model.attention_maps(each, text) for each in batch]

        maps: list[AttentionMaps] = await run_job(self.worker, Job(("attention", text), list(pictures), compute))
        picture = pictures[0]
        if not isinstance(picture, PreprocessedImage):
            raise TypeError("a model with a bridge has preprocessing")
        return maps[0], to_pil_image(picture.pixels, bridge.preprocessing)

    async def chat(
        self, urls: list[str], turns: list[tuple[str, str]], question: str, sampling: SamplingParams
    ) -> AsyncIterator[str | StreamEnd]:
        """Yield the pieces of an answer, then a `StreamEnd`. Leaving the loop cancels generation.

        Args:
            urls: Where the one picture is.
            turns: Earlier questions and answers.
            question: The question to answer.
            sampling: How tokens are chosen.

        Raises:
            InvalidSetting: The conversation exceeds the model's context length.
        """
        picture = (await self.reader.load(urls, self.model.preprocessing))[0]
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Any] = asyncio.Queue()  # bounded by the answer's number of tokens

        def on_piece(piece: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job: Job | DecodingJob
        if self._reads_tiles:
            job = self._job_of_tiles(picture, turns, question, sampling, on_piece)
        elif self.model.decodes_here:
            job = DecodingJob(lambda: self._answer(picture, turns, question, sampling, on_piece), on_piece)
        else:
            job = self._job_elsewhere(picture, turns, question, sampling, on_piece)
        try:
            self.worker.submit(job)
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if isinstance(piece, StreamEnd):
                    return
        finally:
            job.cancelled = True

    @property
    def _reads_tiles(self) -> bool:
        """Whether the model decodes its texts here, and encodes each picture in several parts."""
        return self.model.decodes_here and self.model.preprocessing is None

    def _job_of_tiles(
        self,
        picture: Picture,
        turns: list[tuple[str, str]],
        question: str,
        sampling: SamplingParams,
        on_piece: Callable[[Any], None],
    ) -> Job:
        """Return the job of a model whose picture is encoded in parts, between which running texts go on."""

        def read(_: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any] | Generation:
            generation = self._answer(picture, turns, question, sampling, on_piece, check_cancelled)
            if generation is None:
                return [None]
            return Generation(generation.demand, lambda: generation.start().map(lambda end: [end]))

        def end(done: Future[list[Any]]) -> None:
            outcome = done.exception() or done.result()[0]
            if outcome is not None:
                on_piece(outcome)

        job = Job(("chat", object()), [picture], read, generates=True)
        job.result.add_done_callback(end)
        return job

    def _job_elsewhere(
        self,
        picture: Picture,
        turns: list[tuple[str, str]],
        question: str,
        sampling: SamplingParams,
        on_piece: Callable[[Any], None],
    ) -> Job:
        """Return the job of a model that decodes by itself: one conversation after the other."""

        def answer(_: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any]:
            chat = self.model.chat(
                picture,
                max_new_tokens=sampling.max_tokens,
                top_p=sampling.top_p,
                temperature=sampling.temperature,
                seed=sampling.seed,
            )
            for earlier_question, earlier_answer in turns:
                chat.add_turn(earlier_question, earlier_answer)
            stream = chat.stream(question)
            prompt_tokens = chat.num_tokens
            on_piece("")  # the request is valid: the response may start
            for piece in stream:
                check_cancelled()
                on_piece(piece)
            turn = chat.turns[-1]
            on_piece(StreamEnd(turn.finished, prompt_tokens, len(turn.answer_ids)))
            return [None]

        job = Job(("chat", object()), [picture], answer)
        job.result.add_done_callback(lambda done: on_piece(done.exception()) if done.exception() else None)
        return job

    def _answer(
        self,
        picture: Picture,
        turns: list[tuple[str, str]],
        question: str,
        sampling: SamplingParams,
        on_piece: Callable[[str | StreamEnd], None],
        on_part: Callable[[], None] | None = None,
    ) -> Generation | None:
        """Prepare an answer; None if it has been given already. With ``on_part``, the picture is encoded now."""
        from beholder.runtime.continuous_batching import CacheDemand
        from beholder.runtime.decoding import Decoding, DecodingSettings
        from beholder.tasks.conversation import Turn

        settings = DecodingSettings(
            sampling.max_tokens, top_p=sampling.top_p, temperature=sampling.temperature, seed=sampling.seed
        )
        chat = self.model.prepare_chat(picture, settings)
        for earlier_question, answer in turns:
            chat.add_turn(earlier_question, answer)
        turn = chat.add_question(question)
        prompt_tokens = chat.num_tokens
        if turn.finished:  # by a notice that the model can't read it
            for piece in ("", turn.answer, StreamEnd(True, prompt_tokens, 0)):
                on_piece(piece)
            return None
        tokens = prompt_tokens + sampling.max_tokens
        if chat.context_length and tokens > chat.context_length:
            raise HTTPError(
                400,
                f"the conversation has {prompt_tokens} tokens including the picture; with {sampling.max_tokens} new "
                f"ones it exceeds the model's context length of {chat.context_length}",
                code="context_length_exceeded",
                param="messages",
            )
        if on_part is not None:
            chat.read_pictures(on_part)

        def start() -> Decoding[StreamEnd]:
            decoding = chat.start_answer(on_piece)
            on_piece("")  # the request is valid and there is room: the response may start
            return decoding.map(end)

        def end(turn: Turn) -> StreamEnd:
            return StreamEnd(turn.finished, prompt_tokens, len(turn.answer_ids))

        return Generation(CacheDemand(1, tokens), start)


async def run_job(worker: Worker, job: Job) -> list[Any]:
    """Return the results of a job. Cancelling the awaiting task cancels the job."""
    worker.submit(job)
    try:
        return await asyncio.wrap_future(job.result)
    except asyncio.CancelledError:
        job.cancelled = True
        raise
