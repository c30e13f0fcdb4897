"""Draw the figures of the guide from real photographs and the default model; each figure has a script of its name.

python docs/figures/draw.py            all of them, into docs/drawn
python docs/figures/draw.py patches    one
"""

import importlib
import sys
from pathlib import Path

from computed import Computed

FIGURES = [
    *("patches", "towers", "contrast", "qformer", "masks", "stages", "soft_prompts", "attention_maps"),
    *("generation", "compositions", "tour"),
]
DRAWN = Path(__file__).parents[1] / "drawn"


def main() -> None:
    """Draw the figures named on the command line, or all."""
    computed = Computed()
    DRAWN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or FIGURES:
        if name not in FIGURES:
            sys.exit(f"draw: no figure is called {name}; choose from {', '.join(FIGURES)}")
        importlib.import_module(name).draw(computed, DRAWN / f"{name}.png")


if __name__ == "__main__":
    main()
