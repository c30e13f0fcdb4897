"""Captions as people need them: styles, languages, fields, context, trigger words."""

import json
from pathlib import Path
from typing import Any

import faulty_server
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from beholder import VisionLanguageModel
from beholder.errors import InvalidAnswer, InvalidSetting
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.instructions import describe, file_context, parse_fields, to_caption
from command import beholder
from tiny_blip2 import make

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" photoshop:City="Lyon" photoshop:Country="France"
 photoshop:DateCreated="2024-05-01T10:00:00"><dc:subject><rdf:Bag><rdf:li>wedding</rdf:li><rdf:li>Ada</rdf:li></rdf:Bag>
</dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_each_style_has_its_instruction() -> None:
    found = {
        style: describe(CaptionOptions(style=style)) for style in ("short", "long", "alt-text", "product", "keywords")
    }  # type: ignore[arg-type]
    assert len(set(found.values())) == 5
    assert describe(CaptionOptions()) == found["short"]
    assert "online shop" in found["product"] and "separated by commas" in found["keywords"]
    assert describe(CaptionOptions(instruction="Name the\nbird.")) == "Name the bird."
    assert describe(CaptionOptions(style="long", language="zh")).endswith("Write in Simplified Chinese.")
    assert describe(CaptionOptions(language="Latin")).endswith("Write in Latin.")
    asked = describe(CaptionOptions(fields=("color", "Ärmel"), language="de"), "taken in Lyon")
    assert asked.startswith("Known of the picture: taken in Lyon.") and '"color", "Ärmel"' in asked
    assert asked.endswith("Write the values in German.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "poem"}, "style 'poem' is none of short"),
        ({"context": ("weather",)}, "context 'weather' is none of place"),
        ({"fields": ("color", "color")}, "differ"),
        ({"fields": ("color", " ")}, "must be names"),
        ({"instruction": " "}, "instruction is empty"),
        ({"instruction": "Name it.", "style": "long"}, "style and instruction exclude"),
        ({"fields": ("color",), "prompt": "this is"}, "fields and prompt exclude"),
    ],
)
def test_options_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        CaptionOptions(**settings)


def test_long_styles_have_room() -> None:
    assert CaptionOptions(style="long").with_room().max_new_tokens == 160
    assert CaptionOptions(style="long", max_new_tokens=300).with_room().max_new_tokens == 300
    assert CaptionOptions().with_room().max_new_tokens == 20
    assert CaptionOptions(fields=("a", "b")).with_room().no_repeat_ngram_size == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"color": "red", "sleeve": "long"}', {"color": "red", "sleeve": "long"}),
        (
            'Here it is:\n```json\n{"sleeve": null, "color": ["red", "blue"]}\n```',
            {"color": "red, blue", "sleeve": None},
        ),
        ('{"color": true, "sleeve": 2}', {"color": "true", "sleeve": "2"}),
        ('{"color": " dark\\nred ", "sleeve": ""}', {"color": "dark red", "sleeve": None}),
    ],
)
def test_fields_are_read_from_an_answer(text: str, expected: dict[str, str | None]) -> None:
    assert parse_fields(text, ["color", "sleeve"], "shirt.jpg") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red shirt", "no JSON object"),
        ('{"color": "red"', "no JSON object"),
        ('["red"]', "no JSON object"),
        ('{"color": "red"}', "lacks sleeve"),
        ('{"color": "red", "sleeve": "long", "price": "9"}', "has price, which nobody asked for"),
        ('{"color": {"main": "red"}, "sleeve": "long"}', "for color is no text"),
    ],
)
def test_an_answer_of_another_form_is_an_error_of_the_picture(text: str, message: str) -> None:
    with pytest.raises(InvalidAnswer, match=f"shirt.jpg: .*{message}"):
        parse_fields(text, ["color", "sleeve"], "shirt.jpg")


def test_keywords_are_cleaned() -> None:
    text = "dog, Snow ,dog\n- winter\n* 雪、狗."
    assert to_caption(text, CaptionOptions(style="keywords"), "")[0] == "dog, Snow, winter, 雪, 狗"


def test_the_context_is_what_the_file_says(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png", pnginfo=info)
    options = CaptionOptions(context=("place", "date", "keywords"))
    expected = "taken in Lyon, France; taken on 2024-05-01; keywords: wedding, Ada"
    assert file_context(tmp_path / "a.png", options) == expected
    assert file_context(str(tmp_path / "a.png"), CaptionOptions()) == ""
    assert file_context(Image.new("RGB", (20, 20)), options) == ""
    with faulty_server.running() as server:
        VisionLanguageModel.from_pretrained(f"{server.address}#m").caption(tmp_path / "a.png", context=("place",))
        (text,) = (part["text"] for part in server.bodies[0]["messages"][0]["content"] if part["type"] == "text")
        assert text.startswith("Known of the picture: taken in Lyon, France.") and "wedding" not in text


def test_a_model_with_a_bridge_follows_no_instructions(tmp_path: Path) -> None:
    make("opt", tmp_path)
    model = VisionLanguageModel.from_pretrained(tmp_path, device="cpu")
    image = Image.new("RGB", (30, 30))
    given: list[dict[str, Any]] = [
        {"style": "long"},
        {"instruction": "Name it."},
        {"language": "zh"},
        {"fields": ("color",)},
        {"context": ("place",)},
    ]
    for settings in given:
        with pytest.raises(InvalidSetting, match=f"can't be given {next(iter(settings))}"):
            model.caption(image, **settings)
    assert model.caption(image, style="short", language="en") == model.caption(image)


def test_fields_for_a_shop_on_the_command_line(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16), (0, number * 8, 128)).save(tmp_path / f"{number}.png")
    out = tmp_path / "garments.jsonl"

    def reply(body: dict[str, Any], brightness: int) -> str:
        return "a shirt" if brightness == 1 else json.dumps({"color": f"shade {brightness}", "sleeve": None})

    with faulty_server.running() as server:
        server.reply = reply
        address = f"{server.address}#m"
        done = beholder("caption", tmp_path, "--model", address, "--fields", "color,sleeve", "--out", out)
    assert done.returncode == 1 and "1.png: the model's answer is no JSON object" in done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["fields"] for row in rows] == [{"color": f"shade {number}", "sleeve": None} for number in (0, 2)]


def test_trigger_words_and_text_files_on_the_command_line(tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (16, 16), (0, number * 8, 128)).save(tmp_path / f"{number}.png")
    with faulty_server.running() as server:
        arguments = ["caption", tmp_path, "--model", f"{server.address}#m", "--prefix", "ohwx cat", "--txt"]
        assert beholder(*arguments).returncode == 0
        assert [(tmp_path / f"{number}.txt").read_text() for number in range(2)] == [
            f"ohwx cat, brightness {number}\n" for number in range(2)
        ]
        (tmp_path / "1.txt").write_text("mine\n")
        again = beholder(*arguments)
        assert "2 of 2 pictures have a caption already" in again.stderr and server.count == 2
        assert (tmp_path / "1.txt").read_text() == "mine\n"
        refused = beholder(*arguments, "--style", "poem", "--overwrite")
        assert refused.returncode == 2 and "style 'poem' is none of" in refused.stderr
