"""The command that runs all steps, and recipes."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.files import write_json
from data_prep.recipe import REPOSITORY, load_recipe
from data_prep.run import only_one
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


@pytest.mark.parametrize("step", ["run", "verify_split", "own_text", "make_sample", "card", *STEPS])
def test_every_program_has_help_that_shows_its_options(step: str) -> None:
    result = run_step(step, "--help")

    assert result.returncode == 0
    assert f"data_prep.{step}" in result.stdout and "--help" in result.stdout


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
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments: list[str], parts: list[str]) -> None:
    assert_user_error(run_step("run", *arguments, "--dry-run"), *parts)


def test_software50_has_fifty_languages_seventeen_scripts_and_three_tiers() -> None:
    recipe = load_recipe("software50")
    others = [language for code, language in recipe.languages.items() if code != "en"]

    assert len(others) == 50
    assert len({language.script for language in others}) == 17
    assert {language.tier for language in others} == {"high", "mid", "low"}
    assert {"sample", "small", "full"} <= recipe.presets.keys()
    assert recipe.presets["small"].max_pairs == 10_000


LANGUAGES = b"code\tflores\tname\tfamily\tscript\ttier\tlocales\n"
RECIPE = """
extends: software50
presets:
  six: {corpus: sample, vocab_size: 4000, languages: [en, de, ru]}
"""


def test_recipe_can_extend_another_and_share_its_downloads(tmp_path: Path) -> None:
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "data.yaml").write_text(RECIPE)

    result = run_step(
        "run", "--recipe", tmp_path / "six" / "data.yaml", "--preset", "six", "--data", "data", "--dry-run"
    )

    assert "--output data/software50/corpus-sample/clean" in result.stdout
    assert "--output data/six/six/bin" in result.stdout
    assert "--pairs en-de,en-ru --evalsets data/evalsets/software50" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: software50\npresets: {a: {corpus: none, vocab_size: 1}}", "names the corpus 'none'"),
        (
            "extends: software50\npresets: {a: {corpus: sample, vocab_size: 1, languages: [en, xx]}}",
            "unknown language 'xx'",
        ),
        ("extends: software50\npresets: {a: {corpus: sample, vocab: 1}}", "unexpected keyword argument 'vocab'"),
        ("extends: software50\nsources: {s: {kind: mo, packges: [x]}}", "source s: unknown key 'packges'"),
        ("extends: software50\ncorpora: {c: [s]}\npresets: {}", "names the source 's'"),
        ("extends: software50", "has no presets"),
        ("a: [", "not valid YAML"),
        ("just words", "must hold keys and values"),
        ("", "must hold keys and values, but is None"),
        ("extends: software50\npresets:", "presets must hold keys and values, but is None"),
        ("extends: software50\npresets: [a, b]", r"presets must hold keys and values, but is \['a', 'b'\]"),
        ("extends: software50\npresets: {a: }", "preset a must hold keys and values, but is None"),
        ("extends: software50\npresets: {a: {corpus: sample, vocab_size: 1, languages: de}}", "must be a list"),
        ("extends: software50\npresets: {a: {corpus: sample, vocab_size: 1, languages: [no]}}", r"but is \[False\]"),
        ("extends: software50\nsources: {s: {kind: mo, packages: foo}}", "packages must be a list .*, but is 'foo'"),
        ("extends: software50\nsources: {s: mo}", "source s must hold keys and values, but is 'mo'"),
        ("extends: software50\ncorpora: {c: sample}", "corpus c must be a list .*, but is 'sample'"),
        ("extends: software50\ncleaning: a\npresets: {a: {corpus: sample, vocab_size: 1}}", "cleaning must hold keys"),
        ("extends: software50\nevalset: software50\npresets: {}", "unknown key 'evalset'; known are cleaning, corpora"),
        ("extends: software50\ncleaning: {placeholder: keep}\npresets: {a: {corpus: sample, vocab_size: 1}}",
         "cleaning: unknown key 'placeholder'; known are placeholders"),
        ("extends: software50\ncleaning: {placeholders: kept}\npresets: {a: {corpus: sample, vocab_size: 1}}",
         "placeholders must be drop or keep, but is 'kept'"),
        ("extends: software50 # \udcff", "data.yaml: must be UTF-8 text, but its byte 22 is not"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(text, errors="surrogateescape")

    with pytest.raises(DataError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "langs.tsv: must be UTF-8 text, but its byte 0 is not"),
        (b"", "langs.tsv: the first line must be"),
        (LANGUAGES + b"de\tGerman\n", "langs.tsv: 'de' has 2 fields, but the header has 7"),
        (LANGUAGES + b"de\tdeu_Latn\tGerman\tIE\tRunes\thigh\tde\n", "langs.tsv: unknown script 'Runes' of de"),
    ],
)
def test_mistakes_in_a_table_of_languages_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data.yaml").write_text("sources: {}")
    (tmp_path / "langs.tsv").write_bytes(content)

    with pytest.raises(DataError, match=message):
        load_recipe(str(tmp_path / "data.yaml"))


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


@pytest.mark.parametrize("text", ["--recipe software50 --preset sample", "--input ."])
def test_users_own_evaluation_sets_are_kept_out_of_training_too(tmp_path: Path, text: str) -> None:
    def split_command() -> str:
        command = [*text.split(), "--data", tmp_path, "--dry-run"]
        (line,) = [line for line in run_step("run", *command).stdout.splitlines() if "data_prep.split" in line]
        return line

    own = tmp_path / "evalsets" / "own"
    assert str(own) not in split_command()
    own.mkdir(parents=True)
    assert ("--recipe" in text) == (f"--evalsets {tmp_path}/evalsets/software50" in split_command())
    assert f"--evalsets {own}" in split_command()


def test_programs_import_nothing_of_mmt() -> None:
    sources = (REPOSITORY / "data_prep").rglob("*.py")

    assert not [p for p in sources if "import mmt" in p.read_text() or "from mmt" in p.read_text()]


def test_card_of_data_made_by_an_older_version_says_what_to_do(tmp_path: Path) -> None:
    for part in ("text", "bin"):
        write_json(stats_path(tmp_path / "software50" / "full" / part), {"counts": {"english_words": 1}, "pairs": {}})

    result = run_step("card", "--recipe", "software50", "--preset", "full", "--data", tmp_path)

    assert_user_error(result, "text.stats.json: made by an older version; run data_prep.run again")


def test_card_lists_every_language_with_its_counts(prepared_sample: Path) -> None:
    result = run_step(
        "card", "--recipe", "software50", "--preset", "sample", "--languages", "en,de,zh", "--data", prepared_sample
    )

    lines = (prepared_sample / "software50" / "sample" / "text" / "train.en-zh.zh").read_text().count("\n")
    assert result.returncode == 0, result
    assert f"| zh | zho_Hans | Chinese (Simplified) | Sino-Tibetan | Han | high | {lines:,} |" in result.stdout
    assert result.stdout.count("\n| de |") == 1
