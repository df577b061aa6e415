"""Reading packages without unpacking them: members pass through memory, so none can be written outside a folder."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from data_prep.errors import DataError

MAX_MEMBER_BYTES = 256 << 20


def check_member_name(name: str, archive: Path) -> str:
    """Return the clean relative name of a member; refuse one that points out of the archive's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: refused, its member {name!r} points outside the folder of the archive")
    return str(path)


def _members(tar: tarfile.TarFile, archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        name = check_member_name(member.name, archive)
        if not member.isfile() or not wanted(name):
            continue  # links, devices and folders hold no text
        if member.size > MAX_MEMBER_BYTES:
            raise DataError(
                f"{archive}: refused, its member {name!r} has {member.size} bytes; at most {MAX_MEMBER_BYTES} are read"
            )
        file = tar.extractfile(member)
        assert file is not None  # a regular file always has contents
        yield name, file.read()


def read_members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield ``(name, contents)`` of the wanted files of a ``.deb`` or a (compressed) ``.tar`` archive.

    ``wanted`` gets the member's relative name, ``usr/share/...``.
    """
    try:
        if archive.suffix == ".deb":
            yield from _deb_members(archive, wanted)
        else:
            with tarfile.open(archive, "r:*") as tar:
                yield from _members(tar, archive, wanted)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{archive}: damaged or not an archive: {error}") from None


def _deb_members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise DataError(
            "reading .deb packages needs the program dpkg-deb, which Debian and its relatives have"
        ) from None
    with process:
        assert process.stdout is not None and process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield from _members(tar, archive, wanted)
            while process.stdout.read(1 << 16):  # padding after the last member
                pass
            whole = True
        except tarfile.TarError:
            whole = False
        finally:
            process.stdout.close()
        reason = process.stderr.read().decode(errors="replace").strip()
        if process.wait() or not whole:
            raise DataError(f"{archive}: damaged or not a .deb package: {reason}")
