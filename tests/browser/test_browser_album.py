"""The album in a real browser: search, the picture view, clusters, the map, duplicates, and 100,000 pictures."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from albums_to_serve import MARKUP
from browsing import drop, opened, shorten, violations

import serving
from beholder import Album, DualEncoder, VisionLanguageModel
from beholder.pictures.caption_metadata import read_caption
from serving import Running, file_of, picture

pytestmark = pytest.mark.slow


@pytest.fixture
def site(album_site: Running) -> Running:
    """The server of `page`."""
    return album_site


@pytest.fixture
def own(chromium: Any, own_site: Running) -> Iterator[Any]:
    """A page with an album that the test may change, under the content security policy of production."""
    with opened(chromium, own_site) as page:
        yield page


def library(album_site: Running) -> Album:
    return album_site.service.albums["holiday"].search_album


def wait_for_count(page: Any, text: str | re.Pattern[str]) -> None:
    page.locator("#found").filter(has_text=text).wait_for()


def open_section(page: Any, part: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=part).click()


def shown_names(page: Any) -> list[str]:
    """Return the names of the pictures in the grid, in order."""
    page.locator("#albumgrid .caption").filter(has_text=re.compile("^…$")).first.wait_for(state="detached")
    return page.evaluate(
        "[...document.querySelectorAll('#albumgrid li')].sort((one, other) => one.dataset.index - other.dataset.index)"
        ".map(item => item.innerText.trim())"
    )


def test_the_album_is_searched_while_typing(page: Any, album_site: Running) -> None:
    wait_for_count(page, "24 pictures")
    assert len(shown_names(page)) == 24
    results = album_site.post("/v1/search", {"query": "red boat", "top": 500}).json["data"]
    fits = [row for row in results if row["fits"]]
    page.get_by_role("searchbox", name="Describe what to find").press_sequentially("red boat", delay=30)
    wait_for_count(page, f"{len(fits)} matching pictures" if fits else "No match. The closest pictures:")
    expected = [(row["caption"] or Path(row["name"]).name) for row in fits or results]
    assert [text.split("\n")[0] for text in shown_names(page)] == expected[: len(shown_names(page))]
    assert len(shown_names(page)) >= min(len(expected), 10)
    page.get_by_role("searchbox").fill("")
    wait_for_count(page, "24 pictures")


def test_filters_can_be_picked_or_typed(page: Any) -> None:
    wait_for_count(page, "24 pictures")
    page.get_by_text("Filter and sort").click()
    page.locator("#camera").select_option("Canon")
    wait_for_count(page, "4 pictures")
    assert page.locator("#where").input_value() == 'camera:"Canon"'
    page.locator("#year").select_option("2023")
    wait_for_count(page, "1 picture")
    page.locator("#camera").select_option("")
    wait_for_count(page, "3 pictures")
    assert page.locator("#where").input_value() == 'date:"2023"'
    page.locator("#where").fill("tag:sea")
    wait_for_count(page, "2 pictures")
    page.locator("#where").press("Tab")
    assert page.locator("#tag").input_value() == "sea"
    page.locator("#where").fill("colour:red")
    page.get_by_role("alert").filter(has_text="unknown field colour").wait_for()
    assert page.locator("#where").get_attribute("aria-invalid") == "true"
    page.locator("#where").fill("")
    wait_for_count(page, "24 pictures")
    assert page.locator("#whereerror").is_hidden()
    page.locator("#order").select_option("newest")
    page.wait_for_function("document.querySelector('#albumgrid li').innerText.includes('2023')")
    # logged by the browser itself
    page.messages[:] = [line for line in page.messages if "400 (Bad Request)" not in line]


def test_a_picture_view_is_complete(page: Any, album_site: Running, vision_language_model: VisionLanguageModel) -> None:
    wait_for_count(page, "24 pictures")
    page.locator("#albumgrid .card", has_text="a red boat").click()
    assert page.locator("#name").inner_text() == "picture 01.jpg"
    assert page.locator("#picture").evaluate("image => image.decode().then(() => image.naturalWidth)") == 160
    assert page.get_by_role("textbox", name="Caption").input_value() == "a red boat by the sea"
    page.locator("#factlist", has_text="Nikon").wait_for()
    assert "2021-02-01 10:00:00" in page.locator("#factlist").inner_text()
    assert "160 × 120" in page.locator("#factlist").inner_text()
    page.wait_for_function("document.querySelector('#tags').value === 'boat, sea'")
    page.get_by_role("textbox", name="Candidate labels").fill("a dog, a cat")
    page.get_by_role("button", name="Classify", exact=True).click()
    page.locator("#ranked li").nth(1).wait_for()
    page.get_by_role("button", name="Show attention").click()
    page.locator("#mapnote", has_text="Bright areas").wait_for()
    page.route("**/v1/chat/completions", shorten)
    page.get_by_role("textbox", name="Ask about the picture").fill("what is this ?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    album = library(album_site)
    number = next(content for content in album.contents() if "picture 01" in album.copies(content)[0])
    answer = vision_language_model.chat(album.copies(number)[0], max_new_tokens=40).ask("what is this ?")
    assert " ".join(page.locator("#log .assistant").inner_text().split()) == " ".join(answer.split())
    page.get_by_role("button", name="Regenerate").click()
    page.wait_for_function("document.querySelector('#caption').value !== 'a red boat by the sea'")
    page.get_by_role("button", name="Next picture").click()
    page.wait_for_function("document.querySelector('#name').textContent !== 'picture 01.jpg'")
    assert page.locator("#log p").count() == 0
    page.get_by_role("button", name="Previous picture").click()
    page.locator("#log .assistant").wait_for()  # its conversation is still there


def test_similar_pictures_are_shown_and_can_be_followed(page: Any, album_site: Running) -> None:
    wait_for_count(page, "24 pictures")
    page.locator("#albumgrid .card", has_text="a red boat").click()
    album = library(album_site)
    number = next(content for content in album.contents() if "picture 01" in album.copies(content)[0])
    likes = [str(one.picture.content) for one in album.similar(number, top=12)]
    page.locator("#likelist button").nth(11).wait_for()
    strip = page.locator("#likelist button")
    assert [strip.nth(place).get_attribute("data-picture") for place in range(12)] == likes
    strip.first.click()
    page.wait_for_function("document.querySelector('#name').textContent !== 'picture 01.jpg'")
    page.keyboard.press("Escape")
    # the picture from which the view was opened
    page.locator("#albumgrid .card:focus", has_text="a red boat").wait_for()
    page.keyboard.press("Enter")
    page.locator("#likes").get_by_role("button", name="Show all").click()
    page.locator("#example", has_text="Similar to picture 01.jpg").wait_for()
    wait_for_count(page, "23 matching pictures")
    page.get_by_role("button", name="Show the whole album").click()
    wait_for_count(page, "24 pictures")


def test_captions_and_keywords_are_saved(own: Any, own_album: Path, encoder: DualEncoder) -> None:
    photos = own_album.parent / "photos"
    before = {file.name: file.read_bytes() for file in photos.iterdir()}
    own.locator("#albumgrid .card", has_text="smaller 01").click()
    own.locator("#factlist", has_text="smaller 01").wait_for()
    assert own.get_by_role("button", name="Save", exact=True).is_disabled()
    own.get_by_role("textbox", name="Caption").fill(MARKUP)
    own.get_by_role("textbox", name="Keywords").fill("one, two，one")
    own.get_by_role("button", name="Save", exact=True).click()
    own.locator("#savenote", has_text="Saved to the album.").wait_for()
    assert own.get_by_role("button", name="Save", exact=True).is_disabled()
    assert {file.name: file.read_bytes() for file in photos.iterdir()} == before
    own.get_by_role("textbox", name="Caption").fill("into the file")
    own.get_by_role("button", name="Save to file, too").click()
    own.locator("#savenote", has_text="and the file").wait_for()
    assert read_caption(photos / "smaller 01.png") == "into the file"
    assert {file.name for file in photos.iterdir() if file.read_bytes() != before[file.name]} == {"smaller 01.png"}
    own.keyboard.press("Escape")
    own.locator("#albumgrid .card", has_text="into the file").wait_for()
    own.reload()
    own.locator("#albumgrid .card", has_text="into the file").wait_for()
    own.get_by_text("Filter and sort").click()
    own.locator("#tag").select_option("two")
    wait_for_count(own, "1 picture")
    with Album.open(own_album) as album:
        assert album.index(photos, model=encoder).unchanged == 8


def test_a_read_only_server_offers_no_editing(
    chromium: Any, own_album: Path, encoder: DualEncoder, vision_language_model: VisionLanguageModel
) -> None:
    with (
        serving.running({"tiny": encoder}, {"tiny": vision_language_model}, [own_album], read_only=True) as running,
        opened(chromium, running) as page,
    ):
        page.locator("#albumgrid .card").first.click()
        page.locator("#factlist dd").first.wait_for()
        assert page.locator("#save").is_hidden() and page.locator("#intofile").is_hidden()
        assert page.locator("#tags").is_hidden()


def test_clusters_take_the_given_keywords(page: Any, album_site: Running, screenshots: Path) -> None:
    open_section(page, "Groups")
    page.locator("#groupsnote", has_text="groups, largest first").wait_for()
    page.get_by_label("Number of groups").select_option("3")
    page.get_by_label("Candidate names").fill("dogs, boats，the sea")
    page.get_by_role("button", name="Group", exact=True).click()
    page.locator("#groupsnote", has_text="3 groups").wait_for()
    groups = library(album_site).clusters(3, keywords=["dogs", "boats", "the sea"])
    titles = page.locator("#groups h3").all_inner_texts()
    assert titles == [f"{group.name} ({len(group.pictures)})" for group in groups]
    page.screenshot(path=screenshots / "groups.png")
    page.locator("#groups section").nth(1).get_by_role("button", name="Show all").click()
    page.locator("#example", has_text=f"Group: {groups[1].name}").wait_for()
    wait_for_count(page, re.compile(rf"^{len(groups[1].pictures)} pictures?"))
    open_section(page, "Groups")
    page.locator("#groups .small").first.click()
    assert page.locator("#view").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "small"


def test_the_map_can_be_panned_and_its_pictures_opened(page: Any, screenshots: Path) -> None:
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

    open_section(page, "Map")
    page.locator("#mapstatus", has_text="24 pictures").wait_for()
    canvas = page.locator("#mapcanvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.locator("#mapcard").wait_for()
    page.wait_for_function("document.querySelector('#mapname').textContent.length > 0")
    names = {page.locator("#mapname").inner_text()}
    for key in ("ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        with suppress(PlaywrightTimeoutError):  # there may be no picture in that direction
            page.wait_for_function(
                "before => document.querySelector('#mapname').textContent !== before",
                arg=page.locator("#mapname").inner_text(),
                timeout=1000,
            )
        names.add(page.locator("#mapname").inner_text())
    assert len(names) > 2
    painted = canvas.evaluate("canvas => canvas.toDataURL()")
    page.keyboard.press("+")
    page.wait_for_function("before => document.querySelector('#mapcanvas').toDataURL() !== before", arg=painted)
    page.screenshot(path=screenshots / "map.png")
    page.keyboard.press("Enter")
    page.locator("#view").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "mapcanvas"
    page.get_by_role("button", name="Whole map").click()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2 + 30, steps=4)
    page.mouse.up()
    assert page.locator("#view").is_hidden()  # a drag is not a click
    page.mouse.wheel(0, -300)
    page.get_by_role("button", name="Open", exact=True).click()
    page.locator("#view").wait_for()


def test_duplicates_can_be_reviewed(own: Any, own_album: Path, screenshots: Path) -> None:
    open_section(own, "Duplicates")
    own.locator("#duplicates form").first.wait_for()
    with Album.open(own_album) as album:
        groups = album.duplicates()
        total = len(groups)
        own.locator("#duplicatesnote", has_text=f"To review: {total}").wait_for()
        first = [Path(path).name for path in groups[0].paths]
        own.screenshot(path=screenshots / "duplicates.png")
        form = own.locator("#duplicates form").first
        assert form.get_by_role("radio").first.is_checked()
        form.get_by_role("radio", name=f"Keep {first[1]}").check()
        form.get_by_role("button", name="Mark the others").click()
        own.locator("#duplicatesnote", has_text=f"To review: {total - 1}").wait_for()
        marked = [Path(one.path).name for one in album.pictures("tag:duplicate")]
        assert marked == sorted(name for name in first if name != first[1])
        own.locator("#duplicates form").first.get_by_role("button", name="All different").click()
        left = f"To review: {total - 2}" if total > 2 else "No duplicates"
        own.locator("#duplicatesnote", has_text=left).wait_for()
        assert len(list(album.pictures('tag:"no duplicate"'))) == len(groups[1].paths)
        own.get_by_role("button", name="Show marked pictures").click()
        wait_for_count(own, "1 picture")
        assert len(list((own_album.parent / "photos").iterdir())) == 8
    own.reload()
    open_section(own, "Duplicates")
    own.locator("#duplicatesnote", has_text=left).wait_for()


def test_markup_in_names_and_captions_is_shown_as_text(page: Any) -> None:
    wait_for_count(page, "24 pictures")
    texts = shown_names(page)
    assert any(f"{MARKUP}.jpg" in text for text in texts) and any(text.startswith(MARKUP) for text in texts)
    page.get_by_text("Filter and sort").click()
    page.locator("#tag").select_option("<b>bold</b>")
    wait_for_count(page, "1 picture")
    page.locator("#albumgrid .card").first.click()
    page.wait_for_function("document.querySelector('#tags').value === '<b>bold</b>'")
    page.keyboard.press("Escape")
    for part in ("Groups", "Map", "Duplicates"):
        open_section(page, part)
        page.wait_for_timeout(600)
    assert page.evaluate("document.querySelectorAll('img[src=x], main b, [onerror]').length") == 0


def test_uploaded_pictures_find_similar_ones_in_the_album(page: Any) -> None:
    wait_for_count(page, "24 pictures")
    page.evaluate(
        """async bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(file_of(picture(6))),
    )
    page.locator("#grid .card", has_text="dropped.png").click()
    page.locator("#likelist button").nth(11).wait_for()
    assert page.locator("#save").is_hidden() and page.locator("#facts").is_hidden()
    page.keyboard.press("Escape")
    drop(page, ("second.png", file_of(picture(7))))
    page.locator("#grid .card", has_text="second.png").wait_for()


