"""The link checker of the guide finds errors; `make docs` runs it on the guide itself."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "check_links.py"
spec = importlib.util.spec_from_file_location("check_links", SCRIPT)
assert spec is not None and spec.loader is not None
check_links = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_links)


def write(folder: Path, one: str, other: str = "<h1 id='top'>Other</h1>") -> list[str]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "one.html").write_text(one)
    (folder / "sub" / "other.html").write_text(other)
    (folder / "picture.png").write_bytes(b"")
    return check_links.faults(folder)


def test_valid_links_are_accepted(tmp_path: Path) -> None:
    page = """<p id="here"></p><a href="#here">a</a><a href="sub/other.html#top">b</a><img src="picture.png">
    <a href="https://example.org/">elsewhere</a><a href="sub/other.html">c</a><img src="data:,">"""
    assert write(tmp_path, page, "<h1 id='top'></h1><a href='../one.html#here'>back</a>") == []


def test_a_missing_page_is_reported(tmp_path: Path) -> None:
    assert write(tmp_path, "<a href='gone.html'>a</a>") == ["one.html: gone.html does not exist"]
    assert write(tmp_path, "<img src='gone.png'>") == ["one.html: gone.png does not exist"]


def test_a_missing_anchor_is_reported(tmp_path: Path) -> None:
    assert write(tmp_path, "<a href='sub/other.html#below'>a</a>") == [
        "one.html: sub/other.html#below has no anchor in sub/other.html"
    ]
    assert write(tmp_path, "<a href='#gone'>a</a>") == ["one.html: #gone has no anchor in one.html"]


def test_resources_from_other_hosts_are_reported(tmp_path: Path) -> None:
    assert write(tmp_path, "<script src='https://cdn.example/x.js'></script>") == [
        "one.html: fetches https://cdn.example/x.js"
    ]
    assert write(tmp_path, "<link rel='stylesheet' href='//cdn.example/x.css'>") == [
        "one.html: fetches //cdn.example/x.css"
    ]
    (tmp_path / "style.css").write_text("body { background: url('https://cdn.example/x.png') }")
    assert write(tmp_path, "<p></p>") == ["style.css: fetches from another site"]


def test_an_empty_folder_is_rejected(tmp_path: Path) -> None:
    assert check_links.faults(tmp_path) == [f"{tmp_path}: there are no pages"]
