"""Complete evaluations with small random models: metrics, skipped pictures and caches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from beholder import DualEncoder, VisionLanguageModel
from beholder.errors import InvalidSetting, PictureError
from beholder.evaluation.caption_metrics import caption_metrics
from beholder.evaluation.data import CaptionExample, LabeledExample, VQAExample
from beholder.evaluation.evaluate import (
    evaluate_captions,
    evaluate_linear_probe,
    evaluate_retrieval,
    evaluate_vqa,
    evaluate_zero_shot,
)
from beholder.evaluation.linear_probe import holdout_mask
from beholder.evaluation.report import NullProgress, Report
from beholder.evaluation.vqa import vqa_accuracy
from beholder.text.templates import ENSEMBLE
from tiny_blip2 import make

NAMES = ("dog", "cats", "snow", "sofa", "fox", "lake", "house")
CAPTIONS = (("a dog in the snow", "two cats"), ("a red boat",), ("the lake", "a house", "a fox"), ("people",))


class Listener(NullProgress):
    """Record which pictures failed and how many items were processed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def failed(self, error: PictureError) -> None:
        self.names.append(error.name)


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DualEncoder:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    return DualEncoder.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp("blip2")
    make("opt", folder)
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


@pytest.fixture
def captioned(photographs: list[Path]) -> list[CaptionExample]:
    return [CaptionExample(path, captions) for path, captions in zip(photographs, CAPTIONS, strict=True)]


def broken(folder: Path) -> Path:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder / "broken.jpg"


def values(report: Report) -> dict[str, float]:
    assert all(figure.low <= figure.value + 1e-9 and figure.value <= figure.high + 1e-9 for figure in report.metrics)
    return {figure.metric: figure.value for figure in report.metrics}


def test_retrieval_recall_equals_a_naive_computation(
    encoder: DualEncoder, captioned: list[CaptionExample], tmp_path: Path
) -> None:
    listener = Listener()
    examples = [captioned[0], CaptionExample(broken(tmp_path), ("left out",)), *captioned[1:]]
    report = evaluate_retrieval(encoder, examples, progress=listener)
    texts = [caption for captions in CAPTIONS for caption in captions]
    owner = [number for number, captions in enumerate(CAPTIONS) for _ in captions]
    cosines = encoder.similarity([example.image for example in captioned], texts)
    found = sum(int(cosines[:, text].argmax()) == own for text, own in enumerate(owner))
    back = sum(owner[int(cosines[picture].argmax())] == picture for picture in range(4))
    assert values(report)["text_to_image@1"] == pytest.approx(found / len(texts), abs=1e-6)
    assert values(report)["image_to_text@1"] == pytest.approx(back / 4, abs=1e-6)
    assert listener.names == [name for name, _ in report.failed] == [str(tmp_path / "broken.jpg")]
    assert report.pictures == 4 and [result.question for result in report.examples] == texts


