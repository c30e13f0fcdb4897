"""Draws the figures of the guide from real photographs and the default model, each by the script of its name.

python docs/figures/draw.py            all of them, into docs/drawn
python docs/figures/draw.py patches    one
"""

import importlib
import sys
from pathlib import Path

from seen import Seen

FIGURES = ("patches", "towers", "contrast", "qformer", "masks", "stages", "soft_prompts", "looks")
DRAWN = Path(__file__).parents[1] / "drawn"


def main() -> None:
    """Draws those that were asked for."""
    seen = Seen()
    DRAWN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or FIGURES:
        if name not in FIGURES:
            sys.exit(f"draw: there is no figure {name}; there are {', '.join(FIGURES)}")
        importlib.import_module(name).draw(seen, DRAWN / f"{name}.png")


if __name__ == "__main__":
    main()
