"""Evaluation of a dual encoder during its training."""

from collections.abc import Sequence

import numpy as np
import torch

from beholder.errors import InvalidSetting
from beholder.evaluation.retrieval import recall
from beholder.tasks.dual_encoder import DualEncoder
from beholder.training.examples import Example
from beholder.weights.loaded import LoadedDualEncoder


def evaluate_model(
    loaded: LoadedDualEncoder, examples: Sequence[Example], templates: Sequence[str], device: torch.device
) -> tuple[dict[str, float], float]:
    """Compute zero-shot accuracy on the examples that have a label, and retrieval recall on the others.

    Returns:
        The metrics by name, and a score: their mean, weighted by the number of images.

    Raises:
        InvalidSetting: no image can be read.
    """
    encoder = DualEncoder(loaded, str(device))
    texts: dict[str, list[str]] = {}  # of each image: a table has one line per caption
    labels: dict[str, str] = {}
    for example in examples:
        texts.setdefault(str(example.picture), []).extend(example.texts)
        labels[str(example.picture)] = example.label
    embeddings = {each.name: each.embedding for each in encoder.stream_images(texts) if each.embedding is not None}
    if not embeddings:
        raise InvalidSetting("data.evaluate: none of its pictures can be read")
    labeled = [name for name in embeddings if labels[name]]
    captioned = [name for name in embeddings if not labels[name]]
    metrics: dict[str, float] = {}
    score = 0.0
    if labeled:
        classes = sorted({label for label in labels.values() if label})
        images = np.stack([embeddings[name] for name in labeled])
        predicted = (images @ encoder.embed_labels(classes, templates).T).argmax(axis=1)
        correct = [classes[row] == labels[name] for row, name in zip(predicted, labeled, strict=True)]
        metrics["accuracy"] = float(np.mean(correct))
        score += metrics["accuracy"] * len(labeled)
    if captioned:
        images = np.stack([embeddings[name] for name in captioned])
        owner = np.array([row for row, name in enumerate(captioned) for _ in texts[name]])
        metrics |= recall(images, encoder.embed_texts([text for name in captioned for text in texts[name]]), owner)
        score += (metrics["text_to_image@1"] + metrics["image_to_text@1"]) / 2 * len(captioned)
    return metrics, score / len(embeddings)
