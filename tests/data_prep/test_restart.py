"""Steps that were finished are skipped; those that were interrupted leave nothing half-written and are done again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.files import replacing
from data_prep.recipe import REPOSITORY
from data_prep.steps import Unit, in_processes, stats_path
from tests.data_prep.helpers import write_lines


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
    stats_path(tmp_path / "out").unlink()
    assert unit(tmp_path, size=2).make(work)["rows"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "out.stats.json"]


def test_failure_keeps_the_older_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "file", ["old"])

    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError

    assert [p.read_text() for p in tmp_path.iterdir()] == ["old\n"]


def test_killed_at_any_moment_and_started_again_gives_the_same_data(tmp_path: Path, sample_data: Path) -> None:
    command = [
        sys.executable, "-m", "data_prep.run", "--recipe", "software50", "--preset", "sample", "--languages",
        "en,de,el,hi,th,zh", "--vocab-size", "5000", "--data", str(tmp_path / "data"), "--jobs", "2",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    final = tmp_path / "data" / "software50" / "sample"
    for seconds in (0.6, 1.5, 3.0):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # What stands under its final name with statistics is whole: it is never made again below.
    whole = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.stats.json")}

    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    assert {p: p.stat().st_mtime_ns for p in whole} == whole
    assert not list((tmp_path / "data").rglob(".*partial*"))
    expected = sample_data / "software50" / "sample"
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
