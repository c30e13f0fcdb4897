"""The page in a real browser: every flow, without console errors, and accessible."""

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import drop, shorten, violations

from beholder import VisionLanguageModel
from serving import Running, file_of, picture

pytestmark = pytest.mark.slow

MARKUP = "<img src=x onerror=alert(1)>.png"


def add_three_pictures(page: Any) -> None:
    drop(page, *((f"picture {seed}.png", file_of(picture(seed, (300, 200)))) for seed in range(3)))
    for place in range(3):
        page.locator(".card").nth(place).filter(has_not_text="Generating").filter(has_not_text="正在").wait_for()
    page.locator("#download").wait_for()


def caption_of(site: Running, seed: int) -> str:
    vision_language_model: VisionLanguageModel = site.service.vlms["tiny"].model
    return vision_language_model.caption(file_of(picture(seed, (300, 200))))


def test_dropped_pictures_get_captions(page: Any, site: Running) -> None:
    add_three_pictures(page)
    cards = page.locator(".card")
    assert page.locator("#count").inner_text() == "3 pictures"
    for seed in range(3):
        assert caption_of(site, seed) in cards.nth(seed).inner_text()
        assert cards.nth(seed).locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 300


def test_the_whole_page_works_under_the_content_security_policy(strict: Any, site: Running) -> None:
    add_three_pictures(strict)
    strict.locator(".card img").nth(2).wait_for()
    strict.locator(".card").first.click()
    strict.locator("#labels").fill("a dog, a cat")
    strict.locator("#labelform button").click()
    strict.locator("#ranked li").nth(1).wait_for()
    strict.locator("#showattention").click()
    strict.locator("#mapnote", has_text="Bright areas").wait_for()
    strict.route("**/v1/chat/completions", lambda route: shorten(route))
    strict.locator("#question").fill("what is this ?")
    strict.keyboard.press("Enter")
    strict.locator("#send").wait_for()
    assert strict.locator("#log .assistant").count() == 1
    strict.keyboard.press("Escape")
    with strict.expect_download():
        strict.locator("#download").click()


