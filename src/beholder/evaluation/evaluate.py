"""From a model and data to a report, one function a task."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, PictureError
from beholder.evaluation.caption_metrics import caption_scores
from beholder.evaluation.classification import accuracy_measure, confusion
from beholder.evaluation.confidence import figures
from beholder.evaluation.data import Asked, Captioned, Labelled
from beholder.evaluation.embedded import embed_pictures
from beholder.evaluation.linear_probe import choose_strength, fit_probe, held_out
from beholder.evaluation.report import NullProgress, Report, Result, Watcher
from beholder.evaluation.retrieval import found_first, ranks, recall_measure
from beholder.evaluation.vqa import answer_kind, answer_score
from beholder.pictures.read import read_picture
from beholder.runtime.pipeline import batches
from beholder.tasks.dual_encoder import DualEncoder
from beholder.tasks.result_file import AnswerFile, CaptionFile
from beholder.tasks.vision_language import VisionLanguageModel
from beholder.text.templates import ENSEMBLE

KS = (1, 5, 10)
CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)


def evaluate_retrieval(
    encoder: DualEncoder,
    examples: Sequence[Captioned],
    *,
    data: str = "",
    exact: bool = False,
    watcher: Watcher | None = None,
) -> Report:
    """Recall@1, 5 and 10, from sentence to picture and back.

    Args:
        encoder: the model.
        examples: pictures and their captions.
        data: what the report calls them.
        exact: decode large JPEGs in full.
        watcher: is told of progress and of pictures that can't be used, which are left out with their captions.

    Raises:
        PictureError: none of the pictures can be used.
    """
    found = embed_pictures(encoder, [example.image for example in examples], watcher or NullProgress(), exact=exact)
    kept = [examples[row] for row in found.rows]
    captions = [caption for example in kept for caption in example.captions]
    owner = np.repeat(np.arange(len(kept)), [len(example.captions) for example in kept])
    texts = encoder.embed_texts(captions)
    text_rank, image_rank = ranks(found.vectors, texts, owner)
    curve = [k for k in CURVE if k <= len(kept)]
    return Report(
        "retrieval",
        encoder.loaded.name,
        data,
        len(kept),
        figures(len(kept), recall_measure(text_rank, image_rank, owner, KS)),
        found.failed,
        {"exact": exact},
        {
            "captions": len(captions),
            "curve": {
                "k": curve,
                "text_to_image": [float((text_rank < k).mean()) for k in curve],
                "image_to_text": [float((image_rank < k).mean()) for k in curve],
            },
        },
        [
            Result(str(kept[seen].image), f"rank {rank + 1}", str(kept[picture].image), float(rank == 0), caption)
            for caption, picture, rank, seen in zip(
                captions, owner, text_rank, found_first(found.vectors, texts), strict=True
            )
        ],
    )


def evaluate_zero_shot(
    encoder: DualEncoder,
    examples: Sequence[Labelled],
    *,
    labels: Sequence[str] = (),
    templates: Sequence[str] = ENSEMBLE,
    data: str = "",
    exact: bool = False,
    watcher: Watcher | None = None,
) -> Report:
    """The choice among labels without training: top-1, top-5, mean per class.

    Args:
        encoder: the model.
        examples: pictures and their classes. An underscore in a name stands for a space.
        labels: the choice; by default the classes that occur.
        templates: sentences around a label, averaged over.
        data, exact, watcher: as for `evaluate_retrieval`.

    Raises:
        InvalidSetting: a class is not among the labels.
        PictureError: none of the pictures can be used.
    """
    choice = list(labels) or sorted({example.label for example in examples})
    if unknown := sorted({example.label for example in examples} - set(choice)):
        raise InvalidSetting(
            f"the class {unknown[0]!r} occurs and is not among the {len(choice)} labels to choose from"
        )
    found = embed_pictures(encoder, [example.image for example in examples], watcher or NullProgress(), exact=exact)
    truth = np.array([choice.index(examples[row].label) for row in found.rows])
    scores = found.vectors @ encoder.embed_labels([label.replace("_", " ") for label in choice], templates).T
    images = [examples[row].image for row in found.rows]
    settings = {"templates": list(templates), "labels": choice, "exact": exact}
    return _choice("zero-shot", encoder, data, images, scores, truth, choice, found.failed, settings)


def evaluate_linear_probe(
    encoder: DualEncoder,
    examples: Sequence[Labelled],
    *,
    test: Sequence[Labelled] = (),
    data: str = "",
    exact: bool = False,
    watcher: Watcher | None = None,
) -> Report:
    """Logistic regression on the frozen picture tower, judged on pictures that it was not fitted to.

    Args:
        encoder: the model.
        examples: pictures and their classes.
        test: what to judge on; by default a fifth of each class, drawn at random, which is then kept out of the fit.
        data, exact, watcher: as for `evaluate_retrieval`.

    Raises:
        InvalidSetting: there are too few pictures, or none of a class to fit.
        PictureError: none of the pictures can be used.
    """
    given = len(examples)
    choice = sorted({example.label for example in examples})
    if unknown := sorted({example.label for example in test} - set(choice)):
        raise InvalidSetting(f"the class {unknown[0]!r} is there to be judged and has no picture to be fitted to")
    examples = [*examples, *test]
    pictures = [example.image for example in examples]
    found = embed_pictures(encoder, pictures, watcher or NullProgress(), features=True, exact=exact)
    truth = np.array([choice.index(examples[row].label) for row in found.rows])
    judged = found.rows >= given if test else held_out(truth)
    if not judged.any() or len(np.unique(truth[~judged])) < 2:
        raise InvalidSetting("too few pictures that can be used: some are needed to fit a probe, and some to judge it")
    if missing := set(truth[judged]) - set(truth[~judged]):
        raise InvalidSetting(f"no picture of the class {choice[missing.pop()]!r} can be used to fit the probe")
    strength = choose_strength(found.vectors[~judged], truth[~judged])
    probe = fit_probe(found.vectors[~judged], truth[~judged], strength)
    scores = np.full((int(judged.sum()), len(choice)), -np.inf)
    decided = probe.decision_function(found.vectors[judged])
    scores[:, probe.classes_] = decided if decided.ndim == 2 else np.stack([-decided, decided], 1)
    images = [examples[row].image for row in found.rows[judged]]
    settings = {"strength": strength, "fitted": int((~judged).sum()), "exact": exact}
    return _choice("linear-probe", encoder, data, images, scores, truth[judged], choice, found.failed, settings)


def evaluate_captions(
    model: VisionLanguageModel,
    examples: Sequence[Captioned],
    *,
    kept: Path | None = None,
    prompt: str | None = None,
    data: str = "",
    watcher: Watcher | None = None,
    **options: Any,
) -> Report:
    """CIDEr, BLEU and ROUGE-L of the captions that a model writes.

    Args:
        model: the model.
        examples: pictures and what people said of them.
        kept: a file of captions (.jsonl or .csv). Those in it are judged as they are, new ones are added as soon as
            they are there, so that interrupted work goes on.
        prompt: the beginning of a caption.
        data, watcher: as for `evaluate_retrieval`, and so are the errors.
        options: those of `VisionLanguageModel.stream_captions`.
    """
    watcher = watcher or NullProgress()
    file = CaptionFile(kept) if kept else None
    written = dict(file.captions) if file else {}
    names = [str(example.image) for example in examples]
    missing = [name for name in dict.fromkeys(names) if name not in written]
    failed: list[tuple[str, str]] = []
    try:
        for picture in watcher.follow(model.stream_captions(missing, prompt, **options), len(missing)):
            if picture.error is not None:
                watcher.failed(picture.error)
                failed.append((picture.name, picture.error.reason))
                continue
            written[picture.name] = str(picture.caption)
            if file:
                file.append({"image": picture.name, "caption": picture.caption})
    finally:
        if file:
            file.close()
    done = [(name, example) for name, example in zip(names, examples, strict=True) if name in written]
    if not done:
        raise PictureError(data or "data", f"none of the {len(examples)} pictures can be used")
    scores = caption_scores([written[name] for name, _ in done], [example.captions for _, example in done])
    return Report(
        "caption",
        model.loaded.name,
        data,
        len(done),
        figures(len(done), scores.measure),
        failed,
        {"prompt": prompt, **options},
        {"different": len({written[name] for name, _ in done})},
        [
            Result(name, written[name], example.captions[0], float(score))
            for (name, example), score in zip(done, scores.cider, strict=True)
        ],
    )


def evaluate_vqa(
    model: VisionLanguageModel,
    examples: Sequence[Asked],
    *,
    kept: Path | None = None,
    num_beams: int = 1,
    data: str = "",
    exact: bool = False,
    watcher: Watcher | None = None,
) -> Report:
    """VQA accuracy of a model's answers, overall and for yes/no, numbers and the rest.

    Args:
        model: the model.
        examples: pictures, questions, and what people answered.
        kept: a file of answers, as `evaluate_captions` has one of captions.
        num_beams: texts that are followed at once.
        data, exact, watcher: as for `evaluate_retrieval`, and so are the errors.
    """
    watcher = watcher or NullProgress()
    file = AnswerFile(kept) if kept else None
    written = dict(file.existing) if file else {}
    failed: dict[str, str] = {}
    reduce_to = None if exact else model.loaded.preprocessing.shorter_side

    def usable() -> Iterator[tuple[str, str, Any]]:
        """Questions that are not answered yet, with their pictures, each read once where its questions follow."""
        last: tuple[str, Any] | None = None
        for example in watcher.follow(examples, len(examples)):
            image = str(example.image)
            if image in failed or (image, example.question) in written:
                continue
            if last is None or last[0] != image:
                try:
                    last = image, read_picture(example.image, name=image, reduce_to=reduce_to)
                except PictureError as error:
                    watcher.failed(error)
                    failed[image] = error.reason
                    continue
            yield image, example.question, last[1]

    try:
        for batch in batches(usable(), 32):
            answers = model.answers([(picture, question) for _, question, picture in batch], num_beams=num_beams)
            for (image, question, _), answer in zip(batch, answers, strict=True):
                written[image, question] = answer
                if file:
                    file.append({"image": image, "question": question, "answer": answer})
    finally:
        if file:
            file.close()
    done = [example for example in examples if (str(example.image), example.question) in written]
    if not done:
        raise PictureError(data or "data", f"none of the pictures of the {len(examples)} questions can be used")
    answers = [written[str(example.image), example.question] for example in done]
    scores = np.array([answer_score(said, example.answers) for said, example in zip(answers, done, strict=True)])
    kinds = np.array([answer_kind(example.answers) for example in done])
    pictures = {image: number for number, image in enumerate(dict.fromkeys(example.image for example in done))}
    unit = np.array([pictures[example.image] for example in done])
    beginnings = [" ".join(example.question.lower().rstrip("?").split()[:2]) for example in done]
    return Report(
        "vqa",
        model.loaded.name,
        data,
        len(pictures),
        figures(len(pictures), _vqa_measure(scores, kinds, unit)),
        list(failed.items()),
        {"num_beams": num_beams, "exact": exact},
        {"questions": len(done), "by_beginning": _shares(beginnings, scores)},
        [
            Result(str(example.image), said, " / ".join(dict.fromkeys(example.answers)), score, example.question)
            for example, said, score in zip(done, answers, scores.tolist(), strict=True)
        ],
    )


def _vqa_measure(scores: np.ndarray, kinds: np.ndarray, unit: np.ndarray) -> Any:
    """Accuracy over samples of pictures (R, n), each with its questions."""
    chosen = {"accuracy": np.ones(len(scores), bool)}
    chosen |= {f"accuracy {kind}": kinds == kind for kind in ("yes/no", "number", "other") if (kinds == kind).any()}
    right = {name: np.bincount(unit, scores * some) for name, some in chosen.items()}
    asked = {name: np.bincount(unit, some) for name, some in chosen.items()}

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):  # a kind that a sample has no question of
            return {name: counts @ right[name] / (counts @ asked[name]) for name in chosen}

    return measure


def _shares(names: Iterable[str], scores: np.ndarray) -> dict[str, dict[str, float]]:
    """For each name how often it is there and the mean of its scores, the commonest first."""
    groups: dict[str, list[float]] = {}
    for name, score in zip(names, scores.tolist(), strict=True):
        groups.setdefault(name, []).append(score)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return {name: {"questions": len(group), "accuracy": sum(group) / len(group)} for name, group in ordered}


def _choice(
    task: str,
    encoder: DualEncoder,
    data: str,
    images: Sequence[Path],
    scores: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[str],
    failed: list[tuple[str, str]],
    settings: dict[str, Any],
) -> Report:
    chosen = scores.argmax(1)
    taken = confusion(chosen, truth, labels)
    per_class = {
        label: {"pictures": sum(row.values()), "right": row.get(label, 0) / sum(row.values())}
        for label, row in taken.items()
    }
    return Report(
        task,
        encoder.loaded.name,
        data,
        len(images),
        figures(len(images), accuracy_measure(scores, truth)),
        failed,
        settings,
        {"per_class": per_class, "confusion": taken},
        [
            Result(str(image), labels[said], labels[right], float(said == right))
            for image, said, right in zip(images, chosen, truth, strict=True)
        ],
    )
