"""Menu accelerators (``_File``, ``&File``, ``~File``, ``ファイル(_F)``), removed in the style of their toolkit.

A mark is never removed everywhere: ``_`` breaks identifiers and ``&`` is a word in other programs.
"""

from __future__ import annotations

import re

from data_prep.errors import DataError

STYLES: dict[str, str] = {"none": "", "gtk": "_", "qt": "&", "libreoffice": "~_"}

_AFTER = {mark: re.compile(rf"{mark}(?=\w)") for mark in "_&~"}
_AT_WORD_START = {mark: re.compile(rf"(?<![\w(\"'])[{mark}](?=[^\W_]\w)") for mark in "_&~"}
_IN_BRACKETS = {mark: re.compile(rf" ?[(（]{mark}\w[)）]") for mark in "_&~"}
_MARKED_WORD = {mark: re.compile(rf"\w*{mark}\w*") for mark in "_&~"}
_ENTITY = re.compile(r"&#?\w+;")


def strip_accelerators(source: str, target: str, style: str) -> tuple[str, str]:
    """Remove accelerator marks from a message and its translation."""
    for mark in STYLES[style]:
        source, target = _strip(source, target, mark)
    return source, target


def _strip(source: str, target: str, mark: str) -> tuple[str, str]:
    if mark in target:
        target = _IN_BRACKETS[mark].sub("", target)
    if mark == "&":
        if _ENTITY.search(source):
            return source, target
        return _single(source, mark), _single(target, mark)
    if mark not in source and target.count(mark) == 1:
        return source, _AT_WORD_START[mark].sub("", target)  # left over in the translation
    marked = _MARKED_WORD[mark].findall(source)
    if len(marked) != 1 or marked[0] in target:  # an identifier is not translated
        return source, target
    return _single(source, mark), _single(target, mark) if target.count(mark) == 1 else target


def _single(text: str, mark: str) -> str:
    if mark not in text:
        return text
    return _AFTER[mark].sub("", text.replace(mark * 2, "\0")).replace("\0", mark)


def check_style(style: str, where: str) -> str:
    """Return ``style`` if it is known."""
    if style not in STYLES:
        raise DataError(f"{where}: unknown accelerator style {style!r}; known are {', '.join(STYLES)}")
    return style
