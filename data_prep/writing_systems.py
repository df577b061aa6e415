"""Which characters belong to which writing system, as regular-expression classes."""

from __future__ import annotations

import re

_LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0250-\u02af\u1e00-\u1eff"
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"
_KANA = "\u3040-\u30ff\uff66-\uff9f"

SCRIPT_CLASSES: dict[str, str] = {
    "Latin": _LATIN,
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Hebrew": "\u0590-\u05ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff\u200c\u200d",
    "Devanagari": "\u0900-\u097f\u200c\u200d",
    "Bengali": "\u0980-\u09ff\u200c\u200d",
    "Gurmukhi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff\u200c\u200d",
    "Tamil": "\u0b80-\u0bff\u200c\u200d",
    "Telugu": "\u0c00-\u0c7f\u200c\u200d",
    "Kannada": "\u0c80-\u0cff\u200c\u200d",
    "Malayalam": "\u0d00-\u0d7f\u200c\u200d",
    "Sinhala": "\u0d80-\u0dff\u200c\u200d",
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Khmer": "\u1780-\u17ff",
    "Myanmar": "\u1000-\u109f",
    "Georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "Armenian": "\u0530-\u058f",
    "Ethiopic": "\u1200-\u139f",
    "Han": _HAN,
    "Kana+Han": _KANA + _HAN,
    "Hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
}

# Written without spaces between words: every character counts as a word of its own.
UNSPACED_CLASS = (
    _KANA + _HAN + SCRIPT_CLASSES["Thai"] + SCRIPT_CLASSES["Lao"] + SCRIPT_CLASSES["Khmer"] + SCRIPT_CLASSES["Myanmar"]
)

_NOT_IN_SCRIPT = {name: re.compile(f"[^{chars}]+") for name, chars in SCRIPT_CLASSES.items()}
_NOT_IN_ANY = re.compile("[^" + "".join(dict.fromkeys(SCRIPT_CLASSES.values())) + "]+")


def count_letters(text: str, script: str | None = None) -> int:
    """Number of characters of ``script``, or of any known script; vowel signs count as letters."""
    return len((_NOT_IN_SCRIPT[script] if script else _NOT_IN_ANY).sub("", text))
