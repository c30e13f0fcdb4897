"""Evaluations, one function per task: from a model and data to a report."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, PictureError
from beholder.evaluation.bootstrap import bootstrap_metrics
from beholder.evaluation.caption_metrics import score_captions
from beholder.evaluation.classification import accuracy_metric, confusion_counts
from beholder.evaluation.data import CaptionExample, LabeledExample, VQAExample
from beholder.evaluation.embedding_cache import embed_images
from beholder.evaluation.linear_probe import fit_probe, holdout_mask, select_l2_strength
from beholder.evaluation.report import NullProgress, Progress, Report, ScoredExample
from beholder.evaluation.retrieval import best_match, recall_metric, retrieval_ranks
from beholder.evaluation.vqa import answer_score, answer_type
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
    examples: Sequence[CaptionExample],
    *,
    data: str = "",
    exact: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Evaluate image-text retrieval: recall@1, 5 and 10 in both directions.

    Args:
        encoder: the model.
        examples: pictures and their captions.
        data: name of the data in the report.
        exact: decode large JPEGs at full resolution.
        progress: receives progress, and pictures that can't be used; those are left out with their captions.

    Raises:
        PictureError: none of the pictures can be used.
    """
    embedded = embed_images(encoder, [example.image for example in examples], progress or NullProgress(), exact=exact)
    usable = [examples[row] for row in embedded.rows]
    captions = [caption for example in usable for caption in example.captions]
    image_of_text = np.repeat(np.arange(len(usable)), [len(example.captions) for example in usable])
    texts = encoder.embed_texts(captions)
    text_rank, image_rank = retrieval_ranks(embedded.embeddings, texts, image_of_text)
    curve = [k for k in CURVE if k <= len(usable)]
    return Report(
        "retrieval",
        encoder.loaded.name,
        data,
        len(usable),
        bootstrap_metrics(len(usable), recall_metric(text_rank, image_rank, image_of_text, KS)),
        embedded.failed,
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
            ScoredExample(
                str(usable[first].image), f"rank {rank + 1}", str(usable[own].image), float(rank == 0), caption
            )
            for caption, own, rank, first in zip(
                captions, image_of_text, text_rank, best_match(embedded.embeddings, texts), strict=True
            )
        ],
    )


