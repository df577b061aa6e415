"""GNOME's help pages (Mallard XML): a translated page has the same elements in the same order as the English one."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

_BLOCKS = {"p", "title", "desc", "cite", "subtitle"}
_SKIPPED = {"code", "screen"}
_DOCTYPE = re.compile(rb"<!(DOCTYPE|ENTITY)")


def _blocks(data: bytes) -> list[tuple[str, str]] | None:
    if _DOCTYPE.search(data):
        return None  # entities could expand without end
    try:
        return list(_walk(ElementTree.fromstring(data)))
    except (ElementTree.ParseError, RecursionError, ValueError, LookupError):  # the last two: an unknown encoding
        return None


def _walk(element: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for child in element:
        if not isinstance(child.tag, str):
            continue
        tag = child.tag.rpartition("}")[2]
        if tag in _BLOCKS:
            yield tag, " ".join("".join(child.itertext()).split())
        elif tag not in _SKIPPED:
            yield from _walk(child)


def read_pages(english: bytes, translated: bytes) -> Iterator[tuple[str, str]] | None:
    """Pairs of aligned blocks of text; None where the two pages differ in structure or are no XML."""
    source, target = _blocks(english), _blocks(translated)
    if source is None or target is None or [t for t, _ in source] != [t for t, _ in target]:
        return None
    return zip([text for _, text in source], [text for _, text in target])
