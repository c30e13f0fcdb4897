"""Text as the full-text index holds it and as queries ask for it: one Unicode form, and unspaced scripts by character.

FTS5's tokenizers take an unspaced run of Chinese, Japanese, Korean or Thai for a single word; its trigram tokenizer
finds no word of one or two characters, which most words of these scripts are. So every character of such a script is a
token, and a word is searched for as a phrase of them, which is the same as searching for a substring.

Source: Unicode Standard Annex 15 (NFKC) and section 3.13 of the standard (case folding).
"""

import re
import unicodedata

# Thai, Lao, Tibetan, Burmese, Khmer, Tai; kana, ideographs and Hangul
UNSPACED = re.compile(
    "[\u0e01-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3041-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uaa60-\uaa7f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def fold(text: str) -> str:
    """Return text for comparison: compatibility-composed (NFKC) and case-folded."""
    if text.isascii():
        return text.casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def to_tokens(text: str) -> str:
    """Return text for FTS5: folded, with spaces around every character of an unspaced script."""
    folded = fold(text)
    return folded if folded.isascii() else UNSPACED.sub(r" \g<0> ", folded)


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded: runs of letters, digits and the marks on them."""
    letters = (letter if letter.isalnum() or unicodedata.category(letter)[0] == "M" else " " for letter in fold(text))
    return "".join(letters).split()


def match_expression(words: list[str]) -> str:
    """Return the FTS5 expression that requires all words, each as a phrase of its tokens."""
    return " ".join(f'"{to_tokens(word)}"' for word in words)
