"""The precision setting of an encoder or vision-language model, and the error bound that each value guarantees."""

from typing import Literal, get_args

from beholder.errors import InvalidSetting

Precision = Literal["exact", "fast", "fastest"]

# Minimum cosine between an output and that of the network in float32. "exact" outputs agree to 1e-5 in each number.
BOUNDS: dict[Precision, float] = {"exact": 1.0, "fast": 0.9999, "fastest": 0.999}
MARGIN = 2.0  # factor by which the error on samples must stay within the bound, because the user's inputs differ


def check_precision(precision: str) -> Precision:
    """Return the precision if it is a known one.

    Raises:
        InvalidSetting: it is unknown.
    """
    if precision not in BOUNDS:
        raise InvalidSetting(f"precision: one of {', '.join(get_args(Precision))}, not {precision!r}")
    return precision


def within_bound(cosine: float, precision: Precision) -> bool:
    """Return whether the minimum cosine on samples is within a precision's bound; NaN is not."""
    return MARGIN * (1 - cosine) <= 1 - BOUNDS[precision]