def labelled(folder: Path, classes: int, each: int) -> list[LabeledExample]:
    """Paint pictures with roughly the color of their class, whose name is two words of the tiny vocabulary."""
    from PIL import Image

    generator = np.random.default_rng(0)
    folder.mkdir()
    examples = []
    for label in range(classes):
        colour = generator.integers(40, 215, 3)
        for number in range(each):
            pixels = np.clip(colour + generator.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{label}-{number}.png")
            examples.append(LabeledExample(folder / f"{label}-{number}.png", f"the_{NAMES[label]}"))
    return examples


def test_zero_shot_accuracy_equals_that_of_scikit_learn(encoder: DualEncoder, tmp_path: Path) -> None:
    examples = labelled(tmp_path / "classes", 7, 4)
    report = evaluate_zero_shot(encoder, examples)
    labels = sorted({example.label for example in examples})
    assert len(np.unique(encoder.embed_labels(labels).round(4), axis=0)) == 7
    truth = [labels.index(example.label) for example in examples]
    scores = (
        encoder.embed_images([example.image for example in examples])
        @ encoder.embed_labels([label.replace("_", " ") for label in labels], ENSEMBLE).T
    )
    expected = {
        "top1": top_k_accuracy_score(truth, scores, k=1),
        "top5": top_k_accuracy_score(truth, scores, k=5),
        "mean_per_class": balanced_accuracy_score(truth, scores.argmax(1)),
    }
    assert values(report) == pytest.approx(expected, abs=1e-6)
    assert sum(sum(row.values()) for row in report.details["confusion"].values()) == 28
    with pytest.raises(InvalidSetting, match="'the_cats' occurs and is not among the 2 labels"):
        evaluate_zero_shot(encoder, examples, labels=["red", "green"])


def test_additional_labels_reduce_the_accuracy(encoder: DualEncoder, captioned: list[CaptionExample]) -> None:
    examples = [LabeledExample(example.image, "dog" if number else "cat") for number, example in enumerate(captioned)]
    few = values(evaluate_zero_shot(encoder, examples))["top1"]
    many = values(evaluate_zero_shot(encoder, examples, labels=["dog", "cat", *"abcdefghijklmnopqrstuvwxyz"]))["top1"]
    assert many < few


def test_a_linear_probe_equals_scikit_learn_on_the_pooled_features(encoder: DualEncoder, tmp_path: Path) -> None:
    examples = labelled(tmp_path / "classes", 3, 15)
    report = evaluate_linear_probe(encoder, examples)
    features = np.stack(
        [picture.embedding for picture in encoder.stream_images([e.image for e in examples], features=True)]
    )
    assert features.shape == (45, 16)  # the width of the tower, not the embedding dimension, 8
    truth = np.repeat(np.arange(3), 15)
    out = holdout_mask(truth)
    probe = LogisticRegression(C=1 / report.settings["strength"], max_iter=1000).fit(features[~out], truth[~out])
    assert values(report)["top1"] == pytest.approx(probe.score(features[out], truth[out]), abs=1e-6)
    assert values(report)["top1"] > 0.5 and report.pictures == 9
    own = evaluate_linear_probe(encoder, examples[:30], test=examples[:5])
    assert own.pictures == 5 and own.settings["fitted"] == 30
    with pytest.raises(InvalidSetting, match="'the_snow' occurs in the test set"):
        evaluate_linear_probe(encoder, examples[:30], test=examples[28:])


def test_a_linear_probe_supports_two_classes(encoder: DualEncoder, tmp_path: Path) -> None:
    report = evaluate_linear_probe(encoder, labelled(tmp_path / "classes", 2, 10))
    assert set(values(report)) == {"top1", "mean_per_class"} and report.pictures == 4


def test_the_caption_report_equals_the_metrics_of_the_captions(
    writer: VisionLanguageModel, captioned: list[CaptionExample], tmp_path: Path
) -> None:
    listener = Listener()
    examples = [*captioned, CaptionExample(tmp_path / "missing.jpg", ("a",))]
    report = evaluate_captions(writer, examples, num_beams=1, progress=listener)
    captions = writer.caption([example.image for example in captioned], num_beams=1)
    assert [result.prediction for result in report.examples] == captions
    assert values(report) == pytest.approx(caption_metrics(captions, CAPTIONS), abs=1e-6)
    assert listener.names == [str(tmp_path / "missing.jpg")]


def test_captions_in_the_file_are_not_generated_again(
    writer: VisionLanguageModel, captioned: list[CaptionExample], tmp_path: Path
) -> None:
    kept = tmp_path / "written.jsonl"
    kept.write_text(json.dumps({"image": str(captioned[1].image), "caption": "a red boat"}) + "\n")
    report = evaluate_captions(writer, captioned, captions_file=kept)
    assert report.examples[1].prediction == "a red boat"
    assert len(kept.read_text().splitlines()) == 4
    again = evaluate_captions(writer, captioned, captions_file=kept)
    assert again.metrics == report.metrics and len(kept.read_text().splitlines()) == 4


def test_the_vqa_report_equals_the_accuracy_of_the_answers(
    writer: VisionLanguageModel, photographs: list[Path], tmp_path: Path
) -> None:
    listener = Listener()
    questions = [("what is the dog?", ("dog", "a dog", "cat")), ("how many?", ("two",)), ("red?", ("yes", "yes", "no"))]
    examples = [VQAExample(path, question, answers) for path in photographs for question, answers in questions]
    bad = broken(tmp_path)
    report = evaluate_vqa(
        writer, [VQAExample(bad, "a?", ("b",)), *examples, VQAExample(bad, "a?", ("b",))], progress=listener
    )
    answers = writer.answers([(example.image, example.question) for example in examples])
    assert [result.prediction for result in report.examples] == answers
    expected = vqa_accuracy(answers, [example.answers for example in examples])
    assert values(report)["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert set(values(report)) == {"accuracy", "accuracy yes/no", "accuracy number", "accuracy other"}
    assert listener.names == [str(bad)] and report.pictures == 4 and report.details["questions"] == 12


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_answers_in_the_file_are_not_generated_again(
    writer: VisionLanguageModel, photographs: list[Path], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [VQAExample(path, question, ("dog",)) for path in photographs for question in ("what?", "who, there?")]
    kept = tmp_path / f"answered.{suffix}"
    first = evaluate_vqa(writer, examples[:3], answers_file=kept)
    every = evaluate_vqa(writer, examples, answers_file=kept)
    assert [result.prediction for result in every.examples[:3]] == [result.prediction for result in first.examples]
    lines = kept.read_text("utf-8").splitlines()
    assert len(lines) == 8 + (suffix == "csv")
    monkeypatch.setattr(VisionLanguageModel, "answers", None)  # a call would fail
    assert evaluate_vqa(writer, examples, answers_file=kept).metrics == every.metrics
    kept.write_text(
        kept.read_text("utf-8").replace(lines[-1], lines[-1].replace(every.examples[-1].prediction, "dog")), "utf-8"
    )
    assert evaluate_vqa(writer, examples, answers_file=kept).examples[-1].score == 1


def test_vectors_are_cached_by_content_and_model(
    encoder: DualEncoder, captioned: list[CaptionExample], tiny_model: Path, tmp_path: Path
) -> None:
    first = evaluate_retrieval(encoder, captioned)

    def refuse(pixels: Any) -> Any:
        raise AssertionError("the network was asked again")

    encoder.network.embed_image = refuse  # type: ignore[method-assign]
    assert evaluate_retrieval(encoder, captioned).metrics == first.metrics
    moved = captioned[0].image.rename(tmp_path / "moved.jpg")
    evaluate_retrieval(encoder, [CaptionExample(moved, ("a",)), *captioned[1:]])
    other = DualEncoder.from_pretrained(tiny_model, device="cpu")
    other.network.image_head.linear.weight.data[0, 0] += 1
    other.network.embed_image = refuse  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="asked again"):
        evaluate_retrieval(other, captioned[1:])


def test_a_truncated_cached_embedding_is_computed_again(encoder: DualEncoder, captioned: list[CaptionExample]) -> None:
    first = evaluate_retrieval(encoder, captioned)
    from beholder.weights.cache import cache_folder

    kept = sorted((cache_folder() / "vectors").rglob("*.npy"))
    assert len(kept) == 4
    kept[0].write_bytes(kept[0].read_bytes()[:-5])
    kept[1].write_bytes(b"")
    assert evaluate_retrieval(encoder, captioned).metrics == first.metrics


def test_an_evaluation_without_usable_pictures_is_an_error(
    encoder: DualEncoder, writer: VisionLanguageModel, tmp_path: Path
) -> None:
    bad = broken(tmp_path)
    with pytest.raises(PictureError, match="none of the 1 pictures can be used"):
        evaluate_retrieval(encoder, [CaptionExample(bad, ("a",))])
    with pytest.raises(PictureError, match="none of the 1 pictures can be used"):
        evaluate_captions(writer, [CaptionExample(bad, ("a",))])
    with pytest.raises(PictureError, match="none of the pictures of the 1 questions"):
        evaluate_vqa(writer, [VQAExample(bad, "a?", ("b",))])


def test_a_report_is_written_as_complete_json(
    encoder: DualEncoder, captioned: list[CaptionExample], tmp_path: Path
) -> None:
    report = evaluate_retrieval(encoder, [*captioned, CaptionExample(broken(tmp_path), ("a",))], data="photographs")
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert written["task"] == "retrieval" and written["data"] == "photographs" and written["pictures"] == 4
    assert set(written["figures"][0]) == {"metric", "value", "low", "high"}
    assert written["failed"][0]["image"].endswith("broken.jpg") and written["failed"][0]["error"]
    assert len(written["results"]) == 7
