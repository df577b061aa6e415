"""``mmt evaluate`` as a user runs it: tables, resuming after a kill, bad input."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

from mmt.files import locked, sha256_of_file, try_lock
from tests.cli.command import Finished, mmt, start_mmt
from tests.cli.conftest import QUICK, records
from tests.evaluation.tiny_model import aligned_text, write_lines
from tests.system.commands import ROUTINGS, train
from tests.system.launched import wait_until


def test_all_trained_directions_are_scored_with_signatures_and_baselines(evaluated: tuple[Path, Finished]) -> None:
    results, finished = evaluated

    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    found = records(results)
    assert [line["direction"] for line in found] == ["en-de", "en-ru", "de-en", "ru-en"]
    for line in found:
        assert line["test_set"] == "test" and line["segments"] == 12 and line["trained"]
        assert line["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
        assert "|nw:2|" in line["chrf_signature"]
        assert line["bleu_signature"] in finished.stdout and line["chrf_signature"] in finished.stdout
        assert f"{line['direction']} " in finished.stdout
        assert line["wall_s"] > 0
    for text in ("copy source", "nearest training sentence", "all (4)", "en→xx (2)", "xx→en (2)", "high (4)"):
        assert text in finished.stdout
    # The tiny model has learnt something.
    summary = {
        (line["metric"], line["system"], line["group"]): line["score"]
        for line in json.loads((results / "summary.json").read_text())["test"]
    }
    assert summary["chrf", "model", "all"] > summary["chrf", "copy source", "all"]
    assert summary["chrf", "model", "all"] == pytest.approx(sum(line["chrf"] for line in found) / 4)


def test_scores_are_those_of_the_sacrebleu_command_on_the_files(evaluated: tuple[Path, Finished], tiny: Path) -> None:
    results, _ = evaluated
    files = [tiny / "text" / "test.en-de.de", "-i", results / "hypotheses" / "test.en-de.de"]
    command = [sys.executable, "-m", "sacrebleu", *files, "-m", "bleu", "chrf", "--chrf-word-order", "2", "-w", "4"]

    expected = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    found = records(results)[0]
    assert [found["bleu"], found["chrf"]] == [metric["score"] for metric in expected]
    assert [found["bleu_signature"], found["chrf_signature"]] == [metric["signature"] for metric in expected]


def test_hypotheses_are_what_mmt_translate_gives(evaluated: tuple[Path, Finished], tiny: Path) -> None:
    results, _ = evaluated
    source = (tiny / "text" / "test.en-ru.en").read_bytes()

    translated = mmt("translate", "--model", tiny / "run", "--to", "ru", *QUICK, stdin=source)

    assert (results / "hypotheses" / "test.en-ru.ru").read_text() == translated.stdout


def test_going_on_translates_nothing_again_and_may_add_directions(
    evaluated: tuple[Path, Finished], tiny: Path, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(evaluated[0], tmp_path / "results"))
    before = (results / "scores.jsonl").read_text()

    test_sets = ["--test-set", tiny / "text", "--test-set", f"multi={tiny}/multi"]
    finished = mmt("evaluate", tiny / "run", "--output", results, *QUICK, *test_sets, "--directions", "en-de,zero-shot")

    assert finished.returncode == 0, finished.stderr
    assert (results / "scores.jsonl").read_text().startswith(before)
    # The pair files have no text for zero-shot directions.
    added = [(line["test_set"], line["direction"], line["trained"]) for line in records(results)[4:]]
    assert added == [("multi", "en-de", True), ("multi", "de-ru", False), ("multi", "ru-de", False)]
    assert "de-ru (zero-shot)" in finished.stdout
    assert (
        "No nearest training sentence, since there is no training text of both languages: de-ru, ru-de"
        in finished.stdout
    )


@pytest.mark.parametrize("is_scored", [True, False], ids=["between two directions", "before a direction's scores"])
def test_a_kill_costs_at_most_one_direction(
    is_scored: bool, tiny: Path, tmp_path: Path, evaluated: tuple[Path, Finished]
) -> None:
    results = tmp_path / "results"
    (results / ".claims").mkdir(parents=True)
    with contextlib.ExitStack() as held:  # the command comes no further than this
        if is_scored:
            for direction in ("en-ru", "de-en", "ru-en"):
                claim = try_lock(results / ".claims" / f"test.{direction}")
                assert claim is not None
                held.callback(os.close, claim)
            reached = results / "scores.jsonl"
        else:
            held.enter_context(locked(results / "scores.jsonl"))
            reached = results / "hypotheses" / "test.en-de.de"
        process = start_mmt("evaluate", tiny / "run", "--output", results, *QUICK)
        wait_until(lambda: reached.is_file() or process.poll() is not None, str(reached))
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    survived = (results / "scores.jsonl").read_bytes() if (results / "scores.jsonl").exists() else b""
    whole = survived[: survived.rfind(b"\n") + 1]

    finished = mmt("evaluate", tiny / "run", "--output", results, *QUICK)

    assert finished.returncode == 0, finished.stderr
    after = (results / "scores.jsonl").read_bytes()
    assert after.startswith(whole)  # with the wall times of the killed run
    without_times = [{key: value for key, value in line.items() if key != "wall_s"} for line in records(results)]
    assert without_times == [
        {key: value for key, value in line.items() if key != "wall_s"} for line in records(evaluated[0])
    ]
    assert not list(results.rglob("*.partial"))


def test_another_checkpoint_or_option_is_refused_until_restart(
    evaluated: tuple[Path, Finished], tiny: Path, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(evaluated[0], tmp_path / "results"))
    other = tmp_path / "checkpoint_last.pt"
    other.write_bytes((tiny / "run" / "checkpoint_last.pt").read_bytes())
    options = [*QUICK, "--beam", "2"]

    refused = mmt("evaluate", "--model", other, "--output", results, *options)
    assert refused.error_line().startswith(
        f"mmt: error: --output {results} holds scores of another evaluation: beam 1 (now 2); "
    )
    assert records(results) == records(evaluated[0])

    # The same file at another place is the same checkpoint.
    assert mmt("evaluate", "--model", other, "--output", results, *QUICK).returncode == 0
    assert mmt("evaluate", "--model", other, "--output", results, *options, "--restart").returncode == 0
    assert json.loads((results / "run.json").read_text())["identity"]["beam"] == 2
    assert len(records(results)) == 4


def test_another_sentencepiece_model_is_another_evaluation(
    evaluated: tuple[Path, Finished], tiny: Path, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(evaluated[0], tmp_path / "results"))
    data = Path(shutil.copytree(tiny / "bin", tmp_path / "bin"))
    other_text = iter(aligned_text(50, seed=9)["en"])
    sizes = {"vocab_size": 300, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=other_text, model_prefix=data / "spm", **sizes)

    options = ["--data", data, "--test-set", tiny / "text", "--output", results, *QUICK]
    refused = mmt("evaluate", "--model", tiny / "run", *options)

    was, now = (sha256_of_file(folder / "spm.model") for folder in (tiny / "bin", data))
    assert f"another evaluation: spm_sha256 {was} (now {now})" in refused.error_line()


def test_restart_throws_away_nothing_of_others(tiny: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "hypotheses").mkdir(parents=True)
    (results / "hypotheses" / "mine").write_text("mine")
    (results / "run.json").write_text('{"by": "another program"}')

    line = mmt("evaluate", tiny / "run", "--output", results, "--restart", *QUICK).error_line()

    assert line == f"mmt: error: {results / 'run.json'} is not a file of mmt evaluate; choose another --output"
    assert (results / "hypotheses" / "mine").read_text() == "mine"


def test_training_text_that_is_wrong_is_refused_before_anything_is_translated(tiny: Path, tmp_path: Path) -> None:
    text = Path(shutil.copytree(tiny / "text", tmp_path / "text"))
    with (text / "train.en-de.de").open("a") as file:
        file.write("one line more\n")

    line = mmt("evaluate", tiny / "run", "--output", tmp_path / "results", "--train-text", text, *QUICK).error_line()

    assert "--train-text: " in line and " lines, but " in line
    assert not (tmp_path / "results" / "scores.jsonl").exists()


def test_sources_that_are_cut_are_counted(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    write_lines(folder / "test.en", ["open the window " * 2000, "open"])
    write_lines(folder / "test.de", ["öffne das fenster", "öffne"])

    options = ["--test-set", folder, "--directions", "en-de", "--no-baselines", *QUICK]
    finished = mmt("evaluate", tiny / "run", "--output", tmp_path / "results", *options)

    assert "\nSources with more pieces than the model takes, cut: en-de 1\n" in finished.stdout, finished.stderr


def test_a_model_without_its_sentencepiece_model_is_not_scored_in_pieces_of_words(tiny: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny / "bin", tmp_path / "bin"))
    (data / "spm.model").unlink()
    options = ["--data", data, "--test-set", tiny / "multi", "--max-segments", "2", "--no-baselines", "--beam", "1"]

    refused = mmt("evaluate", tiny / "run", "--output", tmp_path / "results", "--directions", "en-de", *options)
    translated = mmt("translate", "--model", tiny / "run", "--data", data, "--to", "de", *QUICK, stdin=b"open\n")

    assert f"its dictionary has pieces of words, but there is no spm.model in {data}; put it" in refused.error_line()
    pieces = f"there is no spm.model in {data}: text must be cut into the dictionary's pieces already"
    assert (translated.returncode, translated.stderr) == (0, f"mmt translate: {pieces}\n")


def test_a_direction_that_a_model_of_pairs_does_not_know_is_refused_before_anything_is_translated(
    tiny: Path, tmp_path: Path
) -> None:
    pair = ["--decoder-routing", "task", "--moe-task-id", "pair", "--max-update", "1", "--disable-validation"]
    train(tiny / "bin", tmp_path / "run", *ROUTINGS["token"], *pair)
    options = ["--test-set", tiny / "multi", "--no-baselines", *QUICK]

    evaluated = mmt("evaluate", tmp_path / "run", "--directions", "all", *options).error_line()
    translated = mmt("translate", "--model", tmp_path / "run", "--from", "de", "--to", "ru", stdin=b"a\n").error_line()

    rule = "a model with --moe-task-id pair translates trained pairs only, and de-ru is not one of them: en-de, "
    assert evaluated.startswith(f"mmt: error: --directions all: {rule}")
    assert translated.startswith(f"mmt: error: --to: {rule}")
    assert not (tmp_path / "run" / "results").exists()

    # Where nothing is routed by task, the option says nothing.
    pair = ["--moe-task-id", "pair", "--max-update", "1", "--disable-validation"]
    train(tiny / "bin", tmp_path / "token", *ROUTINGS["token"], *pair)
    finished = mmt("translate", "--model", tmp_path / "token", "--from", "de", "--to", "ru", *QUICK, stdin=b"a\n")
    assert finished.returncode == 0, finished.stderr


def test_a_model_of_words_is_scored_without_a_sentencepiece_model(toy_data: Path, tmp_path: Path) -> None:
    train(toy_data, tmp_path / "run", *ROUTINGS["dense"], "--max-update", "1", "--disable-validation")
    for language in ("en", "aa"):
        write_lines(tmp_path / f"test.{language}", [f"{language}1 {language}2", f"{language}3"])

    options = ["--test-set", tmp_path, "--directions", "en-aa", "--no-baselines", *QUICK]
    finished = mmt("evaluate", tmp_path / "run", "--output", tmp_path / "results", *options)

    assert finished.returncode == 0, finished.stderr
    assert json.loads((tmp_path / "results" / "run.json").read_text())["identity"]["spm_sha256"] is None


def test_test_text_that_has_changed_is_refused(evaluated: tuple[Path, Finished], tiny: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(evaluated[0], tmp_path / "results"))
    for language, lines in aligned_text(5, seed=9).items():
        write_lines(tmp_path / f"test.{language}", lines)

    line = mmt("evaluate", tiny / "run", "--output", results, *QUICK, "--test-set", tmp_path).error_line()

    assert "holds scores of en-de on another text of test set test" in line


def test_only_the_first_segments_are_scored_on_request(tiny: Path, tmp_path: Path) -> None:
    finished = mmt(
        "evaluate",
        tiny / "run",
        "--output",
        tmp_path,
        *QUICK,
        "--max-segments",
        "3",
        "--directions",
        "en-de",
        "--no-baselines",
    )

    assert finished.returncode == 0
    assert [line["segments"] for line in records(tmp_path)] == [3]
    assert "copy" not in finished.stdout


def test_tiers_come_from_a_table(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "langs.tsv"
    table.write_text("code\ttier\nen\tpivot\nru\trare\nde\tcommon\n")
    options = [*QUICK, "--max-segments", "2", "--no-baselines", "--tiers", table, "--progress"]

    finished = mmt("evaluate", tiny / "run", "--output", tmp_path / "results", *options)

    assert "rare (2)    common (2)" in finished.stdout
    assert "test ru-en" in finished.stderr and "8/8" in finished.stderr


def unequal(folder: Path) -> str:
    write_lines(folder / "test.en", ["one", "two"])
    write_lines(folder / "test.de", ["eins"])
    return f"--test-set: {folder}/test.en has 2 lines, but {folder}/test.de has 1"


def empty(folder: Path) -> str:
    write_lines(folder / "test.en", ["one"])
    (folder / "test.de").touch()
    return f"{folder}/test.de is empty"


def bad_bytes(folder: Path) -> str:
    write_lines(folder / "test.en", ["one"])
    (folder / "test.de").write_bytes(b"\xff\n")
    return f"{folder}/test.de, line 1: not valid UTF-8 (invalid start byte at byte 1)"


def no_files(folder: Path) -> str:
    return f"--test-set {folder}: no files NAME.LANG or NAME.XX-YY.LANG of the languages en, de, ru"


@pytest.mark.parametrize("make", [unequal, empty, bad_bytes, no_files])
def test_a_bad_test_set_is_one_line_and_leaves_no_results(
    make: Callable[[Path], str], tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    expected = make(folder)

    line = mmt("evaluate", tiny / "run", "--output", tmp_path / "results", "--test-set", folder).error_line()

    assert line == f"mmt: error: {expected}"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name one model: mmt evaluate MODEL, or --model MODEL"),
        (["no/such"], "--model no/such: no such file or folder"),
        (["{run}", "--model", "{run}"], "name one model"),
        (
            ["{run}", "--directions", "en-xx,de-fr"],
            "--directions: unknown language 'fr' in 'de-fr'; the model knows en, de, ru",
        ),
        (["{run}", "--directions", "de-ru"], "--directions de-ru: test set {text}/test has no text for it"),
        (["{run}", "--tiers", "no/such"], "--tiers no/such: no such file"),
        (["{run}", "--train-text", "."], "--train-text .: no files train.en-xx.en"),
        (["{run}", "--baselines", "no/such/file"], "--baselines no/such/file: there is no folder no/such"),
        (["{run}", "--max-segments", "0"], "--max-segments must be at least 1, but is 0"),
        (["{run}", "--test-set", "{text}", "--test-set", "test={multi}"], "--test-set: two test sets are called test"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], expected: str, tiny: Path, tmp_path: Path) -> None:
    places = {"run": tiny / "run", "text": tiny / "text", "multi": tiny / "multi"}
    given = [argument.format(**places) for argument in arguments]

    line = mmt("evaluate", *given, "--output", tmp_path / "results", cwd=tmp_path).error_line()

    assert line.startswith(f"mmt: error: {expected.format(**places)}")
