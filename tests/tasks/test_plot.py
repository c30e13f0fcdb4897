"""The similarity plot: its size, its cells, and labels that are difficult to draw."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.errors import InvalidSetting, MissingExtra
from beholder.tasks.plot import MAX_ITEMS, plot_similarity

pytest.importorskip("matplotlib", reason="drawing needs the extra beholder[plot]")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = []
    for index, (colour, size) in enumerate([("red", (300, 100)), ("lime", (100, 300)), ("yellow", (50, 50))]):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", size, colour).save(path)
        paths.append(str(path))
    return paths


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as drawn:
        found = drawn.convert("RGB").getcolors(drawn.width * drawn.height)
    return {colour for count, colour in found if count > 200}


def test_the_plot_shows_each_picture_and_grows_with_pictures_and_sentences(tmp_path: Path, pictures: list[str]):
    plot_similarity(tmp_path / "small.png", pictures[:1], ["a"], np.array([[0.5]]), "match")
    plot_similarity(
        tmp_path / "large.png", pictures, ["a", "b", "c", "d"], np.linspace(0, 1, 12).reshape(3, 4), "match"
    )
    with Image.open(tmp_path / "small.png") as small, Image.open(tmp_path / "large.png") as large:
        assert large.width > 1.5 * small.width
        assert large.height > 1.5 * small.height
    assert {(255, 0, 0), (0, 255, 0), (255, 255, 0)} <= colours(tmp_path / "large.png")


def test_the_values_are_printed_in_the_cells(
    tmp_path: Path, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    written = []
    draw_text = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, s, **options: (written.append(s), draw_text(self, x, y, s, **options))[1]
    )
    plot_similarity(tmp_path / "m.png", pictures[:2], ["a", "b"], np.array([[0.11, 0.22], [0.33, 0.44]]), "cosine")
    assert {"0.11", "0.22", "0.33", "0.44", "a", "b", "cosine"} == set(written)


def test_the_color_of_a_value_follows_from_the_limits(tmp_path: Path, pictures: list[str]):
    for name, value in (("low", 0.0), ("high", 1.0)):
        plot_similarity(tmp_path / f"{name}.png", pictures[:1], ["a"], np.array([[value]]), "match", limits=(0.0, 1.0))
    low, high = (min(map(sum, colours(tmp_path / f"{name}.png") - {(255, 0, 0)})) for name in ("low", "high"))
    assert low > high + 200


@pytest.mark.parametrize(
    "text",
    [
        "一只小狗在雪地里玩耍" * 20,
        "собака и кошка",
        "كلب في الثلج",
        "from $5 to $6, or $\\frac{1}$",
        "two\nlines\tand a tab",
        "half a character \udce9",
        "",
        "👩🏽‍🚀 " * 50,
        "w" * 500,
    ],
)
def test_any_sentence_can_be_a_label(tmp_path: Path, pictures: list[str], text: str, recwarn: pytest.WarningsRecorder):
    plot_similarity(tmp_path / "m.png", pictures[:1], [text], np.array([[0.5]]), "match")
    with Image.open(tmp_path / "m.png") as drawn:
        assert drawn.width < 2000
        assert drawn.height < 400
    assert not recwarn


def test_a_missing_picture_is_replaced_by_its_name(tmp_path: Path, pictures: list[str]):
    values = np.full((2, 1), 0.5)
    plot_similarity(tmp_path / "m.png", [pictures[0], str(tmp_path / "gone.png")], ["a"], values, "match")
    assert (255, 0, 0) in colours(tmp_path / "m.png")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("m.pdf", np.zeros((1, 1))),
        ("nowhere/m.png", np.zeros((1, 1))),
        ("m.png", np.zeros((2, 1))),
        ("m.png", np.zeros((1, MAX_ITEMS + 1))),
        ("m.png", np.zeros((1, 0))),
    ],
)
def test_invalid_arguments_are_refused_and_no_file_is_written(
    tmp_path: Path, pictures: list[str], name: str, values: np.ndarray
):
    texts = ["a"] * values.shape[1]
    with pytest.raises(InvalidSetting):
        plot_similarity(tmp_path / name, pictures[:1], texts, values, "match")
    assert not (tmp_path / name).exists()


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"beholder\[plot\]"):
        plot_similarity(tmp_path / "m.png", [], [], np.zeros((0, 0)), "match")
