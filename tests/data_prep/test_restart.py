"""Steps that were finished are skipped; those that were interrupted leave nothing half-written and are done again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from data_prep import steps
from data_prep.errors import DataError
from data_prep.files import read_json, replacing
from data_prep.recipe import REPOSITORY
from data_prep.steps import Unit, in_processes
from tests.data_prep.helpers import write_lines
from tests.system.launched import TIMEOUT_SECONDS, children, wait_until


def unit(tmp_path: Path, **options: int) -> Unit:
    return Unit("step", 1, tmp_path / "out", options, [tmp_path / "in"])


def test_finished_output_is_made_again_only_if_something_changed(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", ["x"])
    made = []

    def work(temporary: Path) -> dict[str, int]:
        made.append(1)
        temporary.mkdir()
        (temporary / "a").write_text("abc")
        return {"rows": len(made)}

    assert unit(tmp_path, size=1).make(work)["rows"] == 1
    assert unit(tmp_path, size=1).make(work)["rows"] == 1  # nothing changed
    assert unit(tmp_path, size=2).make(work)["rows"] == 2  # another option
    write_lines(tmp_path / "in", ["another input"])
    assert unit(tmp_path, size=2).make(work)["rows"] == 3
    (tmp_path / "out" / "a").write_text("")  # cut off
    assert unit(tmp_path, size=2).make(work)["rows"] == 4
    (tmp_path / "out" / "a").unlink()
    assert unit(tmp_path, size=2).make(work)["rows"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "out.stats.json"]


def make_folder(temporary: Path) -> dict[str, int]:
    temporary.mkdir()
    (temporary / "a").write_text("abc")
    return {}


def test_a_file_that_somebody_added_does_not_make_a_step_run_again_but_those_that_read_it(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", ["x"])
    unit(tmp_path).make(make_folder)
    reader = Unit("reader", 1, tmp_path / "later", {}, [tmp_path / "out"])
    reader.make(make_folder)
    made = (tmp_path / "out" / "a").stat().st_mtime_ns
    write_lines(tmp_path / "out" / "mine", ["my own line"])

    unit(tmp_path).make(make_folder)

    assert (tmp_path / "out" / "a").stat().st_mtime_ns == made
    assert (tmp_path / "out" / "mine").read_text() == "my own line\n"
    assert reader.finished_stats() is None
    reader.make(make_folder)
    assert reader.finished_stats() is not None


@pytest.mark.parametrize("change", ["shorter", "gone"])
def test_a_step_that_reads_a_file_which_somebody_changed_is_done_again(tmp_path: Path, change: str) -> None:
    write_lines(tmp_path / "in", ["x"])
    unit(tmp_path).make(make_folder)
    reader = Unit("reader", 1, tmp_path / "later", {}, [tmp_path / "out"])
    reader.make(make_folder)
    assert reader.finished_stats() is not None

    if change == "gone":
        (tmp_path / "out" / "a").unlink()
    else:
        (tmp_path / "out" / "a").write_text("ab")
    assert reader.finished_stats() is None

    unit(tmp_path).make(make_folder)  # as it was: what has been read from it is right again
    assert reader.finished_stats() is not None


@pytest.mark.parametrize("with_stats", [True, False])
def test_a_folder_with_a_file_that_no_step_wrote_is_never_replaced(tmp_path: Path, with_stats: bool) -> None:
    write_lines(tmp_path / "in", ["x"])
    if with_stats:
        unit(tmp_path, size=1).make(make_folder)
    write_lines(tmp_path / "out" / "deep" / "mine", ["my own line"])

    with pytest.raises(DataError, match="out/deep/mine: not a file of the step step, .* move it to another folder"):
        unit(tmp_path, size=2).make(make_folder)
    assert (tmp_path / "out" / "deep" / "mine").read_text() == "my own line\n"

    (tmp_path / "out" / "deep" / "mine").unlink()
    unit(tmp_path, size=2).make(make_folder)


@pytest.mark.parametrize("name", ["write_json", "move_into_place"])
def test_a_step_killed_between_its_output_and_its_statistics_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_lines(tmp_path / "in", ["x"])
    calls = []

    def killed_after(*arguments: object) -> None:
        calls.append(1)
        real(*arguments)
        if len(calls) == (2 if name == "write_json" else 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = getattr(steps, name)
        patch.setattr(steps, name, killed_after)
        with pytest.raises(KeyboardInterrupt):
            unit(tmp_path).make(make_folder)
    unit(tmp_path).make(make_folder)
    assert unit(tmp_path).finished_stats() is not None


def test_what_a_kill_between_two_renames_left_is_removed(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", ["x"])
    unit(tmp_path).make(make_folder)
    (tmp_path / "out").rename(tmp_path / ".out.old")  # the new folder has not got its name yet

    unit(tmp_path).make(make_folder)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "out.stats.json"]


def test_failure_keeps_the_older_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "file", ["old"])

    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError

    assert [p.read_text() for p in tmp_path.iterdir()] == ["old\n"]


def test_killed_at_any_moment_and_started_again_gives_the_same_data(tmp_path: Path, prepared_sample: Path) -> None:
    command = [
        sys.executable, "-m", "data_prep.run", "--recipe", "software50", "--preset", "sample", "--languages",
        "en,de,el,hi,th,zh", "--vocab-size", "5000", "--data", str(tmp_path / "data"), "--jobs", "2",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    final = tmp_path / "data" / "software50" / "sample"

    def finished() -> dict[Path, int]:
        # Unlike rglob, os.walk does not mind that a folder gets its final name while it looks into it.
        folders = [(Path(folder), names) for folder, _, names in os.walk(tmp_path / "data") if "partial" not in folder]
        files = [folder / name for folder, names in folders for name in names if name.endswith(".stats.json")]
        return {p: p.stat().st_mtime_ns for p in files if "identity" in (read_json(p) or {})}

    # Evaluation sets, raw text, 5 clean and 5 unique files, text: while reading, cleaning and training the vocabulary.
    for wanted in (1, 3, 13):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until(lambda: len(finished()) >= wanted or process.poll() is not None, "a step", interval_s=0.01)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # What stands under its final name with statistics is whole: it is never made again below.
    whole = finished()
    assert len(whole) >= 13

    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    assert {p: p.stat().st_mtime_ns for p in whole} == whole and len(finished()) == 15
    assert not list((tmp_path / "data").rglob(".*partial*"))
    expected = prepared_sample / "software50" / "sample"
    for part in ("text", "spm", "bin"):
        ours = {p.name: p.read_bytes() for p in (final / part).iterdir()}
        assert ours == {p.name: p.read_bytes() for p in (expected / part).iterdir()}


def _die(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_process_is_a_user_error_and_no_hang() -> None:
    with pytest.raises(DataError, match="a process was killed, most likely for lack of memory"):
        in_processes(_die, list(range(6)), jobs=2)
    assert in_processes(_die, [1, 2, 4], jobs=2) == [1, 2, 4]


def _fail_or_touch(path: Path) -> None:
    if path.name == "0":
        raise DataError("the first one is wrong")
    time.sleep(0.05)
    path.touch()


def test_what_fails_keeps_the_rest_from_being_done(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the first one is wrong"):
        in_processes(_fail_or_touch, [tmp_path / str(number) for number in range(200)], jobs=2)
    assert len(list(tmp_path.iterdir())) < 100


SLEEPING_STEP = """
import os, time
from data_prep.steps import in_processes

