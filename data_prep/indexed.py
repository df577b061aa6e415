"""fairseq's memory-mapped dataset: ``.bin`` holds all tokens one after another, ``.idx`` where each sentence lies."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"MMIDIDX\x00\x00"
_FORMAT_VERSION = 1
_DTYPE_CODES = {np.dtype(np.uint16): 8, np.dtype(np.uint32): 9}


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The type fairseq stores the tokens of a vocabulary in."""
    return np.dtype(np.uint16) if vocab_size < 65_500 else np.dtype(np.uint32)


def write_indexed(
    prefix: Path, tokens: npt.NDArray[np.integer], sizes: npt.NDArray[np.integer], vocab_size: int
) -> None:
    """Write ``prefix.bin`` and ``prefix.idx``.

    Args:
        prefix: path without its ending.
        tokens: the ids of all sentences, ``(sum of sizes,)``.
        sizes: length of each sentence with its end mark, ``(sentences,)``.
        vocab_size: size of the dictionary; it decides the type of the stored ids.
    """
    dtype = token_dtype(vocab_size)
    assert int(sizes.sum()) == len(tokens)
    Path(f"{prefix}.bin").write_bytes(tokens.astype(dtype).tobytes())
    pointers = np.zeros(len(sizes), dtype=np.int64)
    np.cumsum(sizes[:-1], out=pointers[1:])
    with Path(f"{prefix}.idx").open("wb") as file:
        file.write(_MAGIC + struct.pack("<QBQ", _FORMAT_VERSION, _DTYPE_CODES[dtype], len(sizes)))
        file.write(sizes.astype(np.int32).tobytes())
        file.write((pointers * dtype.itemsize).tobytes())
