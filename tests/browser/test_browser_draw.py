"""Drawing on the page: only where the server draws, growing pictures, both languages, accessible."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import drop, opened, violations

import serving
from beholder import DualEncoder, VisionLanguageModel
from serving import Running, file_of, picture

pytestmark = pytest.mark.slow
FINISHED = "#drawings li:not([aria-busy])"


@pytest.fixture(scope="module", name="drawing_site")
def _drawing_site(encoder: DualEncoder, vision_language_model: VisionLanguageModel) -> Iterator[Running]:
    models = {"tiny": vision_language_model}
    with serving.running({"tiny": encoder}, models, generators={"tiny": serving.generator()}) as running:
        yield running


@pytest.fixture(name="page")
def _page(chromium: Any, drawing_site: Running) -> Iterator[Any]:
    with opened(chromium, drawing_site, bypass_csp=True) as page:
        page.set_default_timeout(60_000)
        page.get_by_role("link", name="Draw").click()
        yield page


def test_a_server_without_a_generator_offers_no_drawing(chromium: Any, site: Running) -> None:
    with opened(chromium, site) as page:
        assert page.locator("#parts").is_hidden()
        page.evaluate("location.hash = '#/draw'")
        assert page.locator("#part-own").is_visible() and page.locator("#part-draw").is_hidden()


def test_drawings_grow_and_have_their_seeds(chromium: Any, drawing_site: Running) -> None:
    with opened(chromium, drawing_site) as page:  # under the content security policy of production
        page.set_default_timeout(60_000)
        page.get_by_role("link", name="Draw").click()
        page.evaluate(
            "window.shown = new Set(); new MutationObserver(() => document.querySelectorAll('#drawings img')"
            ".forEach(image => window.shown.add(image.src)))"
            ".observe(document.querySelector('#drawings'), {subtree: true, attributes: true, childList: true})"
        )
        page.locator("#prompt").fill("a cat")
        page.locator("summary", has_text="Options").click()
        page.get_by_label("Seed").fill("7")
        page.get_by_role("button", name="Draw").click()
        page.locator(FINISHED).nth(3).wait_for()
        page.locator("#drawbutton").wait_for()
        texts = page.locator("#drawings p").all_inner_texts()
        assert [text.split(",")[0] for text in texts] == [f"Seed {seed}" for seed in range(7, 11)]
        assert page.evaluate("window.shown.size") > 4  # more than the pictures that were finished
        assert page.locator("#drawings img").first.get_attribute("alt") == "a cat"
        with page.expect_download() as download:
            page.locator("#drawings a").first.click()
        assert download.value.suggested_filename == "7.png"
        assert page.locator("#drawnote").inner_text() == ""


def test_the_options_are_sent(page: Any) -> None:
    page.locator("summary", has_text="Options").click()
    page.locator("#drawcount").select_option("1")
    page.locator("#drawcandidates").select_option("4")
    page.get_by_label("Without").fill("night")
    drop(page, ("other.png", file_of(picture())))  # what is dropped elsewhere is no picture to resemble
    page.set_input_files("#likefile", [{"name": "like.png", "mimeType": "image/png", "buffer": file_of(picture(1))}])
    page.locator("#likepicture").wait_for()
    with page.expect_request("**/v1/images/generations") as request:
        page.get_by_role("button", name="Draw").click()
    body = json.loads(request.value.post_data)
    assert (body["n"], body["candidates"], body["minus"]) == (1, 4, ["night"])
    assert "prompt" not in body and "seed" not in body and len(body["like"]) == 1
    page.locator(FINISHED).wait_for()
    assert (
        page.locator("#drawings p").inner_text().startswith("Seed ")
        and "match" not in page.locator("#drawings p").inner_text()
    )
    page.get_by_role("button", name="Resemble none").click()
    assert page.locator("#likepicture").is_hidden()


def test_a_refusal_is_shown(page: Any) -> None:
    page.locator("#prompt").fill("cat " * 400)
    page.get_by_role("button", name="Draw").click()
    page.get_by_role("alert").filter(has_text="too long for this model").wait_for()
    assert page.locator("#drawings li").count() == 0
    page.messages[:] = [line for line in page.messages if "400 (Bad Request)" not in line]  # of the browser itself


def test_drawing_can_be_stopped(page: Any, drawing_site: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = drawing_site.service.generators["tiny"]
    draw = generator.model.backend.networks.draw  # type: ignore[attr-defined]

    def forever(embedding: Any, noise: Any, steps: int, guidance: float, method: str, on_step: Any) -> Any:
        for _ in range(10**9):
            draw(embedding, noise, 2, guidance, method, on_step)
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(generator.model.backend.networks, "draw", forever)  # type: ignore[attr-defined]
    page.locator("#prompt").fill("a cat")
    page.keyboard.press("Enter")
    page.locator("#drawings li").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#drawbutton").wait_for()
    assert page.locator("#drawings li").count() == 0 and page.locator("#drawerror").is_hidden()
    monkeypatch.undo()
    page.locator("#prompt").press("Enter")  # the model is free again
    page.locator(FINISHED).nth(3).wait_for()


@pytest.mark.parametrize(
    ("theme", "language", "width"), [("light", "en", 1280), ("dark", "zh", 360), ("light", "zh", 1280)]
)
def test_drawing_is_accessible_in_both_languages(
    page: Any, screenshots: Path, theme: str, language: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 860})
    page.locator("#theme").select_option(theme)
    page.locator("#language").select_option(language)
    page.locator("#prompt").fill("a cat")
    page.locator("#drawoptions summary").click()
    page.locator("#drawbutton").click()
    page.locator(FINISHED).nth(3).wait_for()
    page.locator("#drawbutton").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / f"draw-{theme}-{language}-{width}.png")
    other = {"en": "zh", "zh": "en"}[language]
    page.locator("#language").select_option(other)
    assert page.locator("#drawings p").first.inner_text().startswith({"en": "Seed", "zh": "种子"}[other])
