"""GNU gettext's compiled catalogs (``.mo``).

Layout: magic number, version, number of messages, offsets of two tables of (length, offset): originals and
    translations.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator

from data_prep.errors import DataError

_CHARSET = re.compile(rb"charset=([A-Za-z0-9._:-]+)", re.IGNORECASE)


def read_mo(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield ``(message, translation)``, without contexts.

    Of a plural, the singular comes with the first form and the plural with the last. Bytes that are none of the
    catalog's character set become U+FFFD.

    Raises:
        DataError: the bytes are no catalog, or are cut off, or its character set is unknown.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None or len(data) < 20:
        raise DataError("not a .mo catalog")
    count, originals, translations = struct.unpack_from(f"{order}3I", data, 8)
    if max(originals, translations) + 8 * count > len(data):
        raise DataError("a .mo catalog that is cut off")

    def text(entry: int) -> bytes:
        length, start = struct.unpack_from(f"{order}2I", data, entry)
        if start + length > len(data):
            raise DataError("a .mo catalog that is cut off")
        return data[start : start + length]

    charset = "utf-8"
    for i in range(count):
        message, translation = text(originals + 8 * i), text(translations + 8 * i)
        if not message:  # the header
            if found := _CHARSET.search(translation):
                charset = _known(found[1].decode("ascii"))
            continue
        yield from _forms(message, translation, charset)


def _known(charset: str) -> str:
    try:
        return codecs.lookup(charset).name
    except LookupError as error:
        raise DataError(f"a .mo catalog in the unknown character set {charset!r}") from error


def _forms(message: bytes, translation: bytes, charset: str) -> Iterator[tuple[str, str]]:
    sources = message.decode(charset, errors="replace").rpartition("\x04")[2].split("\0")
    targets = translation.decode(charset, errors="replace").split("\0")
    yield sources[0], targets[0]
    if len(sources) > 1 and len(targets) > 1:
        yield sources[1], targets[-1]
