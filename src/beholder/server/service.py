"""The models of a server, each with its thread, and what can be asked of them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from beholder.errors import InvalidSetting, ModelError
from beholder.server.albums import ServedAlbum, in_album, open_albums
from beholder.server.faults import Fault
from beholder.server.metrics import Metrics
from beholder.server.pictures import read_all
from beholder.server.settings import ServerSettings
from beholder.server.worker import Job, Talk, Worker

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from beholder.pictures.transform import Preprocessing
    from beholder.runtime.precision import Precision
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.pictures import PreprocessedImage
    from beholder.tasks.vision_language import AttentionMaps, VisionLanguageModel

Result = TypeVar("Result")
READERS = 4  # threads that fetch and decode pictures


@dataclass(frozen=True)
class Written:
    """A caption, how sure it is that it fits, and all that it was chosen from; scores only where it was chosen."""

    text: str
    score: float | None
    candidates: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Drawing:
    """How the words of an answer are chosen: greedily, or drawn where ``top_p`` is given."""

    tokens: int
    top_p: float | None = None
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Ended:
    """The end of an answer: whether it came to its end by itself, and the tokens read and written."""

    finished: bool
    read: int
    written: int


class Encoder:
    """A dual encoder behind its thread."""

    def __init__(self, service: Service, name: str, model: DualEncoder):
        self.name = name
        self.model = model
        self.service = service
        self.worker = Worker(f"encoder {name}", watch=service.metrics.batch)

    async def embed_pictures(self, addresses: list[str]) -> np.ndarray:
        """Vectors (n, E) of pictures; the errors are those of ``read_all``."""
        import numpy as np

        pictures = await self.service.read(addresses, self.model.loaded.preprocessing)

        def work(batch: list[Any], wanted: Callable[[], None]) -> Sequence[Any]:
            wanted()
            return list(self.model.embed_images(batch))

        return np.stack(await compute(self.worker, Job(("embed pictures",), list(pictures), work)))

    async def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Vectors (n, E) of sentences."""
        import numpy as np

        def work(batch: list[Any], wanted: Callable[[], None]) -> Sequence[Any]:
            wanted()
            return list(self.model.embed_texts(batch))

        return np.stack(await compute(self.worker, Job(("embed texts",), texts, work)))

    async def count(self, texts: list[str]) -> int:
        """The tokens of sentences.

        Raises:
            Fault: one is longer than the model reads.
        """
        tokens = await asyncio.to_thread(self.model.loaded.tokenizer, texts)
        if tokens.truncated:
            longest = self.model.loaded.tokenizer.settings.context_length
            raise Fault(
                400,
                f"text {tokens.truncated[0] + 1} is too long: the model reads {longest} tokens",
                code="context_length_exceeded",
                param="input",
            )
        return int(tokens.mask.sum())

    async def classify(
        self, addresses: list[str], labels: list[str], templates: tuple[str, ...], none: bool, multi: bool
    ) -> list[tuple[str, float]]:
        """The labels of one picture, best first; the errors are those of `DualEncoder.classify`."""
        import numpy as np

        from beholder.tasks.classify import label_prompts

        sentences = label_prompts(labels, templates)
        await self.count(sentences)
        image = await self.embed_pictures(addresses)
        vectors = (await self.embed_texts(sentences)).reshape(len(labels), len(templates), -1).mean(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return self.model.classify_embeddings(image, labels, vectors, none=none, multi=multi)[0]


class Writer:
    """A vision-language model behind its thread."""

    def __init__(self, service: Service, name: str, model: VisionLanguageModel):
        self.name = name
        self.model = model
        self.service = service
        self.worker = Worker(f"writer {name}", 8, watch=service.metrics.batch)

    async def caption(
        self, addresses: list[str], prompt: str | None, drawing: Drawing, beams: int | None, candidates: int | None
    ) -> Written:
        """A caption of one picture. Captions with the same settings are written together."""
        pictures = await self.service.read(addresses, self.model.loaded.preprocessing)
        # What is drawn at random depends on the others of a batch.
        alone = object() if drawing.top_p is not None else None
        group = ("captions", prompt, drawing, beams, candidates, alone)

        def work(batch: list[Any], wanted: Callable[[], None]) -> Sequence[Any]:
            stream = self.model.stream_captions(
                batch,
                prompt,
                max_new_tokens=drawing.tokens,
                num_beams=beams,
                top_p=drawing.top_p,
                seed=drawing.seed,
                num_candidates=candidates,
                batch_size=len(batch),
                on_token=wanted,
            )
            return [Written(str(each.caption), each.score, each.candidates) for each in stream]

        written: list[Written] = await compute(self.worker, Job(group, list(pictures), work))
        return written[0]

    async def attention_maps(self, addresses: list[str], text: str | None) -> tuple[AttentionMaps, Image]:
        """Where in the picture each word of a caption was looked for, and the picture as the network sees it."""
        from beholder.pictures.transform import to_pil_image

        pictures = await self.service.read(addresses, self.model.loaded.preprocessing)

        def work(batch: list[Any], wanted: Callable[[], None]) -> Sequence[Any]:
            wanted()
            return [self.model.attention_maps(each, text) for each in batch]

        attention_maps: list[AttentionMaps] = await compute(self.worker, Job(("attention", text), list(pictures), work))
        return attention_maps[0], to_pil_image(pictures[0].pixels, self.model.loaded.preprocessing)

    async def talk(
        self, addresses: list[str], turns: list[tuple[str, str]], question: str, drawing: Drawing
    ) -> AsyncIterator[str | Ended]:
        """The pieces of an answer, and in the end what it took. Who leaves the loop stops the writing.

        Args:
            addresses: of the one picture.
            turns: questions and answers before.
            question: the one to answer.
            drawing: how its words are chosen.

        Raises:
            InvalidSetting: the conversation is longer than the model reads.
        """
        picture = (await self.service.read(addresses, self.model.loaded.preprocessing))[0]
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Any] = asyncio.Queue()  # never more than an answer's tokens

        def tell(piece: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.put_nowait, piece)

        talk = Talk(lambda: self._answer(picture, turns, question, drawing), tell)
        try:
            self.worker.add(talk)
            while (piece := await arrived.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            talk.abandoned = True

    def _answer(
        self, picture: PreprocessedImage, turns: list[tuple[str, str]], question: str, drawing: Drawing
    ) -> Iterator[str | Ended]:
        chat = self.model.chat(
            picture,
            max_new_tokens=drawing.tokens,
            top_p=drawing.top_p,
            temperature=drawing.temperature,
            seed=drawing.seed,
        )
        for asked, answered in turns:
            chat.add_turn(asked, answered)
        pieces = chat.stream(question)
        read = chat.num_tokens
        room = self.model.language.context_length
        if room and read + drawing.tokens > room:
            raise Fault(
                400,
                f"the conversation has {read} tokens, its picture among them; with {drawing.tokens} new ones that is "
                f"more than the {room} that the model reads",
                code="context_length_exceeded",
                param="messages",
            )
        yield ""  # everything is in order: the answer may begin
        yield from pieces
        turn = chat.turns[-1]
        yield Ended(turn.finished, read, len(turn.answer_ids))


class Service:
    """All models of a server. They are loaded in the background; until then nothing can be asked of them.

    Args:
        settings: the server's.
        load: gives encoders and writers by name.
        albums: folders of the albums to serve.
    """

    def __init__(
        self,
        settings: ServerSettings,
        load: Callable[[], tuple[dict[str, DualEncoder], dict[str, VisionLanguageModel]]],
        albums: Sequence[Path] = (),
    ):
        self.settings = settings
        self.metrics = Metrics()
        self.encoders: dict[str, Encoder] = {}
        self.writers: dict[str, Writer] = {}
        self.albums: dict[str, ServedAlbum] = {}
        self.ready = False
        self.stopping = False
        self.failure: Exception | None = None
        self._load = load
        self._albums = albums
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="beholder-read")
        self.metrics.gauge("beholder_ready", "Whether the models are loaded.", lambda: float(self.ready))
        self.metrics.gauge("beholder_waiting", "Work that waits or is under way in the models' threads.", self.waiting)

    def start(self, failed: Callable[[], None] = lambda: None) -> threading.Thread:
        """Loads the models in a thread of its own; ``failed`` is called where that can't be done."""

        def load() -> None:
            try:
                encoders, writers = self._load()
                self.encoders = {name: Encoder(self, name, model) for name, model in encoders.items()}
                self.writers = {name: Writer(self, name, model) for name, model in writers.items()}
                self.albums = open_albums(self, self._albums)
                for album in self.albums.values():
                    album.use()
                self.ready = True
            except Exception as error:
                self.failure = error
                failed()

        thread = threading.Thread(target=load, name="load", daemon=True)
        thread.start()
        return thread

    def waiting(self) -> int:
        """Of all models."""
        return sum(worker.waiting() for worker in self._workers())

    def _workers(self) -> list[Worker]:
        encoders, writers = list(self.encoders.values()), list(self.writers.values())
        encoders += [album.own for album in self.albums.values() if album.own is not None]
        return [each.worker for each in encoders] + [each.worker for each in writers]

    def stop(self) -> None:
        """Ends the threads."""
        self.stopping = True
        self.ready = False
        for worker in self._workers():
            worker.close(self.settings.stop_seconds)
        for album in self.albums.values():
            album.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def check_ready(self) -> None:
        """Raises a `Fault` while the models are not there."""
        if not self.ready:
            raise Fault(
                503,
                "the server is stopping" if self.stopping else "the models are being loaded",
                kind="server_error",
                code="not_ready",
                headers={"Retry-After": "5"},
            )

    def encoder(self, name: str | None) -> Encoder:
        """The encoder of this name, or the first."""
        return self._find(name, self.encoders, "turns pictures and sentences into vectors")

    def writer(self, name: str | None) -> Writer:
        """The writer of this name, or the first."""
        return self._find(name, self.writers, "writes about pictures")

    def encoder_of(self, model: DualEncoder) -> Encoder:
        """A model with a thread of its own that is not served by a name."""
        return Encoder(self, model.loaded.name, model)

    def album(self, name: str | None) -> ServedAlbum:
        """The album of this name, or the first."""
        self.check_ready()
        if not self.albums:
            raise Fault(404, "this server serves no album; --album DIR lets it", code="album_not_found", param="album")
        if name is None:
            return next(iter(self.albums.values()))
        if name not in self.albums:
            known = ", ".join(self.albums)
            raise Fault(404, f"no album of this name here; there is {known}", code="album_not_found", param="album")
        return self.albums[name]

    def _find(self, name: str | None, among: dict[str, Any], what: str) -> Any:
        self.check_ready()
        if not among:
            raise Fault(400, f"no model of this server {what}", code="unsupported_by_model", param="model")
        if name is None:
            return next(iter(among.values()))
        if name not in among:
            known = ", ".join(among)
            raise Fault(
                404, f"no model of this name {what} here; there is {known}", code="model_not_found", param="model"
            )
        return among[name]

    async def read(self, addresses: list[str], preprocessing: Preprocessing) -> list[PreprocessedImage]:
        """The pictures of a request, fetched and decoded in threads beside."""
        read = await self.in_reader(read_all, addresses, preprocessing, self.settings, in_album(self.albums))
        self.metrics.pictures.inc(len(read))
        return read

    async def in_reader(self, work: Callable[..., Result], *given: Any) -> Result:
        """What a function gives that reads files and decodes pictures; the threads for that are few."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *given)


async def compute(worker: Worker, job: Job) -> list[Any]:
    """What the worker makes of a job; who stops waiting for it abandons it."""
    worker.add(job)
    try:
        return await asyncio.wrap_future(job.done)
    except asyncio.CancelledError:
        job.abandoned = True
        raise


def loader(
    names: Sequence[str], allow_pickle: bool = False, precision: Precision = "exact"
) -> Callable[[], tuple[dict[str, DualEncoder], dict[str, VisionLanguageModel]]]:
    """Loads models by name; ``mini`` is both an encoder and a writer.

    What clients call a model is its name or hub id; a folder goes by its last part, so that no path is told.
    """

    def load() -> tuple[dict[str, DualEncoder], dict[str, VisionLanguageModel]]:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from beholder.tasks.dual_encoder import DualEncoder
        from beholder.tasks.vision_language import VisionLanguageModel
        from beholder.weights.inventory import ENCODER, WRITER, kind_of
        from beholder.weights.sources import find

        encoders: dict[str, DualEncoder] = {}
        writers: dict[str, VisionLanguageModel] = {}
        for name in names:
            called = Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name
            if called in encoders or called in writers:
                raise InvalidSetting(f"--model {name}: another model is called {called} already; rename the folder")
            kind = kind_of(find(name, allow_pickle=allow_pickle)) if name != "mini" else None
            if name != "mini" and kind is None:
                raise ModelError(f"{name}: neither a dual encoder nor a vision-language model that is known")
            if kind in (None, ENCODER):
                encoders[called] = DualEncoder.from_pretrained(name, allow_pickle=allow_pickle, precision=precision)
            if kind in (None, WRITER):
                writers[called] = VisionLanguageModel.from_pretrained(
                    name, allow_pickle=allow_pickle, precision=precision
                )
        return encoders, writers

    return load
