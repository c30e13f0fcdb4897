"""Check the built guide for broken links, and for anything that a page would fetch from another site.

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
    """The links, fetched resources and anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links, resources and anchors."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.fetched += [values[name] for name in FETCHED.get(tag, ()) if name in values]
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def faults(folder: Path) -> list[str]:
    """Return the faults of a folder of pages, one line each."""
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
                found.append(f"{where}: {address} does not exist")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {address} has no anchor in {target.relative_to(folder)}")
    for style in sorted(folder.rglob("*.css")):
        text = style.read_text("utf-8")
        if "url(http" in text.replace('"', "").replace("'", "") or "@import" in text:
            found.append(f"{style.relative_to(folder)}: fetches from another site")
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]).resolve())
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(bool(wrong))
