"""Unpack a frozen evaluation set: ``<output>/<name>/{dev,test,udhr}/<set>.<lang>``, checked by its hash."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from data_prep.archives import read_members
from data_prep.errors import DataError, run_program
from data_prep.files import sha256_of
from data_prep.lines import read_lines
from data_prep.normalise import normalise
from data_prep.options import add_common_options, set_up_logging
from data_prep.recipe import REPOSITORY
from data_prep.steps import Unit
from data_prep.text_files import FORMATS, folders_below

VERSION = 1
PACKED = REPOSITORY / "evalsets"
DEFAULT_OUTPUT = REPOSITORY / "data" / "evalsets"
# What lies beside the sentences of an evaluation set; ids.txt says where those of the frozen set come from.
_NO_SENTENCES = ("README*", "NOTICE*", "LICEN[CS]E*", "*.json", "*.md", "ids.txt")


def check_hash(archive: Path) -> str:
    """Compare a file with ``<file>.sha256`` beside it; returns the hash."""
    recorded = archive.with_name(f"{archive.name}.sha256")
    for path in (archive, recorded):
        if not path.is_file():
            raise DataError(f"no such file: {path}")
    expected, actual = recorded.read_text().split()[0], sha256_of(archive)
    if actual != expected:
        raise DataError(f"{archive}: its SHA-256 must be {expected} (as in {recorded.name}), but is {actual}")
    return actual


def unpack(name: str, output: Path) -> Path:
    """Unpack ``evalsets/<name>-eval.tar.xz`` into ``output/name`` unless that is done; returns the folder."""
    archive = PACKED / f"{name}-eval.tar.xz"
    if not archive.is_file():
        known = sorted(p.name.removesuffix("-eval.tar.xz") for p in PACKED.glob("*-eval.tar.xz"))
        raise DataError(f"unknown evaluation set {name!r}; known are {', '.join(known) or 'none'}")
    unit = Unit("evalsets", VERSION, output / name, {"sha256": check_hash(archive)})
    unit.make(lambda temporary: _unpack(archive, temporary))
    return output / name


def _unpack(archive: Path, folder: Path) -> dict[str, int]:
    files = 0
    for member, contents in read_members(archive, lambda _: True):
        relative = PurePosixPath(*PurePosixPath(member).parts[1:])  # without the archive's own top folder
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(contents)
        files += 1
    return {"unpacked_files": files}


def held_out_files(folders: list[Path]) -> list[Path]:
    """All text files below the folders, linked ones too, whatever the languages are called.

    A packed one, a table or a text without an ending is a :class:`DataError`: nobody would see that its sentences stay
    in training.
    """
    files: dict[Path, None] = {}  # a folder may be named twice, or lie in another
    for folder in folders:
        found = [
            path / name
            for path, names in folders_below(folder)
            for name in names
            if not any(fnmatchcase(name, pattern) for pattern in _NO_SENTENCES)
        ]
        if not found:
            raise DataError(f"no files <name>.<language> in {folder}")
        for path in found:
            ending = path.suffix.removeprefix(".")
            if not ending or ending in FORMATS:
                raise DataError(
                    f"{path}: a file of an evaluation set must be plain text with a sentence a line, called like "
                    f"test.de or test.en-de.de; unpack or rename it, or move it out of {folder}"
                )
        files.update(dict.fromkeys(found))
    return list(files)


def linked_folders(folders: list[Path]) -> list[Path]:
    """The linked folders below the folders: inputs of their own, since a folder's fingerprint stops at them."""
    return [path for folder in folders for path, _ in folders_below(folder) if path != folder and path.is_symlink()]


def read_held_out(folders: list[Path]) -> list[str]:
    """All sentences of the evaluation sets, in all languages.

    A line that cannot be read cannot be kept out of training either, so it is a :class:`DataError`.
    """
    sentences = []
    for path in held_out_files(folders):
        counts: dict[str, int] = {}
        for number, line in enumerate(read_lines(path, counts), start=1):
            if line:
                sentences.append(normalise(line))
            elif faults := counts.keys() - {"empty"}:
                raise DataError(f"{path}, line {number}: cannot be kept out of training ({min(faults)})")
    return sentences


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.evalsets", description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="software50", help="which set (default: software50)")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="folder to unpack into (default: data/evalsets)"
    )
    add_common_options(parser, jobs=False)
    args = parser.parse_args()
    set_up_logging(args)
    print(unpack(args.name, args.output))


if __name__ == "__main__":
    run_program(main, "data_prep.evalsets")
