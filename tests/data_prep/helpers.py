"""Small real inputs made by hand, and running a step as a user does."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

from data_prep.recipe import REPOSITORY


def mo_catalog(messages: dict[str, str], charset: str = "utf-8", order: str = "<") -> bytes:
    """A compiled gettext catalog."""
    header = f"Content-Type: text/plain; charset={charset}\nPlural-Forms: nplurals=2; plural=n != 1;\n"
    entries = sorted((k.encode(charset), v.encode(charset)) for k, v in {"": header, **messages}.items())
    count, originals = len(entries), 28
    text_start = originals + 16 * count
    tables: list[list[bytes]] = [[], []]
    text = b""
    for side in (0, 1):
        for entry in entries:
            tables[side].append(struct.pack(f"{order}2I", len(entry[side]), text_start + len(text)))
            text += entry[side] + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, count, originals, originals + 8 * count, 0, 0)
    return head + b"".join(tables[0]) + b"".join(tables[1]) + text


def pak_file(strings: dict[int, str], version: int = 5) -> bytes:
    """A resource pack with the given strings and, in version 5, one alias."""
    numbers = sorted(strings)
    aliases = [(60_000, 0)] if version == 5 else []
    head = struct.pack("<IBxxxHH", 5, 1, len(numbers), 1) if version == 5 else struct.pack("<IIB", 4, len(numbers), 1)
    offset = len(head) + 6 * (len(numbers) + 1) + 4 * len(aliases)
    table, body = b"", b""
    for number in numbers:
        table += struct.pack("<HI", number, offset + len(body))
        body += strings[number].encode()
    table += struct.pack("<HI", 0, offset + len(body))
    return head + table + b"".join(struct.pack("<HH", *alias) for alias in aliases) + body


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """A gzipped tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return buffer.getvalue()


def deb_package(members: dict[str, bytes], control: str = "Package: tiny\nVersion: 1\nArchitecture: all\n") -> bytes:
    """A Debian package: an ar archive of three members."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar_bytes({"./control": control.encode()}),
        "data.tar.gz": tar_bytes(members),
    }
    archive = b"!<arch>\n"
    for name, contents in parts.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(contents):<10}`\n".encode()
        archive += contents + b"\n" * (len(contents) % 2)
    return archive


def run_step(*arguments: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run ``python -m data_prep.<arguments>`` and return its exit code and output."""
    step, *rest = map(str, arguments)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", f"data_prep.{step}", *rest]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def assert_user_error(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2 and one line on stderr that names everything in ``parts``."""
    assert result.returncode == 2, result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, (part, result.stderr)


def write_lines(path: Path, lines: list[str]) -> Path:
    """Write text lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
    return path
