"""Test sets: folders of line-aligned text, multi-way (``test.de``) or in pairs (``test.en-de.de``)."""

import re
from codecs import BOM_UTF8
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from mmt.errors import UserError

_PAIR_FILE = re.compile(r"(?P<prefix>.+)\.(?P<source>[^.-]+)-(?P<target>[^.-]+)\.(?P<language>[^.-]+)")
_MULTI_WAY_FILE = re.compile(r"(?P<prefix>.+)\.(?P<language>[^.-]+)")
# Of the prefixes in a folder of training data, the one that is meant.
_TEST_PREFIX, _TRAIN_PREFIX = "test", "train"


@dataclass(frozen=True)
class TestSet:
    """Files of one test set by language.

    Attributes:
        name: how scores call it.
        location: the folder and prefix, as ``--test-set`` takes it.
        multi_way: file of each language; all are aligned with each other.
        pairs: for "en-de" the files of "en" and "de", which are aligned with each other only.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    name: str
    location: str
    multi_way: dict[str, Path] = field(default_factory=dict)
    pairs: dict[str, dict[str, Path]] = field(default_factory=dict)

    def files(self, source: str, target: str) -> tuple[Path, Path] | None:
        """Return the files of a direction, or None if it is not in the test set."""
        for pair in (f"{source}-{target}", f"{target}-{source}"):
            if pair in self.pairs:
                return self.pairs[pair][source], self.pairs[pair][target]
        if source in self.multi_way and target in self.multi_way:
            return self.multi_way[source], self.multi_way[target]
        return None

    def languages(self) -> set[str]:
        """Return the languages that occur in any file."""
        return set(self.multi_way) | {language for files in self.pairs.values() for language in files}

    def read(self, source: str, target: str, max_segments: int | None = None) -> tuple[list[str], list[str]]:
        """Read the source and reference segments of a direction.

        Raises:
            UserError: names the files and their numbers of lines if these differ, or what else is wrong with them.
        """
        files = self.files(source, target)
        if files is None:
            raise UserError(f"--test-set {self.location}: there are no files for {source}-{target}")
        sources, references = read_lines(files[0]), read_lines(files[1])
        if len(sources) != len(references):
            raise UserError(f"--test-set: {files[0]} has {len(sources)} lines, but {files[1]} has {len(references)}")
        return sources[:max_segments], references[:max_segments]


def find_test_set(argument: str, languages: list[str]) -> TestSet:
    """Find the test set that an argument of ``--test-set`` means.

    Args:
        argument: ``FOLDER``, ``FOLDER/PREFIX``, or ``NAME=`` before either. A prefix is what the names of the files
            begin with; it is needed if a folder has several and none of them is "test".
        languages: the languages that count; files of other languages are left alone.

    Raises:
        UserError: if there is no such folder, or no files with these languages in it.
    """
    name, location = name_and_location(argument)
    folder, prefix = Path(location), None
    if not folder.is_dir():
        folder, prefix = folder.parent, folder.name
    if not folder.is_dir() or (prefix is not None and not any(folder.glob(f"{prefix}.*"))):
        raise UserError(f"--test-set {location}: no such folder")
    found = _files_by_prefix(folder, set(languages))
    if prefix is None:
        prefix = _only_prefix(found, location)
    if prefix not in found:
        raise UserError(
            f"--test-set {location}: no files NAME.LANG or NAME.XX-YY.LANG of the languages {', '.join(languages)}"
        )
    multi_way, pairs = found[prefix]
    for pair, files in pairs.items():
        for language in pair.split("-"):
            if language not in files:
                raise UserError(f"--test-set {location}: {prefix}.{pair}.{language} is missing")
    if not pairs and len(multi_way) < 2:
        raise UserError(
            f"--test-set {location}: only one language of the model ({', '.join(multi_way)}) is there, "
            "but a direction needs two"
        )
    return TestSet(name or prefix, str(folder / prefix), multi_way, pairs)


def name_and_location(argument: str) -> tuple[str, str]:
    """Split ``NAME=FOLDER``; the name of ``FOLDER`` alone is empty.

    Raises:
        UserError: if a name or a folder is missing.
    """
    name, equals, location = argument.partition("=")
    if not equals or "/" in name:  # "=" is part of the path
        name, equals, location = "", "", argument
    if (equals and not name) or not location:
        raise UserError(f"--test-set must be FOLDER or NAME=FOLDER, but is {argument!r}")
    return name, location


def _only_prefix(prefixes: Collection[str], location: str) -> str:
    if len(prefixes) == 1 and _TRAIN_PREFIX not in prefixes:
        return next(iter(prefixes))
    if prefixes and _TEST_PREFIX not in prefixes:
        others = [f"{location}/{prefix}" for prefix in sorted(set(prefixes) - {_TRAIN_PREFIX})]
        raise UserError(
            f"--test-set {location}: no files {_TEST_PREFIX}.LANG or {_TEST_PREFIX}.XX-YY.LANG in it; put them beside "
            "your training text (of a table: into data/evalsets/own) and prepare it again, or choose "
            f"{' or '.join(others) or 'another folder'}"
        )
    return _TEST_PREFIX


def _files_by_prefix(
    folder: Path, languages: set[str]
) -> dict[str, tuple[dict[str, Path], dict[str, dict[str, Path]]]]:
    """Return multi-way files and pairs of files for each prefix in the folder."""
    found: dict[str, tuple[dict[str, Path], dict[str, dict[str, Path]]]] = {}
    for path in sorted(folder.iterdir()):
        if match := _PAIR_FILE.fullmatch(path.name):
            pair = {match["source"], match["target"]}
            if match["language"] in pair and pair <= languages:
                pairs = found.setdefault(match["prefix"], ({}, {}))[1]
                pairs.setdefault(f"{match['source']}-{match['target']}", {})[match["language"]] = path
        elif (match := _MULTI_WAY_FILE.fullmatch(path.name)) and match["language"] in languages:
            found.setdefault(match["prefix"], ({}, {}))[0][match["language"]] = path
    return found


def read_lines(path: Path) -> list[str]:
    """Read a text file's lines; only a line feed ends a line, and a byte-order mark is not text.

    Raises:
        UserError: if the file is empty, or a line is not valid UTF-8 or has NUL bytes.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    if not raw:
        raise UserError(f"{path} is empty")
    lines = []
    for number, line in enumerate(raw.removeprefix(BOM_UTF8).removesuffix(b"\n").split(b"\n"), start=1):
        if b"\0" in line:
            raise UserError(f"{path}, line {number}: there are NUL bytes in it")
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not valid UTF-8 ({error.reason} at byte {error.start + 1})"
            ) from error
    return lines
