"""The models, albums and indexes of a server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import InvalidSetting, ModelError
from beholder.server.albums import ServedAlbum, album_file, open_albums
from beholder.server.http_errors import HTTPError
from beholder.server.indexes import ServedIndex, open_indexes
from beholder.server.logs import log_event
from beholder.server.metrics import Metrics
from beholder.server.served_generator import ServedGenerator
from beholder.server.served_models import PictureReader, ServedEncoder, ServedVisionLanguageModel
from beholder.server.settings import ServerSettings
from beholder.server.worker import Worker

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.generate import ImageGenerator
    from beholder.tasks.vision_language import VisionLanguageModel


@dataclass(frozen=True)
class LoadedModels:
    """The models of a server, by the names by which requests refer to them."""

    encoders: Mapping[str, DualEncoder] = field(default_factory=dict)
    vlms: Mapping[str, VisionLanguageModel] = field(default_factory=dict)
    generators: Mapping[str, ImageGenerator] = field(default_factory=dict)


class Service:
    """All models, albums and indexes of a server. They are loaded in the background; requests before that are refused.

    Args:
        settings: The server's settings.
        load: Returns the models.
        albums: Folders of the albums to serve.
        vectors: Addresses of the indexes of shards to serve.
    """

    def __init__(
        self,
        settings: ServerSettings,
        load: Callable[[], LoadedModels],
        albums: Sequence[Path] = (),
        vectors: Sequence[str] = (),
    ):
        self.settings = settings
        self.metrics = Metrics()
        self.reader = PictureReader(settings, self.metrics)
        self.encoders: dict[str, ServedEncoder] = {}
        self.vlms: dict[str, ServedVisionLanguageModel] = {}
        self.generators: dict[str, ServedGenerator] = {}
        self.albums: dict[str, ServedAlbum] = {}
        self.indexes: dict[str, ServedIndex] = {}
        self.ready = False
        self.stopping = False
        self.draining = False
        self.failure: Exception | None = None
        self._load = load
        self._albums = albums
        self._vectors = vectors
        self.metrics.gauge("beholder_ready", "Whether the models are loaded.", lambda: float(self.ready))
        self.metrics.gauge(
            "beholder_waiting", "Jobs and streams queued or running in the models' threads.", self.pending
        )

    def start(self, on_failure: Callable[[], None] = lambda: None) -> threading.Thread:
        """Load the models in a thread; ``on_failure`` is called if that fails."""

        def load() -> None:
            try:
                models, reader = self._load(), self.reader
                self.encoders = {name: ServedEncoder(reader, name, model) for name, model in models.encoders.items()}
                self.vlms = {
                    name: ServedVisionLanguageModel(reader, name, model) for name, model in models.vlms.items()
                }
                self.generators = {
                    name: ServedGenerator(reader, name, model) for name, model in models.generators.items()
                }
                self.albums = open_albums(self._albums, self.settings, self.reader, self.encoders)
                if self.albums:
                    self.reader.album_file = partial(album_file, self.albums)
                for album in self.albums.values():
                    album.attach_encoder()
                self.indexes = open_indexes(self._vectors, self.reader, self.encoders)
                self.ready = True
                log_event("ready", models=self.model_names, albums=len(self.albums))
            except Exception as error:
                self.failure = error
                on_failure()

        thread = threading.Thread(target=load, name="load", daemon=True)
        thread.start()
        return thread

    @property
    def model_names(self) -> list[str]:
        """The names of all models."""
        return list(dict.fromkeys([*self.encoders, *self.vlms, *self.generators]))

    def pending(self) -> int:
        """Return the number of jobs and streams queued or running, over all models."""
        return sum(worker.pending() for worker in self._workers())

    def _workers(self) -> list[Worker]:
        encoders, vlms = list(self.encoders.values()), list(self.vlms.values())
        encoders += [album.own_encoder for album in self.albums.values() if album.own_encoder is not None]
        encoders += [index.own_encoder for index in self.indexes.values() if index.own_encoder is not None]
        generators = list(self.generators.values())
        return [each.worker for each in encoders] + [each.worker for each in vlms] + [g.worker for g in generators]

    def cancel(self) -> None:
        """Cancel all work: requests without a response get 503, streams end with an error event."""
        self.stopping = True
        self.ready = False
        for worker in self._workers():
            worker.cancel()

    def stop(self) -> None:
        """Stop the threads."""
        self.stopping = True
        self.ready = False
        for worker in self._workers():
            worker.close(self.settings.stop_seconds)
        for album in self.albums.values():
            album.close()
        for index in self.indexes.values():
            index.close()
        self.reader.close()

    def check_ready(self, readiness: bool = False) -> None:
        """Raise an `HTTPError` while the models are not loaded; for the readiness probe, also while draining."""
        if not self.ready or (readiness and self.draining):
            raise HTTPError(
                503,
                "the server is stopping" if self.stopping or self.draining else "the models are being loaded",
                type="server_error",
                code="stopping" if self.stopping or self.draining else "not_ready",
                headers={"Retry-After": "5"},
            )

    def encoder(self, name: str | None) -> ServedEncoder:
        """Return the encoder with this name, by default the first."""
        return self._find(name, self.encoders, "embeds pictures and texts")

    def vlm(self, name: str | None) -> ServedVisionLanguageModel:
        """Return the vision-language model with this name, by default the first."""
        return self._find(name, self.vlms, "generates text about pictures")

    def generator(self, name: str | None) -> ServedGenerator:
        """Return the image generator with this name, by default the first."""
        return self._find(name, self.generators, "draws pictures")

    def album(self, name: str | None) -> ServedAlbum:
        """Return the album with this name, by default the first."""
        self.check_ready()
        if not self.albums:
            raise HTTPError(
                404, "this server serves no album; --album DIR adds one", code="album_not_found", param="album"
            )
        name = next(iter(self.albums)) if name is None else name
        if name not in self.albums:
            available = ", ".join(self.albums)
            raise HTTPError(
                404, f"there is no album with this name; available: {available}", code="album_not_found", param="album"
            )
        album = self.albums[name]
        album.check_unchanged()
        return album

    def index(self, name: str | None) -> ServedIndex:
        """Return the index with this name, by default the first."""
        self.check_ready()
        if not self.indexes:
            message = "this server serves no index; --vectors INDEX adds one"
        elif name is not None and name not in self.indexes:
            message = f"there is no index with this name; available: {', '.join(self.indexes)}"
        else:
            return self.indexes[next(iter(self.indexes)) if name is None else name]
        raise HTTPError(404, message, code="index_not_found", param="index")

    def _find(self, name: str | None, models: dict[str, Any], capability: str) -> Any:
        self.check_ready()
        if not models:
            raise HTTPError(400, f"no model of this server {capability}", code="unsupported_by_model", param="model")
        if name is None:
            return next(iter(models.values()))
        if name not in models:
            raise HTTPError(
                404,
                f"no model with this name {capability}; available: {', '.join(models)}",
                code="model_not_found",
                param="model",
            )
        return models[name]


def model_loader(
    names: Sequence[str],
    allow_pickle: bool = True,
    precision: Precision = "exact",
    generators: Sequence[str] = (),
    reranker: str | None = None,
) -> Callable[[], LoadedModels]:
    """Return a function that loads models by name; ``mini`` is both an encoder and a vision-language model.

    Clients refer to a model by its name or hub id; to a folder by its last component, so that no path is exposed.

    Args:
        names: Of encoders and vision-language models.
        allow_pickle: Whether their weights may be pickles.
        precision: Of all models.
        generators: Names of image generators.
        reranker: The dual encoder that chooses among their candidates; by default each generator's own.
    """

    def load() -> LoadedModels:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from beholder.tasks.dual_encoder import DualEncoder
        from beholder.tasks.generate import ImageGenerator
        from beholder.tasks.remote_endpoint import RemoteEndpoint, is_address
        from beholder.tasks.vision_language import VisionLanguageModel
        from beholder.weights.formats import DUAL_ENCODER, VISION_LANGUAGE_MODEL
        from beholder.weights.installed import kind_of
        from beholder.weights.sources import find_model

        encoders: dict[str, DualEncoder] = {}
        vlms: dict[str, VisionLanguageModel] = {}
        for name in names:
            if is_address(name):
                endpoint = RemoteEndpoint.parse(name)
                vlms[endpoint.model or name] = VisionLanguageModel(endpoint)
                continue
            alias = model_alias(name)
            if alias in encoders or alias in vlms:
                raise InvalidSetting(f"--model {name}: another model is already called {alias}; rename the folder")
            kind = kind_of(find_model(name, allow_pickle=allow_pickle)) if name != "mini" else None
            if name != "mini" and kind is None:
                raise ModelError(f"{name}: neither a known dual encoder nor a known vision-language model")
            if kind in (None, DUAL_ENCODER):
                encoders[alias] = DualEncoder.from_pretrained(name, allow_pickle=allow_pickle, precision=precision)
            if kind in (None, VISION_LANGUAGE_MODEL):
                vlms[alias] = VisionLanguageModel.from_pretrained(name, allow_pickle=allow_pickle, precision=precision)
        drawing: dict[str, ImageGenerator] = {}
        for name in generators:
            alias = model_alias(name)
            if alias in drawing:
                raise InvalidSetting(f"--generator {name}: another one is already called {alias}; rename the folder")
            drawing[alias] = ImageGenerator.from_pretrained(name, precision=precision, reranker=reranker)
        return LoadedModels(encoders, vlms, drawing)

    return load


def model_alias(name: str) -> str:
    """Return the name by which requests refer to a model."""
    return Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name
