"""Write the notebooks of the tour, English and Chinese, from its page in the guide and the page's catalog.

python docs/tour_notebooks.py
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from babel.messages.pofile import read_po

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tour.md"
CATALOG = ROOT / "docs" / "locale" / "zh_CN" / "LC_MESSAGES" / "tour.po"
NOTEBOOKS = {"tour.ipynb": False, "tour.zh.ipynb": True}  # whether it is translated
FIRST = 'import os\n\nos.chdir("..")  # the photographs are in demo/photographs'


def parts(text: str) -> list[tuple[str, str]]:
    """Split a page into prose and code, in their order: ``("markdown", …)`` and ``("code", …)``."""
    found = []
    for number, part in enumerate(re.split(r"```python\n(.*?)```\n", text, flags=re.S)):
        if part.strip():
            found.append(("code" if number % 2 else "markdown", part.strip("\n")))
    return found


def translation() -> Callable[[str], str]:
    """Return the translation of a paragraph or heading of the page; an untranslated one stays English."""
    with CATALOG.open("rb") as lines:
        catalog = read_po(lines, locale="zh_CN")

    def translated(paragraph: str) -> str:
        marks, text = re.fullmatch(r"(#* ?)(.*)", " ".join(paragraph.split())).groups()  # type: ignore[union-attr]
        message = catalog.get(text)
        return marks + (message.string if message is not None and message.string else text)

    return translated


def notebook(in_chinese: bool) -> Any:
    """Return the notebook without outputs."""
    translated: Callable[[str], str] = translation() if in_chinese else str
    cells = [nbformat.v4.new_code_cell(FIRST, id="folder")]
    for number, (kind, text) in enumerate(parts(PAGE.read_text("utf-8"))):
        if kind == "code":
            cells.append(nbformat.v4.new_code_cell(text, id=f"cell-{number}"))
        else:
            prose = "\n\n".join(translated(paragraph) for paragraph in re.split(r"\n{2,}", text))
            cells.append(nbformat.v4.new_markdown_cell(prose, id=f"cell-{number}"))
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata["language_info"] = {"name": "python"}
    return made


def main() -> None:
    """Write both notebooks."""
    for name, in_chinese in NOTEBOOKS.items():
        (ROOT / "examples" / name).write_text(nbformat.writes(notebook(in_chinese)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
