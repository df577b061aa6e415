"""Files that are either whole or absent under their final name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def partial_path(path: Path) -> Path:
    """Temporary name beside ``path``; always the same: the next run overwrites what a killed one left."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Delete a file, a link or a folder; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def move_into_place(temporary: Path, final: Path) -> None:
    """Sync ``temporary`` (a file or a folder) to disk and give it its final name."""
    if temporary.is_dir():
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                _sync(file)
        old = final.with_name(f".{final.name}.old")
        remove(old)  # there is one if a process was killed between the next two lines
        if final.exists():  # a folder cannot replace a folder that holds files
            os.replace(final, old)
        os.replace(temporary, final)
        remove(old)
    else:
        _sync(temporary)
        os.replace(temporary, final)


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, what was written there becomes ``final``."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(final)
    remove(temporary)
    try:
        yield temporary
        move_into_place(temporary, final)
    except BaseException:
        remove(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        # Half a character, as a file name that is not UTF-8 has, becomes JSON's escape of it.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Return the JSON value in ``path``; None where there is no such file or it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stable_hash(text: str, seed: int = 0) -> int:
    """A 64-bit number that depends on ``text`` and ``seed`` only: the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=str(seed).encode()).digest(), "big")
