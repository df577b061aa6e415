"""One table of characters, used when text is cleaned and built into the SentencePiece model.

What a user types is thereby normalised as the training text was, but for NFC, which is too large for such a table:
``mmt translate`` and ``mmt evaluate`` apply it themselves, ``fairseq-interactive`` expects it. The rules are mild on
purpose: NFKC would turn the full-width punctuation of Chinese and Japanese into ASCII, which references keep.
"""

from __future__ import annotations

import re
import unicodedata

_SPACES = [
    0x09,
    0x0A,
    0x0B,
    0x0C,
    0x0D,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
]
# Invisible and layout characters. U+200C and U+200D stay: Persian and the Indic scripts spell with them.
_REMOVED = [
    *(c for c in range(0x20) if c not in _SPACES),
    *(c for c in range(0x7F, 0xA0) if c not in _SPACES),
    0xAD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xFFFC,
    0xFFFD,
]  # fmt: skip

CHARACTER_TABLE: dict[int, str] = {**{c: " " for c in _SPACES}, **{c: "" for c in _REMOVED}}
_IN_TABLE = re.compile("[" + re.escape("".join(map(chr, CHARACTER_TABLE))) + "]")
_MANY_SPACES = re.compile(r" {2,}")


def normalise(text: str) -> str:
    """NFC, one kind of space, single spaces, nothing invisible, no space at the ends."""
    if _IN_TABLE.search(text):
        text = text.translate(CHARACTER_TABLE)
    # After the table: what it removes may stand between a letter and its accent.
    text = unicodedata.normalize("NFC", text)
    return _MANY_SPACES.sub(" ", text).strip(" ")


def sentencepiece_rules() -> str:
    """The table as a ``normalization_rule_tsv`` of SentencePiece; it cannot hold NUL, which is refused earlier."""
    lines = []
    for code, replacement in sorted(CHARACTER_TABLE.items()):
        if code:
            lines.append(f"{code:X}\t{' '.join(f'{ord(c):X}' for c in replacement)}")
    return "\n".join(lines) + "\n"
