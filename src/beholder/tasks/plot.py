"""Plots: the similarity matrix of pictures and sentences, and attention maps."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra, PictureError
from beholder.pictures.read import ImageSource, display_name, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.tasks.attention_maps import AttentionMaps

MAX_ITEMS = 60  # pictures or sentences in one plot; more fit no screen
COLUMN, ROW, GAP = 0.95, 0.52, 0.08  # inches
PIXELS_PER_INCH = 120
LETTERS_A_LINE, LINES = 38, 3
# Fonts with Chinese, Japanese and Korean glyphs; Matplotlib ships none, and a system has one of them at most.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


def plot_similarity(
    path: Path,
    pictures: Sequence[str | ImageSource],
    texts: Sequence[str],
    values: np.ndarray,
    title: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """Plot a matrix with pictures along the top, sentences along the left side, and their similarity in each cell.

    A picture that can't be read any more is replaced by its name.

    Args:
        path: the PNG to write.
        pictures: n pictures.
        texts: m sentences.
        values: (n, m).
        title: name of the values.
        limits: values of the lightest and the darkest cell; by default the minimum and the maximum.

    Raises:
        MissingExtra: Matplotlib is not installed.
        InvalidSetting: there are too many pictures or sentences, none at all, or ``path`` can't be written.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtra("plotting", "plot") from error
    if path.suffix.lower() != ".png":
        raise InvalidSetting(f"{path}: plots are written as PNG; the name must end in .png")
    if values.shape != (len(pictures), len(texts)) or values.size == 0:
        raise InvalidSetting(f"values: ({len(pictures)}, {len(texts)}) and not empty, not {values.shape}")
    if max(values.shape) > MAX_ITEMS:
        raise InvalidSetting(
            f"{path}: {len(pictures)} pictures × {len(texts)} sentences; at most {MAX_ITEMS} × {MAX_ITEMS} can be drawn"
        )

    width, height = len(pictures) * COLUMN, len(texts) * ROW
    low, high = limits or (float(values.min()), float(values.max()))
    shades = ((values - low) / max(high - low, 1e-6)).clip(0, 1)  # (n, m)
    font = font_options()
    figure = matplotlib.figure.Figure(figsize=(width, COLUMN + height), dpi=PIXELS_PER_INCH)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.pcolormesh(
        np.arange(len(pictures) + 1) * COLUMN,
        np.arange(len(texts) + 1) * ROW,
        shades.T,
        vmin=0,
        vmax=1.25,  # leaves out the color map's darkest end, in which the numbers would be hard to read
        cmap="Blues",
        edgecolors="white",
        linewidth=2,
    )
    for column, picture in enumerate(pictures):
        left, side = column * COLUMN, COLUMN - GAP
        thumbnail = load_thumbnail(picture, column, round(side * PIXELS_PER_INCH))
        if thumbnail is None:
            name = wrap_text(Path(display_name(picture, column)).name, 12, 5)
            axes.text(left + COLUMN / 2, -COLUMN / 2, name, ha="center", va="center", fontsize=6, **font)
            continue
        wide, tall = (side * length / max(thumbnail.size) for length in thumbnail.size)
        start = left + (COLUMN - wide) / 2
        axes.imshow(thumbnail, extent=(start, start + wide, -GAP, -GAP - tall), interpolation="none", zorder=2)
    for row, text in enumerate(texts):
        middle = (row + 0.5) * ROW
        label = wrap_text(text, LETTERS_A_LINE, LINES)
        axes.text(-0.12, middle, label, ha="right", va="center", fontsize=9, linespacing=1.15, **font)
        for column in range(len(pictures)):
            color = "white" if shades[column, row] > 0.65 else "#26323d"
            shown = f"{values[column, row]:.2f}"
            axes.text((column + 0.5) * COLUMN, middle, shown, ha="center", va="center", fontsize=9, color=color)
    axes.text(-0.12, -2 * GAP, title, ha="right", va="bottom", fontsize=10, fontweight="bold", **font)
    axes.set(xlim=(0, width), ylim=(height, -COLUMN), aspect="equal")
    axes.axis("off")

    save_figure(figure, path)


def plot_attention(path: Path, picture: ImageSource, attention_maps: "AttentionMaps") -> None:
    """Plot a picture, and for each word of its caption a copy lit by the word's attention.

    Each map is scaled from its minimum to its maximum.

    Args:
        path: the PNG to write.
        picture: the picture.
        attention_maps: from `VisionLanguageModel.attention_maps`.

    Raises:
        MissingExtra: Matplotlib is not installed.
        InvalidSetting: ``path`` can't be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plotting", "plot") from error
    from PIL import Image

    if path.suffix.lower() != ".png":
        raise InvalidSetting(f"{path}: plots are written as PNG; the name must end in .png")
    whole = read_picture(picture, name=display_name(picture, 0), reduce_to=360)
    whole.thumbnail((360, 360))
    panels = [
        ("picture", None),
        ("the whole caption", attention_maps.overall),
        *zip(attention_maps.words, attention_maps.maps, strict=True),
    ]
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * 2.2, rows * (2.2 * whole.height / whole.width + 0.3)), dpi=PIXELS_PER_INCH)
    faded = np.asarray(whole, dtype=np.float32) / 255
    for number, (name, share) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        shown = faded
        if share is not None:
            spread = (share - share.min()) / max(float(np.ptp(share)), 1e-9)
            grid = Image.fromarray(spread.astype(np.float32))
            light = np.asarray(grid.resize(whole.size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
            shown = faded * (0.15 + 0.85 * light)
        axes.imshow(shown, interpolation="none")
        axes.set_title(wrap_text(name, 26, 1), fontsize=9, parse_math=False)
        axes.axis("off")
    save_figure(figure, path)


def font_options() -> dict[str, Any]:
    """Return Matplotlib options that draw any text literally, with CJK glyphs if a font has them."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {
        "family": ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)],
        "parse_math": False,
    }


def save_figure(figure: Any, path: Path) -> None:
    """Save a figure atomically.

    Raises:
        InvalidSetting: ``path`` can't be written.
    """
    aside = path.with_name(f".{path.stem}.writing.png")
    try:
        with warnings.catch_warnings():
            # A glyph that no installed font has is drawn as a box; a warning for each would only be noise.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(aside, bbox_inches="tight", pad_inches=0.15)
        aside.replace(path)
    except OSError as error:
        raise InvalidSetting(f"{path}: can't be written: {error.strerror or error}") from error


def load_thumbnail(picture: ImageSource, index: int, side: int) -> "Image | None":
    """Return the picture within ``side`` by ``side`` pixels; None if it can't be read."""
    try:
        thumbnail = read_picture(picture, name=display_name(picture, index), reduce_to=side)
    except PictureError:
        return None
    thumbnail.thumbnail((side, side))
    return thumbnail


def wrap_text(text: str, letters: int, lines: int) -> str:
    """Wrap text to a few lines, without its own line ends and without characters that can't be drawn."""
    whole = text.encode("utf-8", "replace").decode().split()
    return "\n".join(textwrap.wrap(" ".join(whole), letters, max_lines=lines, placeholder=" …"))
