"""The notebooks of the tour say what its page in the guide says."""

import importlib.util
import re
from types import ModuleType

import pytest

from examples import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("babel")


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tour_notebooks", ROOT / "docs" / "tour_notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["tour.ipynb", "tour.zh.ipynb"])
def test_the_notebooks_are_up_to_date(name: str, notebooks: ModuleType) -> None:
    written = nbformat.read(ROOT / "examples" / name, 4)
    assert written == notebooks.notebook(notebooks.NOTEBOOKS[name]), "run python docs/tour_notebooks.py"


def test_the_chinese_notebook_has_the_code_of_the_english_one_and_chinese_prose() -> None:
    english, chinese = (nbformat.read(ROOT / "examples" / name, 4).cells for name in ("tour.ipynb", "tour.zh.ipynb"))
    assert [cell.source for cell in english if cell.cell_type == "code"] == [
        cell.source for cell in chinese if cell.cell_type == "code"
    ]
    for cell in chinese:
        for paragraph in cell.source.split("\n\n") if cell.cell_type == "markdown" else ():
            assert re.search("[\u4e00-\u9fff]", paragraph), paragraph


def test_prose_and_code_alternate_as_on_the_page(notebooks: ModuleType) -> None:
    page = "# A\n\nText.\n\n```python\nx = 1\n```\n\nMore.\n"
    assert notebooks.parts(page) == [("markdown", "# A\n\nText."), ("code", "x = 1"), ("markdown", "More.")]
