"""The widgets with small random models, and a complete run of the example notebook."""

import os
import subprocess
import sys
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

import beholder
import serving
from beholder import Album, DualEncoder, VisionLanguageModel
from beholder.album.duplicates import DuplicateGroup
from beholder.album.question_answering import AlbumAnswer
from beholder.errors import PictureNotFound
from beholder.notebook import chat, draw, gallery, similarity
from beholder.notebook.display import register_formatters
from beholder.tasks.conversation import ConversationTruncatedWarning
from serving import picture

EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    serving.vision_language_model(folder)
    return folder


@pytest.fixture(scope="module")
def writer(folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return serving.encoder()


def test_a_typed_question_gets_the_answer_of_the_library(writer: VisionLanguageModel) -> None:
    box = chat(picture(), writer, max_new_tokens=8)
    plain = writer.chat(picture(), max_new_tokens=8)
    box.question.value = "what is this ?"  # as if submitted with the Enter key
    assert box.question.value == ""
    assert box.conversation.history == [("what is this ?", plain.ask("what is this ?"))]
    box.question.value = "how many ?"
    box.button.click()
    plain.ask("how many ?")
    assert box.conversation.history == plain.history
    assert "what is this ?" in box.transcript.value and not box.button.disabled
    assert bytes(box.picture.value).startswith(b"\xff\xd8")


def test_the_answer_is_streamed(writer: VisionLanguageModel) -> None:
    box = chat(picture(), writer, max_new_tokens=8)
    shown: list[str] = []
    box.transcript.observe(lambda change: shown.append(change["new"]), "value")
    box.ask("what is this ?")
    assert len(shown) > 3
    assert all(len(one) <= len(two) for one, two in pairwise(shown))


def test_errors_are_shown_in_the_box(writer: VisionLanguageModel) -> None:
    box = chat(picture(), writer, max_new_tokens=8)
    box.ask("dog " * 80)
    assert "tokens" in box.transcript.value and box.conversation.history == []
    box.question.value = "   "
    box.button.click()
    assert box.conversation.history == []
    for _ in range(4):
        box.ask("dog " * 12)
    assert any("dropped" in note for note in box.notes), ConversationTruncatedWarning


def test_markup_in_text_is_escaped(writer: VisionLanguageModel, tmp_path: Path) -> None:
    box = chat(picture(), writer, max_new_tokens=4)
    box.ask(MARKUP)
    assert "<img" not in box.transcript.value and "&lt;img" in box.transcript.value
    named = tmp_path / f"{MARKUP}.png".replace("/", "")
    picture().save(named)
    for html in (gallery([named])._repr_html_(), gallery([(named, MARKUP)])._repr_html_()):
        assert html.count("<img") == 1 and "&lt;img" in html


def test_a_drawing_grows_and_is_that_of_the_library() -> None:
    generator = serving.generator()
    box = draw("a cat", generator, count=2, seed=5, steps=6)
    assert box.drawings.children == () and box.prompt.value == "a cat"
    shown: list[bytes] = []
    first_pictures: list[bytes] = []

    def added(change: dict[str, Any]) -> None:
        for child in change["new"][len(change["old"]) :]:
            first_pictures.append(bytes(child.children[0].value))
            child.children[0].observe(lambda change: shown.append(bytes(change["new"])), "value")

    box.drawings.observe(added, "children")
    box.button.click()
    expected = generator.generate("a cat", count=2, seed=5, steps=6)
    assert [each.seed for each in box.pictures] == [5, 6] and first_pictures == [b"", b""]
    assert all(
        np.array_equal(np.asarray(each.picture), np.asarray(theirs))
        for each, theirs in zip(box.pictures, expected, strict=True)
    )
    assert len(shown) > 4 and all(each.startswith(b"\x89PNG") for each in shown)
    notes = [child.children[1].value for child in box.drawings.children]
    assert notes == [f"seed {each.seed}, match {each.match:.0%}" for each in box.pictures]
    assert box.note.value == "" and not box.button.disabled
    box.button.click()
    assert len(box.drawings.children) == len(box.pictures) == 2


def test_what_cannot_be_drawn_is_said_in_the_box() -> None:
    box = draw("  ", serving.generator(), steps=1)
    box.draw()
    assert "nothing to draw" in box.note.value and box.pictures == [] and not box.button.disabled
    box.prompt.value = f"{MARKUP} " * 40
    box.draw()
    assert "too long" in box.note.value and "<img" not in box.note.value and len(box.pictures) == 1


def test_a_gallery_accepts_streams_scores_and_pictures(
    writer: VisionLanguageModel, encoder: DualEncoder, photographs: list[Path]
) -> None:
    captions = writer.caption(photographs)
    found = gallery(writer.stream_captions(photographs))
    assert [words for _, words, _ in found.rows] == captions
    assert found._repr_html_().count("<img") == len(photographs)
    scored = gallery([(photographs[0], 0.25), (picture(), "noise"), np.zeros((4, 4, 3), np.uint8)])
    assert [words for _, words, _ in scored.rows] == ["0.250", "noise", ""]
    assert len(gallery(encoder.stream_images(photographs))) == 4


def test_a_picture_that_cannot_be_shown_is_reported_in_place(photographs: list[Path]) -> None:
    found = gallery([photographs[0], "nothing.jpg", photographs[1]])
    assert [error is None for _, _, error in found.rows] == [True, False, True]
    assert isinstance(found.rows[1][2], PictureNotFound) and "no such file" in found._repr_html_()


def test_functions_of_the_module_can_be_called_repeatedly(photographs: list[Path], encoder: DualEncoder) -> None:
    import beholder.notebook

    for _ in range(2):
        assert len(beholder.notebook.gallery(photographs)) == 4
        assert beholder.notebook.similarity(photographs[:1], ["a dog"], encoder).names == [str(photographs[0])]


@pytest.fixture
def album(tmp_path: Path, photographs: list[Path], encoder: DualEncoder) -> Album:
    album = Album.open(tmp_path / "album")
    album.index(photographs[0].parent, model=encoder)
    album.describe(photographs[1], caption="a <b>meadow</b>")
    return album


def test_a_gallery_accepts_album_results(album: Album, photographs: list[Path]) -> None:
    found = album.search("a meadow", top=3)
    shown = gallery(found)
    assert [name for name, _, _ in shown.rows] == [one.picture.path for one in found]
    for one, (_, words, error) in zip(found, shown.rows, strict=True):
        assert Path(one.picture.path).name in words and f"{one.match:.0%}" in words and error is None
        assert ("hardly fits" in words) == (not one.fits)
    assert {one.fits for one in found} == {True, False}, "the test needs one that fits and one that does not"
    alike = gallery(album.search(image=photographs[0], top=1))
    assert alike.rows[0][1].startswith("harbour.jpg, 1.0")
    assert "a <b>meadow</b>" in [words for _, words, _ in gallery(album.pictures()).rows]
    assert "<b>" not in gallery(album.pictures())._repr_html_()
    group = DuplicateGroup(
        paths=(str(photographs[0]), str(photographs[3])),
        pictures=tuple(one.picture for one in found[:2]),
        distance=0.1,
        kind="burst",
    )
    assert [words for _, words, _ in gallery([group]).rows] == ["keep harbour.jpg", "sea.jpg, burst"]
    gone = PictureNotFound("gone.jpg", "there is no such file")
    answers = gallery([AlbumAnswer(found[0].picture, "by the sea", 0.5, None, True), gone])
    assert [(name, words) for name, words, _ in answers.rows] == [
        (found[0].picture.path, "by the sea"),
        ("gone.jpg", ""),
    ]
    assert answers.rows[1][2] is gone


def test_results_are_displayed_as_html_in_a_notebook(
    album: Album, writer: VisionLanguageModel, photographs: list[Path]
) -> None:
    shell = InteractiveShell()
    register_formatters(shell)

    def html(result: Any) -> str:
        return shell.display_formatter.format(result)[0].get("text/html", "")

    (found,) = album.search("a meadow", top=1)
    assert html(found) == gallery([found])._repr_html_()
    (captioned,) = writer.stream_captions(photographs[:1])
    assert html(captioned).count("<img") == 1 and escape(str(captioned.caption)) in html(captioned)
    assert html(next(album.pictures())).count("<img") == 1
    chosen = writer.ask(photographs[0], "what ?", choices=["a <b>", "b"])
    assert html(chosen).count("<tr>") == 2 and "a &lt;b&gt;" in html(chosen)
    assert f"{chosen.confidence:.0%}" in html(chosen)
    talk = writer.chat(photographs[0], max_new_tokens=4)
    talk.ask(MARKUP)
    assert "&lt;img" in html(talk) and "<img" not in html(talk)


@pytest.mark.slow
def test_importing_the_module_in_a_notebook_registers_the_formatters() -> None:
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import beholder.notebook, sys
assert "torch" not in sys.modules
from beholder.tasks.vision_language_results import Answer
print(shell.display_formatter.format(Answer("yes", 0.5))[0]["text/html"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "50%" in run.stdout, run.stderr


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_similarity_matrix_contains_the_values_of_the_library(calibrated: bool, photographs: list[Path]) -> None:
    import tiny_model

    encoder = DualEncoder(tiny_model.build(calibrated=calibrated), "cpu")
    texts = ["a dog", "a <b>cat</b>"]
    matrix = similarity(photographs, texts, encoder)
    np.testing.assert_allclose(matrix.cosines, encoder.similarity(photographs, texts), atol=1e-6)
    assert (matrix.match is not None) == calibrated
    html = matrix._repr_html_()
    assert html.count("<tr>") == 5 and html.count("<b>") == 4 and "&lt;b&gt;cat" in html
    assert ("%</b>" in html) == calibrated


def execute(encoder: str, writer: str) -> Any:
    notebook = nbformat.read(EXAMPLE, 4)
    notebook.cells[1].source = f"ENCODER, VISION_LANGUAGE_MODEL = {encoder!r}, {writer!r}"
    resources = {"metadata": {"path": str(EXAMPLE.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    return client.execute(env={**os.environ, "PYTHONPATH": str(Path(beholder.__file__).parents[1])})


def shown(notebook: Any) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    return ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]


@pytest.mark.slow
def test_the_example_notebook_runs(tiny_model: Path, folder: Path) -> None:
    notebook = execute(str(tiny_model), str(folder))
    pages = shown(notebook)
    assert sum("<table>" in page for page in pages) == 1
    assert sum("<figure" in page for page in pages) == 3
    assert "application/vnd.jupyter.widget-view+json" in notebook.cells[-2].outputs[-1].data
    assert "What animal is in the picture?" in notebook.cells[-1].outputs[-1].data["text/plain"]


def test_the_example_notebook_is_stored_without_outputs() -> None:
    assert not any(cell.get("outputs") for cell in nbformat.read(EXAMPLE, 4).cells)


@pytest.mark.mini
@pytest.mark.slow
def test_the_example_notebook_runs_with_the_default_model() -> None:
    notebook = execute("mini", "mini")
    assert sum("<table>" in page for page in shown(notebook)) == 1