def work(item):
    os.write(1, b"at work\\n")  # in one piece, which print does not promise
    time.sleep(600)

in_processes(work, [1, 2], jobs=2)
"""


def test_the_processes_of_a_step_end_when_the_step_is_killed() -> None:
    step = subprocess.Popen([sys.executable, "-c", SLEEPING_STEP], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert step.stdout is not None
    assert [step.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    workers = children(step.pid)

    step.kill()

    try:
        step.communicate(timeout=TIMEOUT_SECONDS)  # until nobody can write there any more
    except subprocess.TimeoutExpired:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        raise


@pytest.fixture
def own_text_command(tmp_path: Path) -> list[str]:
    """``data_prep.run`` on a small table, to ``tmp_path / "data" / "mine"``."""
    words = ["house", "river", "garden", "teacher", "window", "bottle", "letter", "machine", "mountain", "village"]
    lines = [f"the {a} and the {b} of the {c}" for a in words for b in words for c in words[:5]]
    table = write_lines(tmp_path / "mine.tsv", ["en\tde", *(f"{line}\t{line[::-1]}" for line in lines)])
    options = ["--data", str(tmp_path / "data"), "--vocab-size", "320", "--held-out-rule", "exact", "--jobs", "1"]
    return [sys.executable, "-m", "data_prep.run", "--input", str(table), *options]


# Python runs this when it starts.
WAIT_AT_THE_GATE = """
import os, pathlib, sys, time
if "data_prep.own_text" in sys.orig_argv:
    gate = pathlib.Path(os.environ["GATE"])
    gate.with_suffix(".pid").write_text(f"{os.getpid()}\\n")
    while not gate.exists():
        time.sleep(0.01)
"""


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file without which no ``own_text`` goes on."""
    folder = tmp_path / "at_start"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WAIT_AT_THE_GATE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    return tmp_path / "gate"


@contextmanager
def waiting_step(gate: Path) -> Iterator[int]:
    """Wait for the process that waits at the gate, and yield its number; at the end it is killed."""
    number = gate.with_suffix(".pid")
    wait_until(lambda: number.exists() and number.read_text().endswith("\n"), "own_text")
    step = int(number.read_text())
    try:
        yield step
    finally:
        with suppress(ProcessLookupError):
            os.kill(step, signal.SIGKILL)


def test_a_run_that_is_told_to_end_takes_its_step_along(own_text_command: list[str], gate: Path) -> None:
    run = subprocess.Popen(own_text_command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, text=True)
    with waiting_step(gate) as step:
        time.sleep(1)  # until the run knows that it has begun

        run.terminate()

        assert run.wait(TIMEOUT_SECONDS) == 128 + signal.SIGTERM
        assert not Path(f"/proc/{step}").exists()


def test_a_run_started_again_waits_for_the_step_that_a_killed_run_has_left(
    tmp_path: Path, own_text_command: list[str], gate: Path
) -> None:
    killed = subprocess.Popen(own_text_command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, text=True)
    with waiting_step(gate):
        killed.kill()
        killed.wait()

        again = subprocess.Popen(own_text_command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert again.stdout is not None
        first_line = again.stdout.readline()
        gate.touch()
        again.communicate(timeout=TIMEOUT_SECONDS)

    assert first_line == f"waiting for another run of data_prep that writes to {tmp_path / 'data' / 'mine'}\n"
    assert again.returncode == 0
    assert not list((tmp_path / "data").rglob(".*partial*"))
    text = tmp_path / "data" / "mine" / "default" / "text"
    assert sum(len((text / f"{name}.en-de.de").read_text().splitlines()) for name in ("train", "valid")) == 500