def evaluate_zero_shot(
    encoder: DualEncoder,
    examples: Sequence[LabeledExample],
    *,
    labels: Sequence[str] = (),
    templates: Sequence[str] = ENSEMBLE,
    data: str = "",
    exact: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Evaluate zero-shot classification: top-1, top-5 and mean per-class accuracy.

    Args:
        encoder: the model.
        examples: pictures and their classes. An underscore in a class name stands for a space.
        labels: the candidate labels; by default the classes that occur.
        templates: sentences around a label, averaged over.
        data, exact, progress: as for `evaluate_retrieval`.

    Raises:
        InvalidSetting: a class is not among the labels.
        PictureError: none of the pictures can be used.
    """
    choice = list(labels) or sorted({example.label for example in examples})
    if unknown := sorted({example.label for example in examples} - set(choice)):
        raise InvalidSetting(
            f"the class {unknown[0]!r} occurs and is not among the {len(choice)} labels to choose from"
        )
    embedded = embed_images(encoder, [example.image for example in examples], progress or NullProgress(), exact=exact)
    truth = np.array([choice.index(examples[row].label) for row in embedded.rows])
    scores = embedded.embeddings @ encoder.embed_labels([label.replace("_", " ") for label in choice], templates).T
    images = [examples[row].image for row in embedded.rows]
    settings = {"templates": list(templates), "labels": choice, "exact": exact}
    return _classification_report("zero-shot", encoder, data, images, scores, truth, choice, embedded.failed, settings)


def evaluate_linear_probe(
    encoder: DualEncoder,
    examples: Sequence[LabeledExample],
    *,
    test: Sequence[LabeledExample] = (),
    data: str = "",
    exact: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Evaluate a linear probe: logistic regression on the frozen image tower, tested on held-out pictures.

    Args:
        encoder: the model.
        examples: pictures and their classes.
        test: the test set; by default a random fifth of each class, held out from the training set.
        data, exact, progress: as for `evaluate_retrieval`.

    Raises:
        InvalidSetting: there are too few pictures, or a class of the test set has none to train on.
        PictureError: none of the pictures can be used.
    """
    num_train = len(examples)
    choice = sorted({example.label for example in examples})
    if unknown := sorted({example.label for example in test} - set(choice)):
        raise InvalidSetting(f"the class {unknown[0]!r} occurs in the test set and has no picture to train on")
    examples = [*examples, *test]
    pictures = [example.image for example in examples]
    embedded = embed_images(encoder, pictures, progress or NullProgress(), features=True, exact=exact)
    truth = np.array([choice.index(examples[row].label) for row in embedded.rows])
    is_test = embedded.rows >= num_train if test else holdout_mask(truth)
    if not is_test.any() or len(np.unique(truth[~is_test])) < 2:
        raise InvalidSetting("too few usable pictures: a linear probe needs some to train on and some to test on")
    if missing := set(truth[is_test]) - set(truth[~is_test]):
        raise InvalidSetting(f"no picture of the class {choice[missing.pop()]!r} can be used to train the probe")
    strength = select_l2_strength(embedded.embeddings[~is_test], truth[~is_test])
    probe = fit_probe(embedded.embeddings[~is_test], truth[~is_test], strength)
    scores = np.full((int(is_test.sum()), len(choice)), -np.inf)
    decision = probe.decision_function(embedded.embeddings[is_test])
    scores[:, probe.classes_] = decision if decision.ndim == 2 else np.stack([-decision, decision], 1)
    images = [examples[row].image for row in embedded.rows[is_test]]
    settings = {"strength": strength, "fitted": int((~is_test).sum()), "exact": exact}
    return _classification_report(
        "linear-probe", encoder, data, images, scores, truth[is_test], choice, embedded.failed, settings
    )


def evaluate_captions(
    model: VisionLanguageModel,
    examples: Sequence[CaptionExample],
    *,
    captions_file: Path | None = None,
    prompt: str | None = None,
    data: str = "",
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Evaluate captioning: CIDEr, BLEU and ROUGE-L of the generated captions.

    Args:
        model: the model.
        examples: pictures and their reference captions.
        captions_file: a file of captions (.jsonl or .csv). Its captions are evaluated as they are, and new ones are
            appended as they are generated, so that an interrupted evaluation resumes.
        prompt: the start of a caption.
        data: name of the data in the report.
        progress: as for `evaluate_retrieval`, and so are the errors.
        options: fields of `CaptionOptions`.
    """
    progress = progress or NullProgress()
    file = CaptionFile(captions_file) if captions_file else None
    captions = dict(file.captions) if file else {}
    names = [str(example.image) for example in examples]
    missing = [name for name in dict.fromkeys(names) if name not in captions]
    failed: list[tuple[str, str]] = []
    try:
        for picture in progress.track(model.stream_captions(missing, prompt, **options), len(missing)):
            if picture.error is not None:
                progress.failed(picture.error)
                failed.append((picture.name, picture.error.reason))
                continue
            name = missing[picture.index]  # picture.name is escaped for display
            captions[name] = picture.caption
            if file:
                file.append({"image": name, "caption": picture.caption})
    finally:
        if file:
            file.close()
    done = [(name, example) for name, example in zip(names, examples, strict=True) if name in captions]
    if not done:
        raise PictureError(data or "data", f"none of the {len(examples)} pictures can be used")
    scores = score_captions([captions[name] for name, _ in done], [example.captions for _, example in done])
    return Report(
        "caption",
        model.backend.name,
        data,
        len(done),
        bootstrap_metrics(len(done), scores.measure),
        failed,
        {"prompt": prompt, **options},
        {"different": len({captions[name] for name, _ in done})},
        [
            ScoredExample(name, captions[name], example.captions[0], float(score))
            for (name, example), score in zip(done, scores.cider, strict=True)
        ],
    )


def evaluate_vqa(
    model: VisionLanguageModel,
    examples: Sequence[VQAExample],
    *,
    answers_file: Path | None = None,
    num_beams: int = 1,
    data: str = "",
    exact: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Evaluate visual question answering: VQA accuracy, overall and for yes/no, number and other questions.

    Args:
        model: the model.
        examples: pictures, questions and reference answers.
        answers_file: a file of answers, used as the captions file of `evaluate_captions`.
        num_beams: beams of the beam search; 1 is greedy decoding.
        data, exact, progress: as for `evaluate_retrieval`, and so are the errors.
    """
    progress = progress or NullProgress()
    file = AnswerFile(answers_file) if answers_file else None
    answers = dict(file.existing) if file else {}
    failed: dict[str, str] = {}
    reduce_to = None if exact else model.shorter_side

    def unanswered() -> Iterator[tuple[str, str, Any]]:
        """Yield unanswered questions with their pictures; consecutive questions of a picture share one read."""
        last: tuple[str, Any] | None = None
        for example in progress.track(examples, len(examples)):
            image = str(example.image)
            if image in failed or (image, example.question) in answers:
                continue
            if last is None or last[0] != image:
                try:
                    last = image, read_picture(example.image, name=image, reduce_to=reduce_to)
                except PictureError as error:
                    progress.failed(error)
                    failed[image] = error.reason
                    continue
            yield image, example.question, last[1]

    try:
        for batch in batches(unanswered(), 32):
            texts = model.answers([(picture, question) for _, question, picture in batch], num_beams=num_beams)
            for (image, question, _), answer in zip(batch, texts, strict=True):
                answers[image, question] = answer
                if file:
                    file.append({"image": image, "question": question, "answer": answer})
    finally:
        if file:
            file.close()
    done = [example for example in examples if (str(example.image), example.question) in answers]
    if not done:
        raise PictureError(data or "data", f"none of the pictures of the {len(examples)} questions can be used")
    predictions = [answers[str(example.image), example.question] for example in done]
    scores = np.array([answer_score(text, example.answers) for text, example in zip(predictions, done, strict=True)])
    kinds = np.array([answer_type(example.answers) for example in done])
    pictures = {image: number for number, image in enumerate(dict.fromkeys(example.image for example in done))}
    unit = np.array([pictures[example.image] for example in done])
    first_words = [" ".join(example.question.lower().rstrip("?").split()[:2]) for example in done]
    return Report(
        "vqa",
        model.backend.name,
        data,
        len(pictures),
        bootstrap_metrics(len(pictures), _vqa_metric(scores, kinds, unit)),
        list(failed.items()),
        {"num_beams": num_beams, "exact": exact},
        {"questions": len(done), "by_beginning": _accuracy_by(first_words, scores)},
        [
            ScoredExample(str(example.image), text, " / ".join(dict.fromkeys(example.answers)), score, example.question)
            for example, text, score in zip(done, predictions, scores.tolist(), strict=True)
        ],
    )


def _vqa_metric(scores: np.ndarray, kinds: np.ndarray, unit: np.ndarray) -> Any:
    """Return the accuracies as a function of samples of pictures (R, n), each with its questions."""
    chosen = {"accuracy": np.ones(len(scores), bool)}
    chosen |= {f"accuracy {kind}": kinds == kind for kind in ("yes/no", "number", "other") if (kinds == kind).any()}
    correct = {name: np.bincount(unit, scores * some) for name, some in chosen.items()}
    total = {name: np.bincount(unit, some) for name, some in chosen.items()}

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):  # a sample may have no question of a type
            return {name: counts @ correct[name] / (counts @ total[name]) for name in chosen}

    return measure


def _accuracy_by(names: Iterable[str], scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the number of questions and the mean score of each name, most frequent first."""
    groups: dict[str, list[float]] = {}
    for name, score in zip(names, scores.tolist(), strict=True):
        groups.setdefault(name, []).append(score)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return {name: {"questions": len(group), "accuracy": sum(group) / len(group)} for name, group in ordered}


def _classification_report(
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
    predicted = scores.argmax(1)
    confusion = confusion_counts(predicted, truth, labels)
    per_class = {
        label: {"pictures": sum(row.values()), "right": row.get(label, 0) / sum(row.values())}
        for label, row in confusion.items()
    }
    return Report(
        task,
        encoder.loaded.name,
        data,
        len(images),
        bootstrap_metrics(len(images), accuracy_metric(scores, truth)),
        failed,
        settings,
        {"per_class": per_class, "confusion": confusion},
        [
            ScoredExample(str(image), labels[label], labels[target], float(label == target))
            for image, label, target in zip(images, predicted, truth, strict=True)
        ],
    )