def test_a_pasted_picture_is_accepted(page: Any) -> None:
    page.evaluate(
        """async bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
        }""",
        list(file_of(picture(5))),
    )
    page.get_by_role("button", name="pasted.png").wait_for()
    page.evaluate(
        """async bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(file_of(picture(6))),
    )
    page.get_by_role("button", name="dropped.png").wait_for()
    assert page.locator("#count").inner_text() == "2 pictures"


def test_a_caption_can_be_edited_regenerated_and_downloaded(page: Any, site: Running) -> None:
    add_three_pictures(page)
    page.locator(".card").first.click()
    caption = page.get_by_role("textbox", name="Caption")
    assert caption.input_value() == caption_of(site, 0)
    caption.fill("A <b>bold</b> claim")
    page.get_by_role("button", name="Close").click()
    assert page.locator(".card").first.inner_text().startswith("A <b>bold</b> claim")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download captions").click()
    rows = [json.loads(line) for line in Path(download.value.path()).read_text("utf-8").splitlines()]
    assert rows[0] == {"image": "picture 0.png", "caption": "A <b>bold</b> claim"} and len(rows) == 3
    page.locator(".card").first.click()
    with page.expect_request("**/v1/caption") as request:
        page.get_by_role("button", name="Regenerate").click()
    page.wait_for_function("document.querySelector('#caption').value !== 'A <b>bold</b> claim'")
    seed = json.loads(request.value.post_data)["seed"]
    vision_language_model = site.service.vlms["tiny"].model
    drawn = vision_language_model.caption(file_of(picture(0, (300, 200))), top_p=0.9, seed=seed)
    assert page.locator("#caption").input_value() == drawn


def test_labels_are_ranked_with_probabilities(page: Any, site: Running) -> None:
    add_three_pictures(page)
    page.locator(".card").nth(1).click()
    page.get_by_role("textbox", name="Candidate labels").fill("a dog, a cat，the sea")
    page.get_by_role("button", name="Classify", exact=True).click()
    page.locator("#ranked li").nth(2).wait_for()
    data = file_of(picture(1, (300, 200)))
    expected = site.service.encoders["tiny"].model.classify(data, ["a dog", "a cat", "the sea"])
    rows = page.locator("#ranked li").all_inner_texts()
    assert [row.split("\n")[0].strip() for row in rows] == [label for label, _ in expected]
    assert f"{expected[0][1]:.0%}" in rows[0]


def test_attention_is_shown_for_each_word(page: Any, screenshots: Path) -> None:
    add_three_pictures(page)
    page.locator(".card").first.click()
    page.get_by_role("button", name="Show attention").click()
    page.locator("#map").wait_for()
    words = page.locator("#words button")
    assert words.count() > 1 and words.first.get_attribute("aria-pressed") == "true"
    whole = page.locator("#map").evaluate("canvas => canvas.toDataURL()")
    words.nth(1).click()
    page.locator("#mapnote", has_text=words.nth(1).inner_text()).wait_for()
    assert page.locator("#map").evaluate("canvas => canvas.toDataURL()") != whole
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    page.screenshot(path=screenshots / "attention.png")
    page.get_by_role("textbox", name="Caption").fill("something else")
    assert page.locator("#map").is_hidden() and page.locator("#picture").is_visible()


def test_a_conversation_is_streamed_and_continues(page: Any, site: Running) -> None:
    add_three_pictures(page)
    page.locator(".card").nth(2).click()
    chat = site.service.vlms["tiny"].model.chat(file_of(picture(2, (300, 200))), max_new_tokens=40)
    page.route("**/v1/chat/completions", lambda route: shorten(route))
    first = chat.ask("what is this ?").strip()
    page.get_by_role("textbox", name="Ask about the picture").fill("what is this ?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    answers = page.locator("#log .assistant").all_inner_texts()
    assert [" ".join(text.split()) for text in answers] == [" ".join(first.split())]
    assert page.locator("#log .user").all_inner_texts() == ["what is this ?"]
    page.keyboard.press("Escape")
    assert page.locator("#view").is_hidden()
    page.locator(".card").nth(2).click()
    assert page.locator("#log .assistant").count() == 1  # the conversation is still there


def test_everything_is_reachable_by_keyboard(page: Any) -> None:
    add_three_pictures(page)
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#name").inner_text() == "picture 1.png"
    page.keyboard.press("ArrowRight")
    assert page.locator("#name").inner_text() == "picture 2.png"
    page.keyboard.press("ArrowRight")  # this was the last
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#name").inner_text() == "picture 0.png"
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"caption", "regenerate", "showattention", "labels", "question", "send", "close", "next"} <= reached
    page.keyboard.press("Escape")
    page.locator(".card:focus", has_text="picture 0.png").wait_for()


def test_markup_in_a_file_name_is_shown_as_text(page: Any) -> None:
    drop(page, (MARKUP, file_of(picture(1))), ("broken.png", b"no picture"))
    page.locator(".card .wrong").wait_for()
    assert MARKUP in page.locator(".card").first.inner_text()
    assert "not a picture" in page.locator(".card").nth(1).inner_text()
    page.locator(".card").first.click()
    assert page.locator("#name").inner_text() == MARKUP
    # logged by the browser itself
    page.messages[:] = [line for line in page.messages if "400 (Bad Request)" not in line]


@pytest.mark.parametrize(
    ("theme", "language", "width"),
    [("light", "en", 1280), ("dark", "zh", 360), ("dark", "en", 1280), ("light", "zh", 360)],
)
def test_the_page_is_accessible(page: Any, screenshots: Path, theme: str, language: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 860})
    page.locator("#theme").select_option(theme)
    page.locator("#language").select_option(language)
    assert page.locator("html").get_attribute("lang") == language
    assert violations(page) == []
    page.screenshot(path=screenshots / f"empty-{theme}-{language}-{width}.png")
    add_three_pictures(page)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / f"grid-{theme}-{language}-{width}.png")
    page.locator(".card").first.click()
    page.locator("#labels").fill("a dog, a cat")
    page.locator("#labelform button").click()
    page.locator("#ranked li").nth(1).wait_for()
    page.locator("#showattention").click()
    page.locator("#map").wait_for()
    page.route("**/v1/chat/completions", lambda route: shorten(route))
    page.locator("#question").fill("what is this ?")
    page.keyboard.press("Enter")
    page.locator("#send").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.querySelector('#view').scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / f"view-{theme}-{language}-{width}.png")


def test_the_chosen_language_and_theme_persist(page: Any) -> None:
    page.locator("#theme").select_option("dark")
    page.locator("#language").select_option("zh")
    page.reload()
    page.get_by_role("status").first.filter(has_text="就绪").wait_for()
    assert page.locator("#theme").input_value() == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"


def test_every_string_is_translated(page: Any) -> None:
    keys = page.evaluate(
        "fetch('/page/i18n.js').then(answer => answer.text()).then(text => "
        "[...text.matchAll(/^  (en|zh): \\{([^]*?)^  \\},/gm)]"
        ".map(block => [...block[2].matchAll(/^    (\\w+):/gm)].map(found => found[1])))"
    )
    assert len(keys) == 2 and keys[0] == keys[1] and len(keys[0]) > 30


def test_nothing_is_fetched_from_other_hosts(chromium: Any, site: Running) -> None:
    context = chromium.new_context()
    page = context.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(site.base)
    page.locator("#status:not(:empty)").wait_for()
    context.close()
    assert len(requested) > 6 and all(url.startswith((site.base, "data:")) for url in requested)
