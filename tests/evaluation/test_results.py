"""The folder of results: what is finished stays finished, and nothing else counts."""

import json
import re
from pathlib import Path

import pytest

from mmt.errors import UserError
from mmt.evaluation.results import ResultsFolder

IDENTITY = {"checkpoint_sha256": "abc", "beam": 5}
HYPOTHESES = ["Das Fenster", "", "zwei\u2028Zeilen"]


def record(direction: str, **changes: object) -> dict[str, object]:
    return {
        "test_set": "test",
        "direction": direction,
        "bleu": 1.5,
        "source_sha256": "s",
        "reference_sha256": "r",
        **changes,
    }


def open_results(path: Path, **changes: object) -> ResultsFolder:
    return ResultsFolder.open_for_writing(path, {**IDENTITY, **changes}, {"test": "folder/test"})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with two finished directions."""
    folder = open_results(tmp_path / "results")
    folder.add(record("en-de"), HYPOTHESES)
    folder.add(record("de-en"), HYPOTHESES)
    folder.close()
    return folder.path


def test_finished_directions_are_known_after_reopening(results: Path) -> None:
    folder = open_results(results)

    assert list(folder.records) == [("test", "en-de"), ("test", "de-en")]
    assert folder.finished("test", "en-de", "s", "r")
    assert not folder.finished("test", "en-ru", "s", "r")
    assert not folder.finished("other", "en-de", "s", "r")
    assert folder.read_hypotheses("test", "en-de") == HYPOTHESES
    assert (results / "hypotheses" / "test.en-de.de").is_file()


def test_a_line_that_another_process_could_not_finish_spoils_no_other(results: Path) -> None:
    folder = open_results(results)
    with (results / "scores.jsonl").open("a") as file:
        file.write('{"test_set": "te')

    folder.add(record("en-ru"), HYPOTHESES)
    folder.close()

    assert [direction for _, direction in open_results(results).records] == ["en-de", "de-en", "en-ru"]


def test_a_line_that_a_kill_cut_off_does_not_count(results: Path) -> None:
    scores = results / "scores.jsonl"
    whole = scores.read_text()
    for length in range(whole.index("\n") + 2, len(whole)):
        scores.write_text(whole[:length])
        folder = open_results(results)
        assert list(folder.records) == [("test", "en-de")], length
        folder.add(record("de-en"), HYPOTHESES)
        folder.close()
        assert scores.read_text() == whole


def test_a_direction_without_its_hypotheses_is_not_finished(results: Path) -> None:
    (results / "hypotheses" / "test.en-de.de").unlink()

    folder = open_results(results)

    assert not folder.finished("test", "en-de", "s", "r")
    with pytest.raises(UserError, match="test.en-de.de: no such file, although scores.jsonl has its scores"):
        folder.read_hypotheses("test", "en-de")


def test_a_direction_that_is_scored_again_has_one_line(results: Path) -> None:
    (results / "hypotheses" / "test.en-de.de").unlink()

    open_results(results).add(record("en-de", bleu=2.5), HYPOTHESES)

    lines = [json.loads(line) for line in (results / "scores.jsonl").read_text().splitlines()]
    assert sorted((line["direction"], line["bleu"]) for line in lines) == [("de-en", 1.5), ("en-de", 2.5)]


def test_a_restart_removes_the_summary_too(results: Path) -> None:
    (results / "summary.json").write_text("{}")

    ResultsFolder.open_for_writing(results, IDENTITY, {}, restart=True)

    assert not (results / "summary.json").exists()


def test_a_restart_throws_away_scores_that_cannot_be_read(results: Path) -> None:
    (results / "scores.jsonl").write_text("no json\n")

    assert ResultsFolder.open_for_writing(results, IDENTITY, {}, restart=True).records == {}

    assert not (results / "scores.jsonl").exists()


def test_a_restart_leaves_a_file_of_others_alone(results: Path) -> None:
    (results / "run.json").unlink()
    (results / "scores.jsonl").write_text("no json\n")

    with pytest.raises(UserError, match=r"scores.jsonl is not a file of mmt evaluate; choose another --output$"):
        ResultsFolder.open_for_writing(results, IDENTITY, {}, restart=True)

    assert (results / "scores.jsonl").read_text() == "no json\n"


def test_results_of_another_checkpoint_are_refused_unless_restarted(results: Path) -> None:
    with pytest.raises(
        UserError,
        match=re.escape("another evaluation: checkpoint_sha256 abc (now def), beam 5 (now 4); choose another --output"),
    ):
        open_results(results, checkpoint_sha256="def", beam=4)

    folder = ResultsFolder.open_for_writing(
        results, {"checkpoint_sha256": "def"}, {"test": "folder/test"}, restart=True
    )

    assert folder.records == {}
    assert not (results / "scores.jsonl").exists()
    assert list((results / "hypotheses").iterdir()) == []
    assert json.loads((results / "run.json").read_text())["identity"] == {"checkpoint_sha256": "def"}


def test_scores_of_nobody_knows_which_checkpoint_are_refused_unless_restarted(results: Path) -> None:
    (results / "run.json").unlink()

    with pytest.raises(UserError, match=r"holds scores.jsonl, but no run.json; choose another --output, or --restart"):
        open_results(results)

    assert ResultsFolder.open_for_writing(results, IDENTITY, {}, restart=True).records == {}
    assert not (results / "scores.jsonl").exists()


def test_scores_on_another_text_are_refused(results: Path) -> None:
    with pytest.raises(UserError, match=r"holds scores of en-de on another text of test set test; .*--restart"):
        open_results(results).finished("test", "en-de", "s", "another")


def test_two_processes_cannot_write_into_one_folder(results: Path) -> None:
    first = open_results(results)

    with pytest.raises(UserError, match="another mmt evaluate is writing into this folder"):
        open_results(results)

    first.close()
    open_results(results).close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.jsonl", "no json\n", "scores.jsonl, line 1: not a line of scores"),
        ("scores.jsonl", "[1]\n", "scores.jsonl, line 1: not a line of scores"),
        ("run.json", "{", "run.json is not a file of mmt evaluate"),
        ("run.json", '{"format": 99}', "run.json is of format 99, but this version of mmt knows only 1"),
    ],
)
def test_broken_files_are_named(name: str, content: str, message: str, results: Path) -> None:
    (results / name).write_text(content)

    with pytest.raises(UserError, match=re.escape(message)):
        open_results(results)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder of results of mmt evaluate"):
        ResultsFolder.open_for_reading(tmp_path)
