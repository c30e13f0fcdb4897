"""The Chinese guide is an up-to-date translation of the English one and uses the terms of its glossary."""

import csv
import re
from pathlib import Path

import pytest

from examples import ROOT

pytest.importorskip("sphinx")
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from sphinx.application import Sphinx

DOCS = ROOT / "docs"
LOCALE = DOCS / "locale" / "zh_CN"
PAGES = sorted(
    page.relative_to(DOCS).with_suffix("").as_posix()
    for pattern in ("index.md", "quick-start.md", "tour.md", "measured-how.md", "how-to/*.md", "how-it-works/*.md")
    for page in DOCS.glob(pattern)
    if page.stem != "which-model"  # generated from the table of models
)
REFERENCE = re.compile(r"\]\([^)\s]+\)|\{py:\w+\}`[^`]+`|`[^`]+`")


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The messages of the English pages, as extracted by Sphinx."""
    folder = tmp_path_factory.mktemp("gettext")
    (folder / "conf.py").write_text("")
    settings = {
        "extensions": ["myst_parser"],
        "myst_enable_extensions": ["attrs_block", "colon_fence", "deflist", "fieldlist"],
        "exclude_patterns": ["figures", "reference", "models", "benchmarks", "measured.md", "drawn", "locale"],
        "gettext_compact": False,
        "gettext_location": False,
    }
    app = Sphinx(DOCS, folder, folder / "messages", folder / "doctrees", "gettext", settings, status=None, warning=None)
    app.build()
    return folder / "messages"


def catalog(file: Path) -> Catalog:
    with file.open("rb") as lines:
        return read_po(lines, locale="zh_CN")


def translated(page: str) -> Catalog:
    return catalog(LOCALE / "LC_MESSAGES" / f"{page}.po")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_paragraph_is_translated_and_up_to_date(page: str, english: Path) -> None:
    today = {message.id for message in catalog(english / f"{page}.pot") if message.id}
    known = {message.id: message for message in translated(page) if message.id}
    missing = [text for text in today if text not in known or not known[text].string or known[text].fuzzy]
    assert not missing, f"docs/locale/zh_CN/LC_MESSAGES/{page}.po does not translate; run make catalogs"
    assert not known.keys() - today, f"docs/locale/zh_CN/LC_MESSAGES/{page}.po translates what {page} no longer says"


@pytest.mark.parametrize("page", PAGES)
def test_a_translation_keeps_the_code_and_links_of_the_original(page: str) -> None:
    for message in translated(page):
        if message.id:
            assert sorted(REFERENCE.findall(message.string)) == sorted(REFERENCE.findall(message.id)), message.string


@pytest.mark.parametrize("page", PAGES)
def test_terms_match_the_glossary(page: str) -> None:
    with (LOCALE / "terms.csv").open(encoding="utf-8", newline="") as lines:
        terms = {row["English"]: row["Chinese"] for row in csv.DictReader(lines)}
    assert terms["zero-shot"] == "零样本"
    for message in translated(page):
        plain = REFERENCE.sub("", message.id).lower() if message.id else ""
        for term, chinese in terms.items():
            if re.search(rf"\b{term}s?\b", plain):
                assert chinese in message.string, f"{term}: {message.string}"
