"""Panning and zooming the map of an album in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beholder.album.map_page import Region, write_map
from beholder.album.picture import Picture
from beholder.album.picture_map import MapPoint

pytestmark = pytest.mark.slow

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def page(chromium: Any, tmp_path: Path) -> Any:
    """Four pictures in the corners of a map: red, green, blue, and a missing one; the console must stay silent."""
    points = []
    for number, (name, colour, x, y) in enumerate(
        [
            ("red", (255, 0, 0), -1, 1),
            (f"green {EVIL}", (0, 160, 0), 1, 1),
            ("blue", (0, 0, 255), 1, -1),
            ("", None, -1, -1),
        ]
    ):
        path = tmp_path / f"{number}.png"
        if colour is not None:
            Image.new("RGB", (60, 40), colour).save(path)
        picture = Picture(str(path), number, 60, 40, 100, "2024-05-31T14:03:00", None, name or None, ())
        points.append(MapPoint(picture, x, y))
    write_map(tmp_path / "map.html", f"a map {EVIL}", points, [Region(EVIL, 0, 0)])
    page = chromium.new_page(viewport={"width": 800, "height": 640})
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.on(
        "request",
        lambda request: messages.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.goto((tmp_path / "map.html").as_uri())
    page.wait_for_function("pictures.slice(0, 3).every((one) => !one.element || one.element.complete)")
    wait_for_frames(page)
    yield page
    page.close()
    assert [text for text in messages if "getImageData" not in text] == []  # only the test calls it


def wait_for_frames(page: Any) -> None:
    """Wait until what has changed is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def middle_of(page: Any, number: int) -> tuple[float, float]:
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate(f"onScreen(pictures.find((one) => one.lines[0].endsWith('{number}.png')))")
    return box["x"] + x, box["y"] + y


def color_at(page: Any, x: float, y: float) -> list[int]:
    box = page.locator("#map").bounding_box()
    return page.evaluate(f"[...pen.getImageData({x - box['x']}, {y - box['y']}, 1, 1).data].slice(0, 3)")


def test_pictures_are_drawn_at_their_positions_with_text_alternatives(page: Any) -> None:
    for number, colour in enumerate([(255, 0, 0), (0, 160, 0), (0, 0, 255)]):
        place = middle_of(page, number)
        assert max(abs(one - other) for one, other in zip(color_at(page, *place), colour, strict=True)) < 20
    page.mouse.move(*middle_of(page, 1))
    assert EVIL in page.locator("#about").inner_text() and "2024-05-31" in page.locator("#about").inner_text()
    assert page.title() == f"a map {EVIL}" and page.locator("img").count() == 0
    page.mouse.move(*middle_of(page, 3))
    assert "3.png" in page.locator("#about").inner_text()


def test_the_map_pans_and_zooms_by_mouse_and_keyboard(page: Any) -> None:
    x, y = middle_of(page, 0)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 40)
    page.mouse.up()
    wait_for_frames(page)
    assert middle_of(page, 0) == pytest.approx((x + 90, y + 40), abs=1)
    red, green = middle_of(page, 0), middle_of(page, 1)
    page.mouse.move(*red)
    scale = page.evaluate("view.scale")
    page.mouse.wheel(0, -400)  # does not wait until the page has received it
    page.wait_for_function("before => view.scale !== before", arg=scale)
    wait_for_frames(page)
    assert middle_of(page, 0) == pytest.approx(red, abs=1)  # the point under the pointer stays fixed
    assert middle_of(page, 1)[0] > green[0] + 100
    page.locator("#map").focus()
    page.keyboard.press("0")
    assert middle_of(page, 0) == pytest.approx((x, y), abs=1)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    assert middle_of(page, 0)[0] < x - 60
