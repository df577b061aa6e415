"""A folder of results that survives a kill at any instant.

It holds ``run.json`` (what was scored, and how), ``scores.jsonl`` (one line for each finished direction) and
``hypotheses/NAME.en-de.de``. A direction is finished when its line is in ``scores.jsonl``; its hypotheses are on the
disk before.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmt.errors import UserError
from mmt.evaluation.directions import split
from mmt.files import locked, try_lock, write_text

RUN, SCORES, SUMMARY, HYPOTHESES, LOCK = "run.json", "scores.jsonl", "summary.json", "hypotheses", ".lock"
CLAIMS = ".claims"
FORMAT = 1

Record = dict[str, Any]


class ResultsFolder:
    """The results of one checkpoint.

    Attributes:
        path: the folder.
        run: what is in ``run.json``.
        records: the finished directions, by test set and direction.
    """

    def __init__(
        self, path: Path, run: Record, records: dict[tuple[str, str], Record], lock: int | None = None
    ) -> None:
        self.path = path
        self.run = run
        self.records = records
        self._lock = lock

    def close(self) -> None:
        """Let other processes write into the folder; the end of the process does the same, whatever ends it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @classmethod
    def open_for_reading(cls, path: str | Path) -> "ResultsFolder":
        """Open finished or unfinished results.

        Raises:
            UserError: if the folder holds none.
        """
        path = Path(path)
        if not (path / RUN).is_file():
            raise UserError(f"{path} is not a folder of results of mmt evaluate (no {RUN})")
        return cls(path, _read_run(path), _read_scores(path)[0])

    @classmethod
    def open_for_writing(
        cls, path: str | Path, identity: Record, test_sets: dict[str, str], *, restart: bool = False
    ) -> "ResultsFolder":
        """Begin results, or go on with them. Only one process at a time can do so.

        Args:
            path: the folder; it is made if it is not there.
            identity: what scores depend on: the checkpoint and the options of the search.
            test_sets: location of each test set by name.
            restart: throw away what is there.

        Raises:
            UserError: if the folder holds results of another identity, or another process writes into it.
        """
        path = Path(path)
        (path / HYPOTHESES).mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            run, records = cls._begin_or_go_on(path, identity, test_sets, restart=restart)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, run, records, lock)

    @classmethod
    def join(cls, path: str | Path, identity: Record) -> "ResultsFolder":
        """Open results that another process of the same evaluation has begun to write, to write into them too.

        Raises:
            UserError: if the folder holds results of another identity.
        """
        folder = cls.open_for_reading(path)
        _check_identity(folder.path, folder.run["identity"], identity)
        return folder

    @staticmethod
    def _begin_or_go_on(
        path: Path, identity: Record, test_sets: dict[str, str], *, restart: bool
    ) -> tuple[Record, dict[tuple[str, str], Record]]:
        if (path / SCORES).is_file() and not (path / RUN).is_file() and not restart:
            raise UserError(f"{path} holds {SCORES}, but no {RUN}; choose another --output, or --restart")
        if restart and ((path / RUN).is_file() or (path / SCORES).is_file()):
            if (path / RUN).is_file():
                _read_run(path, any_format=True)  # a file of ours
            else:
                _refuse_scores_of_others(path)
            # Scores first: without them a direction is not finished, whatever else a kill leaves here.
            for name in (SCORES, SUMMARY):
                (path / name).unlink(missing_ok=True)
            shutil.rmtree(path / HYPOTHESES)
            (path / HYPOTHESES).mkdir()
            (path / RUN).unlink(missing_ok=True)
        run: Record = {"format": FORMAT, "identity": identity, "test_sets": test_sets}
        records: dict[tuple[str, str], Record] = {}
        if (path / RUN).is_file():
            old = _read_run(path)
            _check_identity(path, old["identity"], identity)
            run["test_sets"] = {**old["test_sets"], **test_sets}
            records, intact = _read_scores(path)
            if not intact:  # the line that was being written at a kill
                write_text(path / SCORES, "".join(map(_line, records.values())))
        write_text(path / RUN, json.dumps(run, indent=1, ensure_ascii=False) + "\n")
        return run, records

    @property
    def claims_path(self) -> Path:
        """Where processes that write into the folder together say who does what."""
        return self.path / CLAIMS

    def read_again(self) -> None:
        """Learn what other processes have finished."""
        self.records = _read_scores(self.path)[0]

    def hypotheses_path(self, test_set: str, direction: str) -> Path:
        """Return where the hypotheses of a direction are, or will be."""
        return self.path / HYPOTHESES / f"{test_set}.{direction}.{split(direction)[1]}"

    def finished(self, test_set: str, direction: str, source_sha256: str, reference_sha256: str) -> bool:
        """Return whether a direction need not be translated again.

        Raises:
            UserError: if it was scored on another text.
        """
        record = self.records.get((test_set, direction))
        if record is None:
            return False
        if (record["source_sha256"], record["reference_sha256"]) != (source_sha256, reference_sha256):
            raise UserError(
                f"--output {self.path} holds scores of {direction} on another text of test set {test_set}; name the "
                "test set differently (--test-set NAME=FOLDER), choose another --output, or throw the old scores away "
                "with --restart"
            )
        return self.hypotheses_path(test_set, direction).is_file()

    def add(self, record: Record, hypotheses: Sequence[str]) -> None:
        """Store a finished direction: first its hypotheses, then its scores."""
        test_set, direction = record["test_set"], record["direction"]
        write_text(self.hypotheses_path(test_set, direction), "".join(f"{line}\n" for line in hypotheses))
        with locked(self.path / SCORES):
            self.records, intact = _read_scores(self.path)
            again = (test_set, direction) in self.records  # its hypotheses were lost
            self.records[test_set, direction] = record
            if again or not intact:  # after a line that another process could not finish
                write_text(self.path / SCORES, "".join(map(_line, self.records.values())))
                return
            with (self.path / SCORES).open("a", encoding="utf-8") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())

    def read_hypotheses(self, test_set: str, direction: str) -> list[str]:
        """Read the hypotheses of a direction.

        Raises:
            UserError: if they are not there.
        """
        path = self.hypotheses_path(test_set, direction)
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file, although {SCORES} has its scores") from error


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _lock(path: Path) -> int:
    """Return a file descriptor that holds the folder's lock until it is closed."""
    descriptor = try_lock(path / LOCK)
    if descriptor is None:
        raise UserError(f"--output {path}: another mmt evaluate is writing into this folder")
    return descriptor


