"""index, search, duplicates, cluster, map and outliers on the command line."""

import html.parser
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_album import draw

from beholder import DualEncoder
from command import beholder

RUN = "from beholder.cli.main import run; run()"


def lines(run: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with ``photographs`` (twelve pictures and a copy of one of them) and their ``album``."""
    home = tmp_path_factory.mktemp("home")
    for number in range(10):
        draw(home / "photographs" / f"{number}.png", number)
    large = draw(home / "photographs" / "large.jpg", 3, (160, 128))
    Image.open(large).resize((80, 64)).save(home / "photographs" / "small.jpg")
    (home / "photographs" / "copy.png").write_bytes((home / "photographs" / "5.png").read_bytes())
    run = beholder("index", home / "photographs", "--album", home / "album", "--model", tiny_model)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{home / 'album'}: 13 added\n"
    return home


def test_index_reports_each_file_and_fails_for_broken_ones(tiny_model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "p" / "a.png", 1)
    call = ("index", tmp_path / "p", "--album", tmp_path / "album", "--model", tiny_model, "--json")
    run = beholder(*call)
    assert run.returncode == 0, run.stderr
    assert lines(run) == [{"image": str(tmp_path / "p" / "a.png"), "status": "added", "error": None}]
    (tmp_path / "p" / "a.png").rename(tmp_path / "p" / "b.png")
    (tmp_path / "p" / "broken.png").write_text("no picture")
    run = beholder(*call)
    assert run.returncode == 1 and "broken.png" in run.stderr and "Traceback" not in run.stderr
    assert {Path(row["image"]).name: row["status"] for row in lines(run)} == {"b.png": "moved", "broken.png": "failed"}
    assert all({"image", "status", "error"} <= set(row) for row in lines(run))
    check = beholder("index", "--check", "--album", tmp_path / "album")
    assert check.returncode == 0 and "recall@10 1.000" in check.stdout and "broken.png" in check.stdout


def test_search_prints_the_nearest_with_scores_and_matches(home: Path) -> None:
    run = beholder("search", "a dog", "--album", home / "album", "--top", "3", "--json")
    assert run.returncode == 0, run.stderr
    rows = lines(run)
    assert len(rows) == 3 and all({"image", "score", "match", "fits"} <= set(row) for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_search_by_name_by_image_and_with_null_separated_paths(home: Path) -> None:
    run = beholder("search", "copy", "--album", home / "album", "-0", "--where", "name:copy", text=False)
    assert run.returncode == 0 and run.stdout == bytes(home / "photographs" / "copy.png") + b"\0"
    run = beholder(
        "search", "--image", home / "photographs" / "7.png", "--album", home / "album", "--nearest", "-k", "1"
    )
    assert run.stdout.endswith("7.png\n")


def test_a_search_without_matches_says_so(home: Path) -> None:
    run = beholder("search", "a dog", "--album", home / "album", "--where", "camera:none")
    assert run.returncode == 0 and run.stdout == "" and "nothing in the album fits" in run.stderr


@pytest.mark.parametrize(
    "call",
    [
        ["search", "--album", "ALBUM"],
        ["search", "a dog", "--album", "ALBUM", "--where", "colour:red"],
        ["search", "a dog", "--album", "NOWHERE"],
        ["search", "a dog", "--album", "ALBUM", "--json", "-0"],
        ["search", "a dog", "--album", "ALBUM", "--model", "no/such"],
        ["index", "--album", "ALBUM"],
        ["index", "--check", "ALBUM", "--album", "ALBUM"],
        ["duplicates", "--album", "NOWHERE"],
        ["cluster", "NOWHERE", "--clusters", "2"],
        ["map", "--album", "ALBUM"],
        ["map", "--album", "ALBUM", "--where", "camera:none", "--json"],
        ["map", "--album", "ALBUM", "--regions", "99", "--json"],
        ["outliers", "--album", "NOWHERE"],
    ],
)
def test_a_usage_error_exits_with_2_and_a_message(call: list[str], home: Path) -> None:
    names = {"ALBUM": str(home / "album"), "NOWHERE": str(home / "nowhere")}
    run = beholder(*[names.get(word, word) for word in call])
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("beholder: ") and "Traceback" not in run.stderr


def test_a_missing_picture_exits_with_1(home: Path) -> None:
    run = beholder("search", "--image", home / "none.png", "--album", home / "album")
    assert run.returncode == 1 and "none.png" in run.stderr


@pytest.mark.slow
def test_search_with_a_compiled_model_does_not_import_torch(
    home: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path))
    DualEncoder.compile(tiny_model)
    program = "import sys\nsys.argv = ['beholder', 'search', 'a dog', '--album', " + repr(str(home / "album")) + "]\n"
    program += "from beholder.cli.main import app\ntry:\n    app()\n"
    program += "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == "False"


def test_indexing_unchanged_pictures_does_not_import_torch(home: Path, tiny_model: Path) -> None:
    program = f"import sys\nfrom beholder import Album\nAlbum.open({str(home / 'album')!r})"
    program += f".index({str(home / 'photographs')!r}, model={str(tiny_model)!r})\nprint('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_duplicates_are_grouped_with_the_picture_to_keep_first(home: Path) -> None:
    run = beholder("duplicates", "--album", home / "album", "--json")
    assert run.returncode == 0, run.stderr
    groups = {tuple(Path(name).name for name in row["images"]): row for row in lines(run)}
    assert groups["5.png", "copy.png"]["distance"] == 0
    with_large = next(names for names in groups if "large.jpg" in names)
    assert with_large[0] == "large.jpg" and {"small.jpg", "3.png"} <= set(with_large)
    assert not any(len({"0.png", "1.png", "2.png"} & set(names)) > 1 for names in groups)


@pytest.mark.parametrize("more", [["--keyword", "red", "--keyword", "blue"], []], ids=["keywords", "own words"])
def test_cluster_gives_each_cluster_a_unique_name(home: Path, tiny_model: Path, more: list[str]) -> None:
    run = beholder("cluster", home / "photographs", "-n", "2", "--json", "--model", tiny_model, *more)
    assert run.returncode == 0, run.stderr
    rows = lines(run)
    assert len(rows) == 13 and all({"image", "cluster", "name"} <= set(row) for row in rows)
    assert len({row["name"] for row in rows}) == 2 == len({row["cluster"] for row in rows})
    if more:
        assert {row["name"] for row in rows} == {"red", "blue"}
        belonging = {row["cluster"]: row["keywords"] for row in rows}
        assert sorted(word for words in belonging.values() for word in words) == ["blue", "red"]


def test_map_gives_each_picture_a_position_and_a_region_and_writes_html(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    call = ("map", "--album", home / "album", "--keyword", "red", "--keyword", "blue", "-n", "2")
    run = beholder(*call, "--json", "--html", page)
    assert run.returncode == 0, run.stderr
    rows = lines(run)
    assert len(rows) == 12 and {row["region"] for row in rows} == {"red", "blue"}
    assert all(-1 <= row[axis] <= 1 for row in rows for axis in ("x", "y"))
    text = page.read_text("utf-8")
    assert text.count("data:image/jpeg") <= 1 and text.count('"image": ') == 12 and "default-src 'none'" in text
    run = beholder(*call, "--where", "name:5.png", "-n", "1", "--html", page)
    assert run.returncode == 0 and run.stdout == f"{page}: 1 pictures\n"


def test_outliers_are_sorted_by_distance(home: Path, tmp_path: Path) -> None:
    run = beholder("outliers", "--album", home / "album", "-k", "3", "--json", "--html", tmp_path / "odd.html")
    assert run.returncode == 0, run.stderr
    rows = lines(run)
    assert [row["distance"] for row in rows] == sorted((row["distance"] for row in rows), reverse=True)
    assert len(rows) == 3 and "<figure>" in (tmp_path / "odd.html").read_text("utf-8")


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_a_contact_sheet_escapes_markup_and_loads_no_external_resources(tiny_model: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)<"
    draw(tmp_path / "p" / f"{evil}img src=x onerror=alert(1)>\"'.png", 1)
    draw(tmp_path / "p" / "plain.png", 2)
    album, page = tmp_path / "album", tmp_path / "found.html"
    beholder("index", tmp_path / "p", "--album", album, "--model", tiny_model)
    run = beholder("search", f"{evil}/script>", "--album", album, "--nearest", "--html", page)
    assert run.returncode == 0, run.stderr
    tags = Tags()
    tags.feed(page.read_text("utf-8"))
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in tags.tags}
    images = [attributes for tag, attributes in tags.tags if tag == "img"]
    assert len(images) == 2 and all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert "default-src 'none'" in page.read_text("utf-8")


@pytest.mark.slow
def test_watch_indexes_pictures_added_while_it_runs(tiny_model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "p" / "a.png", 1)
    order = ["index", tmp_path / "p", "--album", tmp_path / "album", "--model", tiny_model, "--watch", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, order)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["status"] == "added"
    draw(tmp_path / "b.png", 2)
    (tmp_path / "b.png").rename(tmp_path / "p" / "b.png")  # observing started before the first run
    found: dict[str, str] = {}
    while "b.png" not in found:  # by the first run, if it still looks through the folder, or by the next
        row = json.loads(process.stdout.readline())
        found[Path(row["image"]).name] = row["status"]
    process.send_signal(2)
    process.communicate(timeout=300)
    assert found.pop("b.png") == "added" and set(found.values()) <= {"unchanged"}
    assert process.returncode == 130
