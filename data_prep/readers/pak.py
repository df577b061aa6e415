"""Chromium's resource packs (``.pak``), versions 4 and 5: numbered strings, one file for each language."""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib

from data_prep.errors import DataError

_ENTRY = struct.Struct("<HI")
_ALIAS = struct.Struct("<HH")
_UTF8 = 1


def read_pak(data: bytes) -> dict[int, str]:
    """Return the strings of a pack by resource number; aliases are left out, they repeat another string.

    Raises:
        DataError: the bytes are no pack, or are cut off.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"a .pak file that is damaged: {error}") from None
    if len(data) < 12:
        raise DataError("not a .pak file")
    version = struct.unpack_from("<I", data)[0]
    if version == 5:
        encoding, count, aliases = struct.unpack_from("<BxxxHH", data, 4)
        start = 12
    elif version == 4:
        count, encoding = struct.unpack_from("<IB", data, 4)
        aliases, start = 0, 9
    else:
        raise DataError(f"a .pak file must have version 4 or 5, but has {version}")
    if encoding != _UTF8:
        raise DataError(f"a .pak file must hold UTF-8 text (encoding 1), but has encoding {encoding}")
    table_end = start + (count + 1) * _ENTRY.size + aliases * _ALIAS.size
    if table_end > len(data):
        raise DataError("a .pak file that is cut off")
    entries = [_ENTRY.unpack_from(data, start + i * _ENTRY.size) for i in range(count + 1)]
    strings = {}
    for (number, begin), (_, end) in itertools.pairwise(entries):
        if not begin <= end <= len(data):
            raise DataError("a .pak file that is cut off")
        strings[number] = data[begin:end].decode("utf-8", errors="replace")
    return strings
