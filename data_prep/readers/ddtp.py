"""Debian's translated package descriptions (``Translation-XX``), aligned by the checksum of the English text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.steps import add_counts

_FIELD = re.compile(r"^Description-([A-Za-z_@]+): ?(.*)$")


def read_translation_index(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield ``(checksum of the English description, short description, paragraphs)``."""
    checksum, short = "", ""
    body: list[str] = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            line = line.rstrip("\n")
            if not line:
                if checksum:
                    yield checksum, short, _paragraphs(body)
                checksum, short, body = "", "", []
            elif line.startswith("Description-md5: "):
                checksum = line[17:]
            elif line.startswith(" "):
                body.append(line[1:])
            elif found := _FIELD.match(line):
                short = found[2]
    if checksum:
        yield checksum, short, _paragraphs(body)


def _paragraphs(lines: list[str]) -> list[str]:
    """Join wrapped lines; a lone ``.`` ends a paragraph, an indented line or a bullet starts one."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line == ".":
            paragraphs.append([])
            continue
        stripped = line.strip()
        if line.startswith(" ") and stripped[:2] in {"* ", "- ", "o ", "+ "}:
            paragraphs.append([stripped[2:]])
        elif line[:2] in {"* ", "- "}:
            paragraphs.append([stripped[2:]])
        else:
            paragraphs[-1].append(stripped)
    return ["\n".join(p) for p in paragraphs if p]


def read_ddtp(english: list[Path], translated: list[Path], counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield short descriptions and, where both have the same number of paragraphs, the paragraphs.

    What is left out is counted: ``descriptions_of_other_structure``, ``descriptions_without_english`` and
    ``repeated_messages``.
    """
    originals = {}
    for path in english:
        for checksum, short, paragraphs in read_translation_index(path):
            originals[checksum] = (short, paragraphs)
    seen = set()
    for path in translated:
        for checksum, short, paragraphs in read_translation_index(path):
            if checksum in seen:
                add_counts(counts, {"repeated_messages": 1})
                continue
            seen.add(checksum)
            if checksum not in originals:  # of another version of the package
                add_counts(counts, {"descriptions_without_english": 1})
                continue
            english_short, english_paragraphs = originals[checksum]
            yield english_short, short
            if len(paragraphs) == len(english_paragraphs):
                yield from zip(english_paragraphs, paragraphs)
            else:
                add_counts(counts, {"descriptions_of_other_structure": 1})
