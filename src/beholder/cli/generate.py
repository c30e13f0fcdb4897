"""``beholder generate``: pictures from sentences and from other pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli.options import AllowUrls, Json, Model, Precision, PrecisionName
from beholder.errors import InvalidSetting, PictureError

if TYPE_CHECKING:
    from PIL import Image

    from beholder.tasks.generate import GeneratedPicture

Sentences = Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to draw; each gets pictures of its own.")]
Like = Annotated[list[str], typer.Option("--like", help="A picture to resemble; may be given several times.")]
Minus = Annotated[list[str], typer.Option("--minus", help="What not to show; may be given several times.")]
Count = Annotated[int, typer.Option("--count", "-n", help="Pictures for each TEXT.")]
Grid = Annotated[int | None, typer.Option("--grid", help="Draw so many pictures for each TEXT, on one sheet.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed draws the same picture; random by default.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the sampling; by default the model's own.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="How closely to follow; 1 is without guidance.")]
Candidates = Annotated[int, typer.Option("--candidates", help="Draw so many for each picture and keep the best.")]
Reranker = Annotated[
    str | None,
    typer.Option(
        "--reranker",
        help="Dual encoder that chooses among candidates: name, folder or hub id; by default the generator's own, and "
        "for pipelines mini.",
    ),
]
IPAdapter = Annotated[
    str | None, typer.Option("--ip-adapter", help="Lets a pipeline take --like: the .safetensors of an IP-Adapter.")
]
ImageEncoder = Annotated[
    str | None,
    typer.Option(
        "--image-encoder",
        help="Folder of the image tower for an IP-Adapter, by default image_encoder beside it, or for Kandinsky.",
    ),
]
Size = Annotated[str | None, typer.Option("--size", help="Such as 512x512; by default the model's own.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="A .png, .jpg or .webp file, or a folder; by default this one.")
]
Device = Annotated[str | None, typer.Option("--device", help="Where to draw, such as cpu or cuda.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Write neither prompt nor seed nor model into files.")]

LONGEST_NAME = 60  # of a file, in characters, without the seed


@dataclass(frozen=True)
class Output:
    """Where the pictures of a call go, and what is said of each.

    Attributes:
        folder: for pictures that are named after their text and seed.
        file: the only picture; None if there is a folder.
        metadata: of every PNG; empty for none.
        json: print JSON lines.
    """

    folder: Path
    file: Path | None
    metadata: dict[str, str]
    json: bool

    def write(self, drawn: Sequence[GeneratedPicture], picture: Image.Image, text: str | None) -> Path:
        """Write a picture, or a sheet of several, and print a line for each drawing; return the file."""
        from beholder.cli.output import print_json, printable
        from beholder.files import reported
        from beholder.pictures.drawn import write_picture

        path = self.file or self.folder / f"{file_stem(text)}-{drawn[0].seed}.png"
        own = {"prompt": text or "", "seed": " ".join(str(each.seed) for each in drawn)} if self.metadata else {}
        with reported(path):
            write_picture(path, picture, self.metadata | own)
        for each in drawn:
            if self.json:
                line = {"text": text, "path": str(path), "seed": each.seed, "cosine": each.cosine, "match": each.match}
                print_json(line)
            else:
                fit = "" if each.cosine is None else f"  cosine {each.cosine:+.3f}"
                fit += "" if each.match is None else f"  match {each.match:.0%}"
                print(f"{printable(str(path))}: seed {each.seed}{fit}")
        return path


def command(
    text: Sentences = [],  # noqa: B006 (typer reads the default and never changes it)
    like: Like = [],  # noqa: B006
    minus: Minus = [],  # noqa: B006
    count: Count = 1,
    grid: Grid = None,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    candidates: Candidates = 1,
    reranker: Reranker = None,
    ip_adapter: IPAdapter = None,
    image_encoder: ImageEncoder = None,
    size: Size = None,
    out: Out = None,
    no_metadata: NoMetadata = False,
    model: Model = "mini",
    device: Device = None,
    precision: Precision = PrecisionName.exact,
    json: Json = False,
    allow_urls: AllowUrls = False,
) -> None:
    """Draw pictures of sentences, or variations of pictures.

    TEXT, --like and --minus are added up. Ctrl-C keeps the pictures that are done.

    \b
    beholder generate "a smiling cat with heart eyes" --model runs/emoji-generator/model --out cat.png
    beholder generate "day" --like castle.png --minus "night" --model runs/emoji-generator/model
    beholder generate "a red heart" "a blue cat" --grid 9 --out sheets --model runs/emoji-generator/model
    """
    from beholder.cli.output import warnings_on_one_line
    from beholder.cli.terminal import select_protocol, show_thumbnail
    from beholder.pictures.drawn import contact_sheet
    from beholder.runtime.precision import check_precision
    from beholder.tasks.generate import ImageGenerator

    texts: list[str | None] = [*text] or [None]
    if not text and not like:
        raise InvalidSetting("nothing to draw: give a TEXT, or a picture with --like")
    if any(each is not None and not each.strip() for each in texts):
        raise InvalidSetting("TEXT must be a sentence; one is empty")
    if grid is not None and count != 1:
        raise InvalidSetting("--grid and --count both say how many pictures to draw: give one of them")
    number = count if grid is None else grid
    folder, file = find_output(out, len(texts) * (number if grid is None else 1))
    sides = parse_size(size)
    with warnings_on_one_line():
        pictures = read_pictures(like, allow_urls)
        generator = ImageGenerator.from_pretrained(
            model,
            device=device,
            precision=check_precision(precision),
            reranker=reranker,
            ip_adapter=ip_adapter,
            image_encoder=image_encoder,
        )
        metadata: dict[str, str] = {}
        if not no_metadata:
            given = {"minus": " ".join(minus), "model": generator.name, "fingerprint": generator.fingerprint}
            metadata = {"software": "Beholder", **given}
        output = Output(folder, file, metadata, json)
        show = None if json else select_protocol()
        for sentence in texts:
            drawn: list[GeneratedPicture] = []
            try:
                with drawing_bar(sentence, number * candidates, json) as on_step:
                    stream = generator.stream(
                        sentence,
                        like=pictures,
                        minus=minus,
                        count=number,
                        candidates=candidates,
                        guidance=guidance,
                        steps=steps,
                        seed=seed,
                        size=sides,
                        on_step=on_step,
                    )
                    for each in stream:
                        drawn.append(each)
                        if grid is None:
                            show_thumbnail(show, output.write([each], each.picture, sentence))
            finally:  # what is done before an interruption is kept
                if grid is not None and drawn:
                    sheet = contact_sheet([each.picture for each in drawn])
                    show_thumbnail(show, output.write(drawn, sheet, sentence))


def find_output(out: Path | None, count: int) -> tuple[Path, Path | None]:
    """Return the folder for pictures, and the file if ``--out`` names one; a folder is made as needed.

    Raises:
        InvalidSetting: it can't be written, or there are several pictures for one file.
    """
    from beholder.cli.output import check_output, check_output_folder
    from beholder.files import reported
    from beholder.pictures.drawn import SUFFIXES

    if out is not None and out.suffix and not out.is_dir():
        check_output("--out", out, list(SUFFIXES))
        if count > 1:
            raise InvalidSetting(f"--out {out}: is one file, and {count} are to be written; name a folder")
        return out.parent, out
    folder = out or Path()
    check_output_folder("--out", folder)
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder, None


def parse_size(size: str | None) -> tuple[int, int] | None:
    """Return the width and height that ``--size`` names.

    Raises:
        InvalidSetting: it is not of the form 512x512.
    """
    if size is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if found is None:
        raise InvalidSetting(f"--size {size}: must be WIDTHxHEIGHT, such as 512x512")
    return int(found[1]), int(found[2])


def read_pictures(names: Sequence[str], allow_urls: bool) -> list[Image.Image]:
    """Read the pictures of ``--like``.

    Raises:
        InvalidSetting: one can't be used.
    """
    from beholder.pictures.read import read_picture

    try:
        return [read_picture(name, allow_urls=allow_urls) for name in names]
    except PictureError as error:
        raise InvalidSetting(f"--like {error}") from error


def file_stem(text: str | None) -> str:
    """Return the start of a file's name: the words of the text, joined by hyphens."""
    words = re.findall(r"\w+", (text or "variation").lower())
    return "-".join(words)[:LONGEST_NAME].strip("-_") or "picture"


@contextmanager
def drawing_bar(text: str | None, pictures: int, json: bool) -> Iterator[Callable[[int, int, Any], None]]:
    """Show the progress of drawing on standard error, if that is a terminal; yields what is called at each step."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=json or not console.is_terminal) as progress:
        bar = progress.add_task(escape(text or "variation"), total=None)

        def on_step(step: int, steps: int, picture: Any) -> None:
            progress.update(bar, total=steps * pictures, advance=1)

        yield on_step
