"""What instruction-tuned models are told to do with a picture, and what is made of their answers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.errors import InvalidAnswer
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.pictures import Picture

BRIEFLY = "Answer the question using a single word or phrase."
STYLES = {
    None: "Describe this picture in one short sentence.",
    "short": "Describe this picture in one short sentence.",
    "long": "Describe this picture in a detailed paragraph: what it shows, the setting, colors, and what happens.",
    "alt-text": "Write the alternative text of this picture for people who can't see it: one or two plain sentences "
    "that name what matters. Do not begin with the words picture of, image of or photo of.",
    "product": "Describe the product in this picture for an online shop in two or three factual sentences: what it is, "
    "its color, material and shape. Do not invent anything that can't be seen.",
    "keywords": "List up to ten keywords for this picture, separated by commas, and write nothing else.",
}
LANGUAGES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Simplified Chinese",
    "zh-tw": "Traditional Chinese",
}


def describe(options: CaptionOptions, context: str = "") -> str:
    """Return the instruction for a caption.

    Args:
        options: of captioning.
        context: what is known of the picture (`file_context`).
    """
    parts = [f"Known of the picture: {context}."] if context else []
    if options.fields:
        keys = ", ".join(json.dumps(name, ensure_ascii=False) for name in options.fields)
        parts.append(
            f"Answer with one JSON object and nothing else. Its keys are exactly {keys}; each value is a short string "
            "that says what the picture shows, or null if it can't be seen."
        )
    else:
        parts.append(" ".join((options.instruction or STYLES[options.style]).split()))
    if options.language:
        language = LANGUAGES.get(options.language.lower(), options.language)
        parts.append(f"Write in {language}." if not options.fields else f"Write the values in {language}.")
    return " ".join(parts)


def begin_with(start: str) -> str:
    """Return the instruction to begin a caption in a given way."""
    return f'Begin with "{start.strip()}".'


def answer_briefly(question: str) -> str:
    """Return the instruction for a short answer."""
    return f"{question}\n{BRIEFLY}"


def choose(question: str, choices: Sequence[str]) -> str:
    """Return the instruction to answer with one of the choices."""
    named = "; ".join(choice.strip() for choice in choices)
    return f"{question}\nAnswer with exactly one of these and nothing else: {named}"


def file_context(picture: Picture, options: CaptionOptions) -> str:
    """Return what the metadata of a picture's file say of it, as the options ask for; empty if nothing."""
    if not options.context or not isinstance(picture, str | os.PathLike):
        return ""
    from beholder.pictures.photo_metadata import photo_metadata
    from beholder.pictures.read import read_file

    if isinstance(picture, str) and "://" in picture:
        return ""
    found = photo_metadata(read_file(picture), Path(picture))
    values = {
        "place": ", ".join(part for part in (found.city, found.country) if part),
        "date": (found.taken or "")[:10],
        "keywords": ", ".join(found.tags),
    }
    names = {"place": "taken in", "date": "taken on", "keywords": "keywords:"}
    return "; ".join(f"{names[name]} {values[name]}" for name in options.context if values[name])


def to_caption(text: str, options: CaptionOptions, name: str) -> tuple[str, dict[str, str | None] | None]:
    """Return the caption that a model's answer holds, and the object of its fields if there are any.

    Args:
        text: the answer.
        options: of captioning.
        name: of the picture.

    Raises:
        InvalidAnswer: the answer is not the JSON object that was asked for.
    """
    if options.fields:
        fields = parse_fields(text, options.fields, name)
        return json.dumps(fields, ensure_ascii=False), fields
    if options.style == "keywords":
        words = [word.strip(" .-*\t#") for word in re.split(r"[,;，、；\n]", text)]
        return ", ".join(dict.fromkeys(word for word in words if word)), None
    return " ".join(text.split()), None


def parse_fields(text: str, fields: Sequence[str], name: str) -> dict[str, str | None]:
    """Return the JSON object in a text, with exactly these keys, each a string or None.

    Raises:
        InvalidAnswer: there is none, or it has other keys or values.
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        found: Any = json.loads(text[start : end + 1]) if start >= 0 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidAnswer(name, "the model's answer is no JSON object")
    if missing := [field for field in fields if field not in found]:
        raise InvalidAnswer(name, f"the model's answer lacks {', '.join(missing)}")
    if extra := [key for key in found if key not in fields]:
        raise InvalidAnswer(name, f"the model's answer has {', '.join(extra[:5])}, which nobody asked for")
    values: dict[str, str | None] = {}
    for field in fields:
        value = found[field]
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ", ".join(value)
        if isinstance(value, bool | int | float):
            value = json.dumps(value)
        if value is not None and not isinstance(value, str):
            raise InvalidAnswer(name, f"the model's answer for {field} is no text")
        values[field] = " ".join(value.split()) if value else None
    return values