def _read_run(path: Path, *, any_format: bool = False) -> Record:
    try:
        run = json.loads((path / RUN).read_text(encoding="utf-8"))
        found = run["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / RUN} is not a file of mmt evaluate; choose another --output") from error
    if found != FORMAT and not any_format:
        raise UserError(f"{path / RUN} is of format {found}, but this version of mmt knows only {FORMAT}")
    return run


def _read_scores(path: Path) -> tuple[dict[tuple[str, str], Record], bool]:
    """Read the finished directions; the second value is False if the last line is not whole."""
    if not (path / SCORES).is_file():
        return {}, True
    lines = (path / SCORES).read_bytes().split(b"\n")
    rest = lines.pop()
    records = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records[record["test_set"], record["direction"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path / SCORES}, line {number}: not a line of scores; "
                "mend it, or throw the results away with --restart"
            ) from error
    return records, not rest


def _refuse_scores_of_others(path: Path) -> None:
    try:
        _read_scores(path)
    except UserError as error:
        raise UserError(f"{path / SCORES} is not a file of mmt evaluate; choose another --output") from error


def _check_identity(path: Path, old: Record, new: Record) -> None:
    different = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if different:
        changes = ", ".join(f"{key} {old.get(key)} (now {new.get(key)})" for key in different)
        raise UserError(
            f"--output {path} holds scores of another evaluation: {changes}; "
            "choose another --output, or throw the old scores away with --restart"
        )
