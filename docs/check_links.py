"""Looks through the built guide for links that lead nowhere, and for anything that a page would fetch from elsewhere.

python docs/check_links.py build/docs
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
}


class Page(HTMLParser):
    """What a page links to, what it fetches, and the places in it that a link may name."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every tag."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.fetched += [values[name] for name in FETCHED.get(tag, ()) if name in values]
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def faults(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, one line each."""
    pages = {file: Page(file.read_text("utf-8")) for file in sorted(folder.rglob("*.html"))}
    found = [] if pages else [f"{folder}: there are no pages"]
    for file, page in pages.items():
        where = file.relative_to(folder)
        found += [
            f"{where}: fetches {address}"
            for address in page.fetched
            if urlsplit(address).netloc or urlsplit(address).scheme not in ("", "data")
        ]
        for address in page.links + page.fetched:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{where}: {address} is not there")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {address} names no place in {target.relative_to(folder)}")
    for style in sorted(folder.rglob("*.css")):
        text = style.read_text("utf-8")
        if "url(http" in text.replace('"', "").replace("'", "") or "@import" in text:
            found.append(f"{style.relative_to(folder)}: fetches from elsewhere")
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]).resolve())
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(bool(wrong))
