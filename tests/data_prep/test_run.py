"""The command that runs all steps."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.files import write_json
from data_prep.own_text import take_in
from data_prep.recipe import REPOSITORY
from data_prep.run import only_one, only_writer
from data_prep.steps import stats_path
from tests.data_prep.helpers import assert_user_error, run_step, write_lines

STEPS = ["evalsets", "fetch", "extract", "clean", "deduplicate", "split", "train_spm", "binarize"]


def test_dry_run_prints_the_steps_in_order_and_makes_nothing(tmp_path: Path) -> None:
    result = run_step("run", "--recipe", "software50", "--preset", "full", "--data", tmp_path / "data", "--dry-run")

    lines = result.stdout.splitlines()
    assert [line.split()[2] for line in lines] == [f"data_prep.{step}" for step in STEPS]
    assert not (tmp_path / "data").exists()


def test_second_run_finds_every_step_finished_and_changes_no_file(prepared_sample: Path) -> None:
    def times() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in prepared_sample.rglob("*") if p.is_file() and p.name != ".lock"}

    before = times()
    result = run_step(
        "run", "--recipe", "software50", "--preset", "sample", "--languages", "en,de,el,hi,th,zh", "--vocab-size", 5000,
        "--data", prepared_sample,
    )  # fmt: skip

    assert result.returncode == 0, result
    assert times() == before


@pytest.mark.parametrize(
    ("step", "option"),
    [
        ("run", "--dry-run"),
        ("evalsets", "--verbose"),
        ("fetch", "--recipe"),
        ("extract", "--jobs"),
        ("clean", "--placeholders"),
        ("deduplicate", "--preset"),
        ("split", "--max-pairs"),
        ("train_spm", "--character-coverage"),
        ("binarize", "--spm-model"),
        ("own_text", "--languages"),
        ("verify_split", "--held-out-rule"),
        ("make_sample", "--output"),
        ("card", "--data"),
    ],
)
def test_every_program_has_help_that_shows_its_options(step: str, option: str) -> None:
    result = run_step(step, "--help")

    assert result.returncode == 0
    assert f"data_prep.{step}" in result.stdout and f"\n  {option} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--recipe", "software50", "--input", "x"], ["either --recipe NAME or --input"]),
        ([], ["either --recipe NAME or --input"]),
        (["--input", "no/such/folder"], ["--input: no such file or folder: no/such/folder"]),
        (["--recipe", "nothing"], ["--recipe: no such file", "software50"]),
        (["--recipe", "software50", "--preset", "huge"], ["--preset", "'huge'", "sample", "small", "full"]),
        (["--recipe", "software50", "--languages", "en,xx"], ["--languages: unknown language 'xx'", "zh"]),
        (["--recipe", "software50", "--languages", "de,fr"], ["--languages", "must hold en"]),
        (["--recipe", "software50", "--languages", "en"], ["at least one language besides en"]),
        (["--recipe", "software50", "--jobs", "0"], ["--jobs must be at least 1, but is 0"]),
        (["--recipe", "software50", "--name", "mine"], ["--name has no effect with --recipe"]),
        (["--input", ".", "--preset", "small"], ["--preset has no effect with --input"]),
        (["--input", ".", "--spm-model", "x", "--vocab-size", "9"], ["--vocab-size has no effect with --spm-model"]),
        (["--input", ".", "--spm-model", "no/such"], ["--spm-model: no such file: no/such"]),
        (["--input", ".", "--spm-model", "setup.cfg"], ["setup.cfg: not a SentencePiece model"]),
        (["--input", ".", "--vocab-size", "0"], ["--vocab-size must be more than 260", "but is 0"]),
        (["--recipe", "demo", "--preset", "sample", "--vocab-size", "0"], ["--vocab-size must be more than 260"]),
        (["--input", ".", "--evalsets", "docs", "no/such"], ["--evalsets: no such folder: no/such"]),
        (["--input", ".", "--evalsets", "sample"], ["sample/", "must be plain text with a sentence a line"]),
        (["--input", ".", "--seed", "-1"], ["--seed must be at least 0 and below 4294967296, but is -1"]),
        (["--input", ".", "--vocab-size", "10000000000"], ["--vocab-size must be more than 260", "10000000000"]),
        (["--input", ".", "--max-pairs", "-1"], ["--max-pairs must be at least 0, but is -1"]),
        (["--input", ".", "--valid-pairs", "0"], ["--valid-pairs must be at least 1, but is 0"]),
        (["--recipe", "software50", "--valid-pairs", "9"], ["--valid-pairs has no effect with --recipe software50"]),
        (["--input", ".", "--name", ""], ["the data of --input . needs a name: --name must be given"]),
        (["--input", "/"], ["the data of --input / needs a name"]),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments: list[str], parts: list[str]) -> None:
    assert_user_error(run_step("run", *arguments, "--dry-run"), *parts)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("news.2023/", "news.2023"),
        ("news.2024/", "news.2024"),
        (".mine/", ".mine"),
        ("mine.tsv/", "mine.tsv"),
        ("news.2023.tsv", "news.2023"),
        ("mine.tsv.gz", "mine"),
        ("mine.txt", "mine"),
    ],
)
def test_own_data_is_called_as_its_folder_or_as_its_table_without_the_ending(
    tmp_path: Path, source: str, name: str
) -> None:
    if source.endswith("/"):
        (tmp_path / source).mkdir()
    else:
        (tmp_path / source).touch()

    result = run_step("run", "--input", tmp_path / source, "--dry-run")

    assert result.stdout.splitlines()[-1].split()[-3] == f"data/{name}/default/bin", result


def test_a_table_whose_name_is_its_ending_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / ".tsv").touch()

    command = ["run", "--input", tmp_path / ".tsv", "--dry-run"]

    assert_user_error(run_step(*command), "needs a name: --name must be given")
    assert "data/mine/default/bin" in run_step(*command, "--name", "mine").stdout


@pytest.mark.parametrize("text", ["--recipe software50 --preset sample", "--input ."])
def test_the_rule_for_held_out_sentences_reaches_the_step_that_applies_it(text: str) -> None:
    result = run_step("run", *text.split(), "--held-out-rule", "exact", "--dry-run")

    (split,) = [line for line in result.stdout.splitlines() if "data_prep.split" in line]
    assert "--held-out-rule exact" in split


def test_runs_that_share_what_is_made_on_the_way_wait_for_each_other(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.tsv", ["de\ten", "Hallo du\tHello you"])
    command = [sys.executable, "-m", "data_prep.run", "--input", tmp_path / "mine.tsv", "--data", tmp_path / "data"]
    with only_one(tmp_path / "data" / "mine"):
        process = subprocess.Popen(
            [*command, "--output", tmp_path / "elsewhere" / "v1"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
        process.communicate()

    assert line == f"waiting for another run of data_prep that writes to {tmp_path / 'data' / 'mine'}\n"
    assert not (tmp_path / "elsewhere").exists()


def test_runs_of_different_text_that_write_to_one_folder_wait_for_each_other(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.tsv", ["de\ten", "Hallo du\tHello you"])
    command = [sys.executable, "-m", "data_prep.run", "--input", tmp_path / "mine.tsv", "--data", tmp_path / "data"]
    with only_writer(tmp_path / "data" / "other", tmp_path / "out"):
        process = subprocess.Popen(
            [*command, "--output", tmp_path / "out"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
        process.communicate()

    assert line == f"waiting for another run of data_prep that writes to {tmp_path / 'out'}\n"
    assert not (tmp_path / "out" / ".text.partial").exists()


def test_where_a_disk_knows_no_locks_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(lock: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_writer(tmp_path / "mine", tmp_path / "out") as locks:
        assert len(locks) == 2


def test_a_run_that_writes_to_one_folder_only_does_not_wait_for_itself(tmp_path: Path) -> None:
    with only_writer(tmp_path / "mine", tmp_path / "mine" / ".") as locks:
        assert len(locks) == 1
    with only_writer(tmp_path / "mine", tmp_path / "mine" / "default") as locks:
        assert len(locks) == 2


@pytest.mark.parametrize("text", ["--recipe software50 --preset sample", "--input ."])
def test_users_own_evaluation_sets_are_kept_out_of_training_too(tmp_path: Path, text: str) -> None:
    def split_command() -> str:
        command = [*text.split(), "--data", tmp_path, "--dry-run"]
        (line,) = [line for line in run_step("run", *command).stdout.splitlines() if "data_prep.split" in line]
        return line

    own = tmp_path / "evalsets" / "own"
    assert str(own) not in split_command()
    write_lines(own / "test.en", ["a line"])
    assert ("--recipe" in text) == (f"--evalsets {tmp_path}/evalsets/software50" in split_command())
    assert f"--evalsets {own}" in split_command()


def test_options_of_the_split_and_of_the_sample_reach_their_steps(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        write_lines(folder / "test.en", ["a line"])
    options = ["--evalsets", first, second, "--evalsets", tmp_path, "--valid-pairs", 9, "--seed", 7, "--max-pairs", 0]

    lines = run_step("run", "--input", ".", *options, "--dry-run").stdout.splitlines()

    (split,) = [line for line in lines if "data_prep.split" in line]
    for words in (f"--evalsets {first} --evalsets {second} --evalsets {tmp_path}", "--valid-pairs 9", "--seed 7"):
        assert words in split
    assert "--max-pairs 0" in split
    assert ["--seed 7" in line for line in lines if "data_prep.train_spm" in line] == [True]


def test_text_for_further_training_holds_nothing_that_the_first_data_is_tested_on(
    tmp_path: Path, prepared_sample: Path
) -> None:
    words = ["house", "river", "garden", "teacher", "window"]
    english = [f"the {a} sees the {b} and the {c}" for a in words for b in words for c in words][:80]
    german = [f"{line} auf Deutsch" for line in english]
    for name, lines in (("mine/train", slice(40, 80)), ("mine/test", slice(0, 5)), ("new/train", slice(0, 40))):
        write_lines(tmp_path / f"{name}.en-de.en", english[lines])
        write_lines(tmp_path / f"{name}.en-de.de", german[lines])
    take_in(tmp_path / "mine", tmp_path / "data" / "mine" / "corpus" / "own", None)

    result = run_step(
        "run", "--input", tmp_path / "new", "--name", "more", "--data", tmp_path / "data", "--held-out-rule", "exact",
        "--spm-model", prepared_sample / "software50" / "sample" / "spm" / "spm.model",
        "--evalsets", tmp_path / "data" / "mine" / "corpus" / "own" / "held_out",
    )  # fmt: skip

    assert result.returncode == 0, result
    text = tmp_path / "data" / "more" / "default" / "text"
    written = {line for name in ("train", "valid") for line in (text / f"{name}.en-de.en").read_text().splitlines()}
    assert written == set(english[5:40])


def test_programs_import_nothing_of_mmt() -> None:
    sources = (REPOSITORY / "data_prep").rglob("*.py")

    assert not [p for p in sources if "import mmt" in p.read_text() or "from mmt" in p.read_text()]


def test_card_of_data_made_by_an_older_version_says_what_to_do(tmp_path: Path) -> None:
    for part in ("text", "bin"):
        write_json(stats_path(tmp_path / "software50" / "full" / part), {"counts": {"english_words": 1}, "pairs": {}})

    result = run_step("card", "--recipe", "software50", "--preset", "full", "--data", tmp_path)

    assert_user_error(result, "text.stats.json: made by an older version; run data_prep.run again")


def test_card_of_data_that_is_half_made_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "software50" / "full"
    write_json(stats_path(folder / "text"), {"step": "split", "files": {}})

    result = run_step("card", "--recipe", "software50", "--preset", "full", "--data", tmp_path)
    assert_user_error(result, "text.stats.json: not there, or not finished; run data_prep.run first")

    write_json(stats_path(folder / "text"), {"counts": {"source_words": 1}, "pairs": {"en-de": {"train": 1}}})
    write_json(stats_path(folder / "bin"), {"counts": {}, "by_file": {}})
    unique = tmp_path / "software50" / "corpus-debian" / "unique"
    write_json(stats_path(unique / "en-de.tsv"), {"counts": {}, "sources": {}})
    result = run_step("card", "--recipe", "software50", "--preset", "full", "--data", tmp_path)
    assert_user_error(result, "older than the text, and has no train.en-de.de; run data_prep.run again")


def test_card_lists_every_language_with_its_counts(prepared_sample: Path) -> None:
    result = run_step(
        "card", "--recipe", "software50", "--preset", "sample", "--languages", "en,de,zh", "--data", prepared_sample
    )

    lines = (prepared_sample / "software50" / "sample" / "text" / "train.en-zh.zh").read_text().count("\n")
    assert result.returncode == 0, result
    assert f"| zh | zho_Hans | Chinese (Simplified) | Sino-Tibetan | Han | high | {lines:,} |" in result.stdout
    assert result.stdout.count("\n| de |") == 1
