"""How exact vectors have to be: one knob, and what each of its positions promises."""

from typing import Literal, get_args

from beholder.errors import InvalidSetting

Precision = Literal["exact", "fast", "fastest"]

# The least cosine between a vector and that of the network in single precision. "exact" is held to 1e-5 in each number.
BOUNDS: dict[Precision, float] = {"exact": 1.0, "fast": 0.9999, "fastest": 0.999}
MARGIN = 1.5  # so many times the loss on samples must stay within the bound: the user's pictures are others


def check_precision(wish: str) -> Precision:
    """The wish, if it is one of the three.

    Raises:
        InvalidSetting: it is none of them.
    """
    if wish not in BOUNDS:
        raise InvalidSetting(f"precision: one of {', '.join(get_args(Precision))}, not {wish!r}")
    return wish


def within_bound(cosine: float, precision: Precision, margin: float = MARGIN) -> bool:
    """Whether the least cosine that was measured on samples keeps a precision's promise."""
    return margin * (1 - cosine) <= 1 - BOUNDS[precision]
