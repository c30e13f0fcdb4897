"""The script of a text: whether a tower that was trained on English reads it."""

import re

# Letters of Chinese, Japanese and Korean, of which one is enough.
_CJK = r"[\u3005-\u3007\u3041-\u312f\u3131-\u318e\u31a0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
_CJK += r"\uff66-\uffdc\U0001b000-\U0001b16f\U00020000-\U000323af]"
# Other scripts from Greek on, but for the Latin blocks among them. A single letter may be a unit or a symbol.
_OTHER = r"[\u0370-\u1cff\u1f00-\u1fff\u2c80-\u2dff\ua4d0-\ua6ff\ua800-\ua95f\ua980-\uab2f\uab70-\uabff\ufb07-\ufdff]"
_FOREIGN = re.compile(f"{_CJK}|{_OTHER}{{2}}")
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA_OR_HANGUL = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\uac00-\ud7af]")


def is_non_latin(text: str) -> bool:
    """Return whether a text has letters of another script: one of Chinese, Japanese or Korean, or two others.

    Symbols, emoji and a single Greek or Cyrillic letter, as in "5 µm" and "α particle", are part of Latin text.
    """
    return _FOREIGN.search(text) is not None


def is_chinese(text: str) -> bool:
    """Return whether a text has Chinese characters, and neither kana nor hangul."""
    return _HAN.search(text) is not None and _KANA_OR_HANGUL.search(text) is None
