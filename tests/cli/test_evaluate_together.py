"""``mmt evaluate`` on several processes, which share out the directions."""

import os
import re
from pathlib import Path

import pytest

from mmt.files import locked, try_lock
from tests.cli.command import Finished, mmt, start_together
from tests.cli.conftest import QUICK, records
from tests.system.launched import TIMEOUT_SECONDS, wait_until


def test_several_processes_share_the_directions_and_give_the_same_scores(
    evaluated: tuple[Path, Finished], tiny: Path, tmp_path: Path
) -> None:
    expected, _ = evaluated
    processes = start_together(2, "evaluate", tiny / "run", "--output", tmp_path, *QUICK)
    outputs = [process.communicate(timeout=TIMEOUT_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert b"Results, one line for each direction" in outputs[0][0]
    assert outputs[1][0] == b""
    timeless = [
        {line["direction"]: {**line, "wall_s": 0} for line in records(results)} for results in (expected, tmp_path)
    ]
    assert timeless[0] == timeless[1]
    assert (tmp_path / "summary.json").read_text() == (expected / "summary.json").read_text()


def being_scored(results: Path) -> int:
    """Return how many directions somebody works on."""
    locks = [try_lock(claim) for claim in (results / ".claims").glob("*")]
    for descriptor in locks:
        if descriptor is not None:
            os.close(descriptor)
    return locks.count(None)


@pytest.mark.parametrize("killed", [0, 1])
def test_what_a_killed_process_had_begun_is_done_by_another(killed: int, tiny: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "scores.jsonl"):  # whoever has translated a direction waits here for the other
        processes = start_together(2, "evaluate", tiny / "run", "--output", tmp_path, "--no-baselines", *QUICK)
        wait_until(lambda: being_scored(tmp_path) == 2, "both to be at work")
        processes[killed].kill()
    output, errors = processes[1 - killed].communicate(timeout=TIMEOUT_SECONDS)
    assert processes[1 - killed].returncode == 0, errors
    assert sorted(line["direction"] for line in records(tmp_path)) == ["de-en", "en-de", "en-ru", "ru-en"]


def test_processes_that_are_not_told_where_to_meet_are_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")

    line = mmt("evaluate", tiny / "run", "--output", tmp_path, "--no-baselines", *QUICK).error_line()

    assert line.startswith("mmt: error: WORLD_SIZE is 2, but ") and "MASTER_ADDR" in line


def test_if_the_first_process_cannot_begin_the_others_end(tiny: Path, tmp_path: Path) -> None:
    mmt("evaluate", tiny / "run", "--output", tmp_path, "--no-baselines", "--max-segments", "2", *QUICK)
    options = ["--no-baselines", "--max-segments", "1", *QUICK]
    processes = start_together(2, "evaluate", tiny / "run", "--output", tmp_path, *options)
    errors = [process.communicate(timeout=TIMEOUT_SECONDS)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert "holds scores of another evaluation: max_segments 2 (now 1)" in errors[0]
    # Before or after they have met.
    assert re.search("the first of the processes that share this work has ended|have not met", errors[1])