def test_the_grid_is_navigable_by_keyboard(page: Any) -> None:
    wait_for_count(page, "24 pictures")
    shown_names(page)
    page.locator("#albumgrid .card").first.focus()
    places = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "End", "Home", "PageDown", "ArrowUp"):
        page.keyboard.press(key)
        places.append(int(page.evaluate("document.activeElement.closest('li').dataset.index")))
    lefts = "[...document.querySelectorAll('#albumgrid li')].map(one => one.getBoundingClientRect().left)"
    columns = len(set(page.evaluate(lefts)))
    assert places[:5] == [1, 1 + columns, columns, 23, 0] and places[5] > columns
    assert page.locator("#albumgrid .card[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    page.locator("#view").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.wait_for_function("document.activeElement.id === 'query'")


@pytest.fixture
def two_albums(
    chromium: Any, own_album: Path, encoder: DualEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    other = tmp_path_factory.mktemp("other") / "empty album"
    Album.open(other).close()
    with serving.running({"tiny": encoder}, {}, [own_album, other]) as running, opened(chromium, running) as page:
        wait_for_count(page, "8 pictures")
        yield page


def test_one_of_several_albums_can_be_selected(two_albums: Any) -> None:
    two_albums.locator("#album").select_option("empty album")
    wait_for_count(two_albums, "0 pictures")
    two_albums.locator("#album").select_option("holiday")
    wait_for_count(two_albums, "8 pictures")


def test_ids_of_one_album_are_never_requested_from_another(two_albums: Any) -> None:
    page, held = two_albums, []
    shown_names(page)
    page.route("**/ids?*", lambda route: held.append(route))
    with page.expect_request("**/ids?*"):
        page.locator("#album").select_option("empty album")
    page.evaluate("dispatchEvent(new Event('scroll'))")
    page.wait_for_timeout(300)  # the grid settles; failed requests would appear on the console
    held[0].continue_()
    wait_for_count(page, "0 pictures")


def test_the_last_selected_album_is_shown(two_albums: Any) -> None:
    page, held = two_albums, []
    page.route("**/albums/empty%20album", lambda route: held.append(route))
    with page.expect_request("**/albums/empty%20album"):
        page.locator("#album").select_option("empty album")
    page.locator("#album").select_option("holiday")
    with page.expect_response("**/albums/empty%20album"):
        held[0].continue_()
    page.wait_for_function("document.querySelectorAll('#albumgrid li').length === 8")
    page.wait_for_timeout(100)  # the late answer would empty the grid
    assert len(shown_names(page)) == 8


@pytest.mark.parametrize(
    ("theme", "language", "width"),
    [("light", "en", 1280), ("dark", "zh", 360), ("dark", "en", 1280), ("light", "zh", 360)],
)
def test_the_album_is_accessible(page: Any, screenshots: Path, theme: str, language: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 860})
    page.locator("#theme").select_option(theme)
    page.locator("#language").select_option(language)
    waits = {
        "search": "#albumgrid img[src]",
        "groups": "#groups section",
        "map": "#mapstatus:not(:empty)",
        "duplicates": "#duplicates form",
    }
    for part, wait in waits.items():
        page.evaluate(f"location.hash = '#/{part}'")
        page.locator(wait).first.wait_for()
        if part == "search":
            shown_names(page)
            page.locator("#filters summary").click()
        if part == "map":
            page.wait_for_function("/24/.test(document.querySelector('#mapstatus').textContent)")
            page.locator("#mapcanvas").focus()
            page.keyboard.press("ArrowRight")
            page.locator("#mapcard").wait_for()
        page.wait_for_timeout(300)
        assert violations(page) == [], part
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), part
        page.screenshot(path=screenshots / f"album-{part}-{theme}-{language}-{width}.png")
    page.evaluate("location.hash = '#/search'")
    page.locator("#albumgrid .card").nth(1).click()
    page.locator("#likelist button").nth(11).wait_for()
    page.locator("#factlist dd").first.wait_for()
    assert violations(page) == []
    assert page.evaluate("document.querySelector('#view').scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / f"album-view-{theme}-{language}-{width}.png")


def test_pictures_fill_justified_rows_below_the_months_of_a_timeline(
    chromium: Any, album_site: Running, screenshots: Path
) -> None:
    with opened(chromium, album_site, order="newest", bypass_csp=True) as page:
        wait_for_count(page, "24 pictures")
        page.locator("#albumgrid img[src]").first.wait_for()
        headings = page.locator("#monthheadings h2").all_inner_texts()
        assert len(headings) == 13 and headings[0].endswith("2023") and headings[-2].endswith("2020")
        assert headings[-1] == "Without a date"
        boxes = page.evaluate(
            """[...document.querySelectorAll('#albumgrid li')].map(one => one.getBoundingClientRect())
                .map(({left, right, top, bottom}) => ({left, right, top, bottom}))"""
        )
        for one in boxes:
            for other in boxes:
                apart = one is other or one["right"] <= other["left"] + 1 or other["right"] <= one["left"] + 1
                assert apart or one["bottom"] <= other["top"] + 1 or other["bottom"] <= one["top"] + 1
        card = page.locator("#albumgrid .card").first
        words = card.locator(".text")
        assert words.evaluate("one => getComputedStyle(one).opacity") == "0"
        card.hover()
        assert words.evaluate("one => getComputedStyle(one).opacity") == "1" and "2023" in words.inner_text()
        page.locator("#timeline button", has_text="2020").first.click()
        page.wait_for_function("scrollY > 500")
        page.locator("#timeline [aria-current]").wait_for()
        assert violations(page) == []
        page.screenshot(path=screenshots / "album-timeline.png")
        page.locator("#order").evaluate("one => { one.closest('details').open = true }")
        page.locator("#order").select_option("path")
        page.locator("#timeline").wait_for(state="hidden")
        assert page.locator("#monthheadings h2").count() == 0
        page.reload()
        wait_for_count(page, "24 pictures")
        assert page.locator("#order").input_value() == "path", "the order is remembered"


def test_many_pictures_are_selected_rated_and_tagged(own: Any, own_album: Path) -> None:
    page = own
    wait_for_count(page, "8 pictures")
    shown_names(page)
    page.locator("#albumgrid .card").nth(1).hover()
    page.locator("#albumgrid .select").nth(1).click()
    page.locator("#albumgrid .select").nth(3).click(modifiers=["Shift"])
    page.locator("#selectioncount").filter(has_text="3 selected").wait_for()
    page.locator("#bulkrating").select_option("4")
    page.locator("#selectionnote").filter(has_text="3 changed").wait_for()
    page.locator("#bulktags").fill("trip, summer")
    page.locator("#bulktags").press("Enter")
    page.locator("#bulktags:enabled").wait_for()
    page.locator("#albumgrid .badge").filter(has_text="★★★★").nth(2).wait_for()
    page.locator("#deselect").click()
    assert page.locator("#selection").is_hidden()
    page.keyboard.press("x")
    page.locator("#selectioncount").filter(has_text="1 selected").wait_for()
    page.keyboard.press("x")
    with Album.open(own_album) as album:
        chosen = album.contents()[1:4]
        assert album.contents("rating>=4") == chosen == album.contents("tag:trip tag:summer")
    page.get_by_text("Filter and sort").click()
    page.locator("#rating").select_option("4")
    wait_for_count(page, "3 pictures")
    assert page.locator("#where").input_value() == 'rating>="4"'


def test_a_folder_is_added_and_problems_are_listed(
    chromium: Any, encoder: DualEncoder, own_album: Path, tmp_path: Path, screenshots: Path
) -> None:
    inside = tmp_path / "more" / "2024"
    inside.mkdir(parents=True)
    (inside / "new.png").write_bytes(file_of(picture(70)))
    (inside / "broken.jpg").write_bytes(b"nothing")
    (inside / "film.mp4").write_bytes(b"nothing")
    with (
        serving.running({"tiny": encoder}, {}, [own_album], folders=(tmp_path / "more",)) as site,
        opened(chromium, site, bypass_csp=True) as page,
    ):
        wait_for_count(page, "8 pictures")
        page.get_by_role("button", name="Add a folder").click()
        page.get_by_role("button", name="Open more").click()
        page.get_by_label("2024", exact=True).check()
        assert violations(page) == []
        page.screenshot(path=screenshots / "album-folders.png")
        page.get_by_role("button", name="Add (1)").click()
        wait_for_count(page, "9 pictures")
        page.locator("#indexproblemstitle").filter(has_text="2 notes").click()
        assert "2024/broken.jpg: " in page.locator("#indexproblemlist").inner_text()
        assert "1 videos (mp4)" in page.locator("#indexproblemlist").inner_text()
        (inside / "newer.png").write_bytes(file_of(picture(71)))
        page.get_by_role("button", name="Update", exact=True).click()
        wait_for_count(page, "10 pictures")


def test_the_grid_holds_a_few_of_a_hundred_thousand_pictures(chromium: Any, large_site: Running) -> None:
    with opened(chromium, large_site, bypass_csp=True) as page:
        wait_for_count(page, "100,000 pictures")
        names = shown_names(page)
        assert 10 < len(names) < 120
        page.mouse.move(600, 500)
        most = 0
        for _ in range(60):
            page.mouse.wheel(0, 700)
            page.wait_for_timeout(16)
            most = max(most, page.evaluate("document.querySelectorAll('#albumgrid li').length"))
        assert most < 160  # however far it is scrolled
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        page.wait_for_function("Number(document.querySelector('#albumgrid li').dataset.index) > 49_000")
        places = page.evaluate("[...document.querySelectorAll('#albumgrid li')].map(one => Number(one.dataset.index))")
        assert min(places) > 49_000 and max(places) < 51_000 and len(places) < 160
        page.wait_for_function(
            "![...document.querySelectorAll('#albumgrid .card')].some(one => one.innerText.includes('…'))"
        )
        page.wait_for_function("[...document.querySelectorAll('#albumgrid img')].some(one => one.naturalWidth === 160)")
        page.evaluate("scrollTo(0, 0)")
        page.locator("#albumgrid .card").first.focus()
        page.keyboard.press("End")
        page.locator("#albumgrid .card:focus").wait_for()
        last = page.locator("#albumgrid li", has=page.locator(".card:focus"))
        assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize") == "100000"
        page.keyboard.press("Enter")
        page.locator("#view").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.wait_for_function("document.activeElement.id === 'query'")
        page.keyboard.type("a red boat")
        first = large_site.post("/v1/search", {"query": "a red boat"}).json["data"][0]
        name = first["caption"] or Path(first["name"]).name
        page.locator("#albumgrid li").first.filter(has_text=name).wait_for()
