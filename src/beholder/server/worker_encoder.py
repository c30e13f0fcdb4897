"""An encoder for other threads than the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from beholder.server.worker import Job

if TYPE_CHECKING:
    import numpy as np

    from beholder.server.served_models import ServedEncoder


class WorkerEncoder:
    """The interface of a `DualEncoder` for other threads: embeddings are computed, and batched, in the model's own."""

    def __init__(self, encoder: ServedEncoder):
        self.worker = encoder.worker
        self.model = encoder.model
        self.fingerprint = encoder.model.fingerprint
        self.origin = encoder.model.origin
        self.calibrated = encoder.model.calibrated
        self.match = encoder.model.match

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """As `DualEncoder.embed_texts`."""
        return self._compute("embed texts", list(texts), self.model.embed_texts)

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """As `DualEncoder.embed_images`."""
        return self._compute("embed pictures", list(images), self.model.embed_images)

    def _compute(self, group: str, inputs: list[Any], function: Callable[[list[Any]], np.ndarray]) -> np.ndarray:
        import numpy as np

        def embed(batch: list[Any], check_cancelled: Callable[[], None]) -> Sequence[Any]:
            check_cancelled()
            return list(function(batch))

        job = Job((group,), inputs, embed)
        self.worker.submit(job)
        return np.stack(job.result.result())
