"""``mmt compare`` on real results."""

import json
import shutil
from pathlib import Path

import pytest

from mmt.evaluation.bootstrap import paired_samples
from tests.cli.command import mmt, start_mmt
from tests.evaluation.tiny_model import write_lines
from tests.system.launched import TIMEOUT_SECONDS

DIRECTIONS = ["en-de", "de-en", "en-ru"]


@pytest.fixture(scope="module")
def results(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results of a search that may take as many words as it needs, and of one that must stop early."""
    folder = tmp_path_factory.mktemp("compared")
    for name, limit in (("long", "20"), ("short", "3")):
        options = [
            "--beam",
            "1",
            "--max-len-a",
            "0",
            "--max-len-b",
            limit,
            "--no-baselines",
            "--directions",
            ",".join(DIRECTIONS),
        ]
        finished = mmt("evaluate", tiny / "run", "--test-set", tiny / "multi", "--output", folder / name, *options)
        assert finished.returncode == 0, finished.stderr
    return {"long": folder / "long", "short": folder / "short"}


def test_differences_come_with_intervals_for_directions_and_averages(
    results: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    finished = mmt("compare", results["short"], results["long"], "--samples", "100", "--output", tmp_path / "out.jsonl")

    assert finished.returncode == 0, finished.stderr
    lines = {
        (line.get("direction") or line["group"], line["metric"]): line
        for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert {name for name, _ in lines} == {*DIRECTIONS, "all", "en→xx", "xx→en", "high"}
    hypotheses = [
        (results[name] / "hypotheses" / "news.en-de.de").read_text().split("\n")[:-1] for name in ("short", "long")
    ]
    references = (tiny / "multi" / "news.de").read_text().split("\n")[:-1]
    expected = paired_samples("chrf", *hypotheses, references, "de", num_samples=100).difference()
    found = lines["en-de", "chrf"]
    assert (found["delta"], found["low"], found["high"], found["p"]) == pytest.approx(
        (expected.delta, expected.low, expected.high, expected.p)
    )
    assert found["delta"] > 0
    of_all = lines["all", "chrf"]
    assert of_all["delta"] == pytest.approx(sum(lines[direction, "chrf"]["delta"] for direction in DIRECTIONS) / 3)
    assert f"{expected.delta:+.1f}" in finished.stdout
    assert f"[{expected.low:+.1f}, {expected.high:+.1f}]" in finished.stdout
    assert "average of en→xx (2)" in finished.stdout


def test_directions_that_only_one_has_are_named(results: dict[str, Path], tmp_path: Path) -> None:
    fewer = Path(shutil.copytree(results["long"], tmp_path / "fewer"))
    lines = (fewer / "scores.jsonl").read_text().splitlines(keepends=True)
    (fewer / "scores.jsonl").write_text("".join(line for line in lines if '"en-ru"' not in line))

    finished = mmt("compare", results["short"], fewer, "--samples", "50")

    assert finished.returncode == 0
    assert f"Only in {results['short']}: en-ru" in finished.stdout


def test_a_test_set_that_was_moved_can_be_given(results: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(tiny / "multi", tmp_path / "moved"))
    lost = Path(shutil.copytree(results["long"], tmp_path / "lost"))
    run = json.loads((lost / "run.json").read_text())
    run["test_sets"]["news"] = "no/such/news"
    (lost / "run.json").write_text(json.dumps(run))

    line = mmt("compare", lost, results["short"]).error_line()
    mend = "give the place of test set news with --test-set news=FOLDER"
    assert line == f"mmt: error: --test-set no/such/news: no such folder; {mend}"
    assert mmt("compare", lost, results["short"], "--samples", "50", "--test-set", f"news={moved}").returncode == 0
    assert mmt("compare", lost, results["short"], "--samples", "50", "--test-set", moved).returncode == 0


def test_results_can_be_compared_from_any_folder(tiny: Path, tmp_path: Path) -> None:
    options = ["--beam", "1", "--no-baselines", "--directions", "en-de", "--output", tmp_path / "results"]
    assert mmt("evaluate", tiny / "run", "--test-set", "multi", *options, cwd=tiny).returncode == 0

    finished = mmt("compare", "results", "results", "--samples", "50", cwd=tmp_path)

    assert finished.returncode == 0, finished.stderr


def test_results_on_another_text_cannot_be_compared(results: dict[str, Path], tmp_path: Path) -> None:
    for language in ("en", "de", "ru"):
        write_lines(tmp_path / f"news.{language}", ["another text"] * 12)

    line = mmt("compare", results["long"], results["short"], "--test-set", tmp_path).error_line()

    assert line == f"mmt: error: {results['long']}: en-de was scored on another text than {tmp_path}/news"


def test_translations_of_another_source_cannot_be_compared(
    results: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(tiny / "multi", tmp_path / "moved"))
    write_lines(moved / "news.en", ["another source"] * 12)

    line = mmt("compare", results["long"], results["short"], "--test-set", moved).error_line()

    assert line == f"mmt: error: {results['long']}: en-de was scored on another text than {moved}/news"


def test_a_terminal_without_arrows_gets_the_table_all_the_same(results: dict[str, Path], tmp_path: Path) -> None:
    process = start_mmt(
        *["compare", results["long"], results["short"], "--samples", "50", "--output", tmp_path / "differences"],
        environment={"PYTHONIOENCODING": "latin-1"},
    )
    output, errors = process.communicate(timeout=TIMEOUT_SECONDS)

    assert process.returncode == 0, errors
    assert b"average of en?xx (2)" in output
    assert (tmp_path / "differences").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no/such", "{long}"], "no/such is not a folder of results of mmt evaluate (no run.json)"),
        (["{long}", "{long}", "--output", "no/such/file"], "--output no/such/file: there is no folder no/such"),
        (["{long}", "{long}", "--seed", "-1"], "--seed must be at least 0, but is -1"),
        (["{long}", "{long}", "--samples", "5"], "--samples must be at least 40 for a 95% interval, but is 5"),
        (
            ["{long}", "{long}", "--test-set", "udhr=."],
            "{long} and {long} have no direction of test set udhr in common",
        ),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], expected: str, results: dict[str, Path], tmp_path: Path
) -> None:
    line = mmt("compare", *(argument.format(**results) for argument in arguments), cwd=tmp_path).error_line()

    assert line == f"mmt: error: {expected.format(**results)}"


def test_lost_lines_of_hypotheses_are_noticed(results: dict[str, Path], tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(results["long"], tmp_path / "damaged"))
    write_lines(damaged / "hypotheses" / "news.en-de.de", ["only one"])

    line = mmt("compare", results["short"], damaged).error_line()

    assert line == f"mmt: error: {damaged}/hypotheses/news.en-de.de has 1 lines, but the test set has 12 segments"
