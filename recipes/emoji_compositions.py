"""Drawings made of others, so that a generator learns what names put together mean: in another color, and in pairs."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Hue of Pillow's HSV, 0 to 255; saturation and value are scaled by the factors.
COLORS: Mapping[str, tuple[int | None, float, float]] = {
    "red": (0, 1.2, 1.0),
    "orange": (20, 1.2, 1.0),
    "yellow": (37, 1.2, 1.1),
    "green": (85, 1.0, 0.9),
    "blue": (155, 1.1, 1.0),
    "purple": (195, 1.0, 0.95),
    "pink": (232, 0.7, 1.1),
    "brown": (18, 0.9, 0.6),
    "black": (None, 0.2, 0.25),
}
COLORED = 40  # saturation, 0 to 255, above which a pixel has a color
SMALLEST_SHARE = 0.3  # of a drawing's opaque pixels that must have a color
CATEGORIES = ("Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")


def recolor(drawing: Image.Image, color: str) -> Image.Image | None:
    """Give the colored parts of a drawing another color; None if too little of it has any."""
    hue, saturation_scale, value_scale = COLORS[color]
    alpha = drawing.convert("RGBA").getchannel("A")
    values = np.asarray(drawing.convert("RGBA").convert("RGB").convert("HSV")).astype(np.float32)
    opaque = np.asarray(alpha) > 127
    colored = (values[..., 1] > COLORED) & opaque
    if colored.sum() < SMALLEST_SHARE * max(opaque.sum(), 1):
        return None
    if hue is not None:
        values[colored, 0] = hue
    values[colored, 1] *= saturation_scale
    values[colored, 2] *= value_scale
    result = Image.fromarray(values.clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    result.putalpha(alpha)
    return result


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Draw two drawings next to each other, each at a little over half its size."""
    side = left.width
    small = round(side * 0.52)
    result = Image.new("RGBA", (side, side))
    for drawing, x in ((left, 0), (right, side - small)):
        part = drawing.convert("RGBA").resize((small, small), Image.Resampling.LANCZOS)
        result.alpha_composite(part, (x, (side - small) // 2))
    return result


def article(name: str) -> str:
    """Put an article in front of a name."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def recolored(
    files: Mapping[str, Path], names: Mapping[str, Sequence[str]], folder: Path, generator: random.Random
) -> list[tuple[Path, list[str], str]]:
    """Draw each sign in a color that is not named in its names; return file, captions and label of each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for code, file in sorted(files.items()):
        color = generator.choice(list(COLORS))
        plain = [name for name in names[code] if not any(other in name for other in COLORS)][:3]
        with Image.open(file) as drawing:
            changed = recolor(drawing, color) if plain else None
        if changed is not None:
            target = folder / f"{code.lower()}-{color}.png"
            changed.save(target)
            captions = [form(f"{color} {name}") for name in plain for form in (str, article)]
            found.append((target, captions, f"{code} {color}"))
    return found


def paired(
    files: Mapping[str, Path],
    names: Mapping[str, Sequence[str]],
    folder: Path,
    count: int,
    generator: random.Random,
) -> list[tuple[Path, list[str], str]]:
    """Draw ``count`` pairs of signs; return file, captions and label of each."""
    folder.mkdir(parents=True, exist_ok=True)
    forms: tuple[Callable[[str, str], str], ...] = (
        lambda one, other: f"{one} and {other}",
        lambda one, other: f"{article(one)} and {article(other)}",
        lambda one, other: f"{article(one)} next to {article(other)}",
    )
    found = []
    for _ in range(count):
        first, second = generator.sample(sorted(files), 2)
        with Image.open(files[first]) as left, Image.open(files[second]) as right:
            pair = side_by_side(left, right)
        target = folder / f"{first.lower()}+{second.lower()}.png"
        pair.save(target)
        captions = [form(names[first][0], names[second][0]) for form in forms]
        found.append((target, captions, f"{first}+{second}"))
    return found
