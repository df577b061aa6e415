"""Users' own text: a folder or a table becomes data ready to train on, and bad input is refused or counted."""

import json
import os
from pathlib import Path

import pytest
from fairseq.data import Dictionary, data_utils

from data_prep.own_text import take_in, tell_ignored
from data_prep.pairs import read_rows
from mmt.evaluation.test_sets import find_test_set
from tests.data_prep.helpers import assert_user_error, run_step, write_lines

ADJECTIVES = ["red", "green", "blue", "small", "large", "old", "new", "quick", "slow", "warm", "cold", "happy"]
NOUNS = ["house", "river", "garden", "teacher", "window", "bottle", "letter", "machine", "mountain", "village"]
VERBS = ["likes", "finds", "sees", "wants", "needs", "paints", "moves", "follows"]
ENGLISH = [f"the {a} {n} {v} bread" for a in ADJECTIVES for n in NOUNS for v in VERBS]


def other(sentence: str, language: str) -> str:
    return " ".join(word[::-1] + language[0] for word in sentence.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    for language in ("de", "fr"):
        write_lines(path / f"train.en-{language}.en", ENGLISH)
        write_lines(path / f"train.en-{language}.{language}", [other(s, language) for s in ENGLISH])
    return path


def prepare(source: Path, data: Path, *options: object):
    return run_step("run", "--input", source, "--data", data, "--vocab-size", 400, "--jobs", 1, *options)


def check_data(folder: Path, languages: list[str]) -> dict[str, list[str]]:
    """fairseq reads all of it; returns the lines of every text file."""
    assert (folder / "bin" / "lang_list.txt").read_text().split() == languages
    dictionary = Dictionary.load(str(folder / "bin" / "dict.txt"))
    texts = {p.name: p.read_text().splitlines() for p in (folder / "text").iterdir()}
    for name, lines in texts.items():
        if name.count(".") == 1:  # test.de: for mmt evaluate only
            continue
        assert len(data_utils.load_indexed_dataset(str(folder / "bin" / name), dictionary, "mmap")) == len(lines)
    return texts


def test_folder_becomes_data_with_a_validation_set_split_off(tmp_path: Path, folder: Path) -> None:
    result = prepare(folder, tmp_path / "data", "--held-out-rule", "exact")

    assert result.returncode == 0, result
    texts = check_data(tmp_path / "data" / "mine" / "default", ["en", "de", "fr"])
    assert set(texts["valid.en-de.en"]).isdisjoint(texts["train.en-fr.en"])
    assert len(texts["valid.en-de.en"]) == 96 and len(texts["train.en-de.en"]) == 864
    for english, french in zip(texts["train.en-fr.en"], texts["train.en-fr.fr"], strict=True):
        assert french == other(english, "fr")


def test_validation_and_test_files_are_used_and_kept_out_of_training(tmp_path: Path, folder: Path) -> None:
    for name, sentences in (("valid", ENGLISH[:5]), ("test", ENGLISH[5:8])):
        write_lines(folder / f"{name}.en-de.en", sentences)
        write_lines(folder / f"{name}.en-de.de", [other(s, "de") for s in sentences])

    result = prepare(folder, tmp_path / "data", "--held-out-rule", "exact", "--languages", "en,de", "--name", "german")

    assert result.returncode == 0, result
    texts = check_data(tmp_path / "data" / "german" / "default", ["en", "de"])
    assert texts["valid.en-de.en"] == ENGLISH[:5] and texts["test.en-de.en"] == ENGLISH[5:8]
    assert texts["train.en-de.en"] == ENGLISH[8:]


def test_files_with_the_same_line_in_every_language_are_used_and_kept_out_of_training(
    tmp_path: Path, folder: Path
) -> None:
    valid, test = ENGLISH[:5], ENGLISH[5:8]
    for language in ("en", "de", "fr"):
        for name, sentences in (("valid", valid), ("test", test)):
            lines = sentences if language == "en" else [other(s, language) for s in sentences]
            write_lines(folder / f"{name}.{language}", lines)
    write_lines(folder / "test.fr", [other(test[0], "fr"), "", other(test[2], "fr")])

    result = prepare(folder, tmp_path / "data", "--held-out-rule", "exact")

    assert result.returncode == 0, result
    assert "own_text: 23 lines of validation and test files are kept out of training; unreadable: none" in result.stdout
    assert "left out: test_lines_not_in_all_languages 1" in result.stdout
    text = tmp_path / "data" / "mine" / "default" / "text"
    texts = check_data(text.parent, ["en", "de", "fr"])
    for language in ("de", "fr"):
        assert texts[f"valid.en-{language}.en"] == valid and texts[f"train.en-{language}.en"] == ENGLISH[8:]
    found = find_test_set(str(text), ["en", "de", "fr"])
    assert found.read("en", "de") == (test, [other(s, "de") for s in test])
    assert found.read("fr", "en") == ([other(test[0], "fr"), other(test[2], "fr")], [test[0], test[2]])
    in_all = (test[0], test[2])
    assert found.read("de", "fr") == ([other(s, "de") for s in in_all], [other(s, "fr") for s in in_all])


@pytest.mark.parametrize("name", ["test.en-fr", "test"])
def test_a_line_that_is_not_used_is_not_trained_on_either(tmp_path: Path, folder: Path, name: str) -> None:
    for language in ("en", "fr"):  # of a language that is not asked for
        write_lines(folder / f"{name}.{language}", ENGLISH[:1] if language == "en" else [other(ENGLISH[0], language)])
    write_lines(folder / "valid.en-de.en", ENGLISH[1:5])
    german = [b"caf\xe9", b"Wort " * 300, other(ENGLISH[3], "de").encode(), b""]  # bad lines, but for one
    (folder / "valid.en-de.de").write_bytes(b"\n".join(german) + b"\n")
    run = ["--held-out-rule", "exact", "--languages", "en,de"]

    result = prepare(folder, tmp_path / "data", *run)

    assert result.returncode == 0, result
    texts = check_data(tmp_path / "data" / "mine" / "default", ["en", "de"])
    assert texts["valid.en-de.en"] == ENGLISH[3:4] and texts["train.en-de.en"] == ENGLISH[5:]
    assert not [file for file in texts if file.startswith("test")]
    assert "8 lines of validation and test files are kept out of training; unreadable: invalid_utf8 1" in result.stdout


def test_another_input_under_the_same_name_leaves_nothing_of_the_first(tmp_path: Path, folder: Path) -> None:
    russian = tmp_path / "other"
    write_lines(russian / "train.en-ru.en", ENGLISH)
    write_lines(russian / "train.en-ru.ru", [other(s, "ru") for s in ENGLISH])
    options = ["--held-out-rule", "exact", "--name", "mine"]
    assert prepare(folder, tmp_path / "data", *options).returncode == 0

    assert prepare(folder, tmp_path / "data", *options, "--languages", "en,fr").returncode == 0
    check_data(tmp_path / "data" / "mine" / "default", ["en", "fr"])
    assert prepare(russian, tmp_path / "data", *options).returncode == 0

    texts = check_data(tmp_path / "data" / "mine" / "default", ["en", "ru"])
    assert {name.split(".")[1] for name in texts} == {"en-ru"}


def test_test_files_of_any_order_or_pair_are_kept_out_and_written(tmp_path: Path, folder: Path) -> None:
    english, between = ENGLISH[:3], ENGLISH[3:6]  # the second is a test of two languages that are not trained together
    for language, lines in (("de", [other(s, "de") for s in english]), ("en", english)):
        write_lines(folder / f"test.de-en.{language}", lines)
    for language in ("de", "fr"):
        write_lines(folder / f"test.de-fr.{language}", [other(s, language) for s in between])

    result = prepare(folder, tmp_path / "data", "--held-out-rule", "exact")

    assert result.returncode == 0, result
    texts = check_data(tmp_path / "data" / "mine" / "default", ["en", "de", "fr"])
    assert texts["test.en-de.en"] == english and texts["test.en-de.de"] == [other(s, "de") for s in english]
    assert texts["test.de-fr.de"] == [other(s, "de") for s in between] and "test.de-en.en" not in texts
    for language in ("de", "fr"):
        kept = set(texts[f"train.en-{language}.{language}"]) | set(texts[f"valid.en-{language}.{language}"])
        assert kept.isdisjoint(other(s, language) for s in between)
        kept = set(texts[f"train.en-{language}.en"]) | set(texts[f"valid.en-{language}.en"])
        assert kept.isdisjoint(english)


@pytest.mark.parametrize("form", ["pairs", "pairs with header", "columns", "columns packed"])
def test_table_of_any_form_is_read(tmp_path: Path, form: str) -> None:
    if form.startswith("pairs"):
        header = ["src-lang\ttgt-lang\tsource\ttarget"] if "header" in form else []
        rows = header + [f"en\tde\t{s}\t{other(s, 'de')}" for s in ENGLISH]
        rows += [f"fr\ten\t{other(s, 'fr')}\t{s}" for s in ENGLISH]  # turned around
    else:
        rows = ["en\tde\tfr"] + [f"{s}\t{other(s, 'de')}\t{other(s, 'fr')}" for s in ENGLISH]
    table = write_lines(tmp_path / ("mine.tsv.gz" if "packed" in form else "mine.tsv"), rows)

    stats = take_in(table, tmp_path / "own", None)

    assert stats["counts"] == {"kept": 2 * len(ENGLISH)}
    for language in ("de", "fr"):
        rows = list(read_rows(tmp_path / "own" / "train" / f"en-{language}.tsv", fields=2))
        assert rows == [[s, other(s, language), "own"] for s in ENGLISH]


def test_the_first_pair_of_a_table_without_header_may_be_two_short_words(tmp_path: Path) -> None:
    rows = ["en\tde\tyes\tja"] + [f"en\tde\t{s}\t{other(s, 'de')}" for s in ENGLISH]

    stats = take_in(write_lines(tmp_path / "mine.tsv", rows), tmp_path / "own", None)

    assert stats["counts"] == {"kept": 1 + len(ENGLISH)}
    # With a column for each language, whose first line looks like two codes.
    rows = ["en\tde\tru\tuk", "ok\tok\tок\tок"]
    assert take_in(write_lines(tmp_path / "columns.tsv", rows), tmp_path / "columns", None)["counts"] == {"kept": 3}


def test_files_with_other_names_are_named_and_not_read(tmp_path: Path, folder: Path) -> None:
    named = [
        "dev.en-de.en", "news.en-de.de", "test.log", "test.tsv", "tests/test.en-de.en", "train.en", "train.en-it.it.gz",
        "valid.Deutsch", "valid.en-de.en.txt",
    ]  # fmt: skip
    for name in [*named, "notes.txt", "tests/notes.en-de.en", "made/train.en-de.en", ".hidden/test.en"]:
        write_lines(folder / name, ["a line"])
    write_lines(folder / "made.stats.json", ["{}"])  # a step made that folder

    result = run_step("own_text", "--input", folder, "--output", tmp_path / "own")

    assert result.returncode == 0, result
    ignored = f"not read, since their names are not <train|valid|test>.xx-yy.xx or <valid|test>.xx: {', '.join(named)}"
    assert f"own_text: {ignored}" in result.stdout.splitlines()


def test_of_many_files_with_other_names_twenty_are_named(tmp_path: Path) -> None:
    for number in range(10, 40):
        write_lines(tmp_path / f"train.{number}", ["a line"])

    assert tell_ignored(tmp_path).endswith("train.28, train.29 and 10 more")


def test_the_folder_may_be_the_one_that_the_command_is_run_in(tmp_path: Path, folder: Path) -> None:
    options = ["--data", tmp_path / "data", "--vocab-size", 400, "--held-out-rule", "exact"]

    result = run_step("run", "--input", ".", *options, cwd=folder)

    assert result.returncode == 0, result
    check_data(tmp_path / "data" / "mine" / "default", ["en", "de", "fr"])


def test_the_data_may_be_written_below_the_folder_and_is_made_once(tmp_path: Path, folder: Path) -> None:
    options = ["--data", folder, "--vocab-size", 400, "--held-out-rule", "exact"]

    def times() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (folder / "mine").rglob("*") if path.name != ".lock"}

    assert run_step("run", "--input", ".", *options, cwd=folder).returncode == 0
    made = times()
    assert run_step("run", "--input", ".", *options, cwd=folder).returncode == 0
    assert made == times()


def test_table_becomes_data_to_train_on(tmp_path: Path) -> None:
    table = write_lines(tmp_path / "mine.tsv", ["de\ten"] + [f"{other(s, 'de')}\t{s}" for s in ENGLISH])

    result = prepare(table, tmp_path / "data", "--held-out-rule", "exact")

    assert result.returncode == 0, result
    texts = check_data(tmp_path / "data" / "mine" / "default", ["en", "de"])
    assert texts["train.en-de.de"] == [other(s, "de") for s in texts["train.en-de.en"]]


def test_bad_lines_are_skipped_counted_and_reported(tmp_path: Path, folder: Path) -> None:
    english = (folder / "train.en-de.en").read_bytes().split(b"\n")
    english[3], english[4], english[5], english[6] = b"caf\xe9", b"nul\0byte", b"", b"z" * 100_000
    english[7] = b"word " * 300
    (folder / "train.en-de.en").write_bytes(b"\n".join(english))

    result = prepare(folder, tmp_path / "data", "--held-out-rule", "exact")

    assert result.returncode == 0, result
    assert "skipped lines: invalid_utf8 1, nul_byte 1, empty 1, line_too_long 1, too_long 1" in result.stdout
    stats = json.loads((tmp_path / "data" / "mine" / "corpus" / "own.stats.json").read_text())
    assert stats["sets"]["train.en-de"]["kept"] == 955 and stats["sets"]["train.en-fr"] == {"kept": 960}


def test_names_of_files_need_not_be_utf8(tmp_path: Path, folder: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    folder.rename(odd)
    (odd / os.fsdecode(b"test.caf\xe9")).write_text("a line\n")

    result = prepare(odd, tmp_path / "data", "--held-out-rule", "exact", "--name", "mine")

    assert result.returncode == 0, result
    assert "not read, since their names are not" in result.stdout and r"test.caf\udce9" in result.stdout


def test_an_own_model_of_pieces_can_be_used_again(tmp_path: Path, folder: Path) -> None:
    assert prepare(folder, tmp_path / "data", "--held-out-rule", "exact").returncode == 0
    first = tmp_path / "data" / "mine" / "default"

    result = run_step(
        "run", "--input", folder, "--data", tmp_path / "data", "--held-out-rule", "exact", "--output",
        tmp_path / "again", "--spm-model", first / "bin" / "spm.model", "--languages", "en,fr",
    )  # fmt: skip

    assert result.returncode == 0, result
    pieces = [[line.split()[0] for line in (p / "bin" / "dict.txt").open()] for p in (first, tmp_path / "again")]
    assert pieces[0] == pieces[1]


def lose_a_line(folder: Path) -> None:
    write_lines(folder / "train.en-de.de", ["nur eine Zeile"])


def lose_a_file(folder: Path) -> None:
    (folder / "train.en-fr.fr").unlink()


def empty_files(folder: Path) -> None:
    for language in ("en", "de"):
        write_lines(folder / f"train.en-de.{language}", [])


def misname(folder: Path) -> None:
    (folder / "train.en-fr.fr").rename(folder / "train.en-fr.es")


def give_two_orders(folder: Path) -> None:
    for pair in ("en-de", "de-en"):
        for language in ("en", "de"):
            write_lines(folder / f"test.{pair}.{language}", ["a line"])


def only_bad_lines(folder: Path) -> None:
    (folder / "train.en-de.en").write_bytes(b"\xff\n" * 960)


def lose_everything(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def pack(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / f"{path.name}.gz")


def lose_a_file_that_is_there_packed(folder: Path) -> None:
    (folder / "train.en-fr.fr").rename(folder / "train.en-fr.fr.gz")


def give_one_language(folder: Path) -> None:
    write_lines(folder / "test.en", ["a line"])


def give_unequal_lengths(folder: Path) -> None:
    write_lines(folder / "test.en", ["a line", "another line"])
    write_lines(folder / "test.de", ["eine Zeile"])


def give_empty_files(folder: Path) -> None:
    for language in ("en", "de"):
        write_lines(folder / f"valid.{language}", [])


def validate_other_languages(folder: Path) -> None:
    for language in ("de", "fr", "it"):
        write_lines(folder / f"valid.{language}", ["a line"])


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (pack, ["no files train.<source>-<target>.<language>", "not read", ": train.en-de.de.gz, train.en-de.en.gz"]),
        (lose_a_file_that_is_there_packed, ["no such file", "not read, since their names", ": train.en-fr.fr.gz"]),
        (give_one_language, ["test.en: the only file test.<language>; a test needs two languages"]),
        (give_unequal_lengths, ["test.de has 1", "test.en has 2"]),
        (give_empty_files, ["valid.de: the file is empty"]),
        (validate_other_languages, ["has valid.<language> in de, fr, it, but no training text of any two of these"]),
        (lose_a_line, ["train.en-de.en has 960", "train.en-de.de has 1"]),
        (lose_a_file, ["no such file", "train.en-fr.fr"]),
        (empty_files, ["train.en-de.en: the file is empty"]),
        (misname, ["train.en-fr.es", "must be named"]),
        (give_two_orders, ["has both test.en-de and test.de-en"]),
        (only_bad_lines, ["no usable pair of en and de in train", "invalid_utf8", "960"]),
        (lose_everything, ["no files train.<source>-<target>.<language>"]),
    ],
)
def test_unusable_folder_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, folder: Path, damage, parts: list[str]
) -> None:
    damage(folder)

    result = run_step("own_text", "--input", folder, "--output", tmp_path / "own")

    assert_user_error(result, *parts)
    assert not (tmp_path / "own").exists() and not list(tmp_path.glob(".own*"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["bad.tsv: the file is empty"]),
        (b"one\ttwo\tthree\n", ["line 1 must be", "3 field(s)"]),
        (b"en\tde\na\tb\nonly one\n", ["bad.tsv, line 3: must have 2", "but has 1"]),
        (b"en\tde\ten\n", ["names a language twice"]),
        (b"en\tde\ta\tb\nen\tDeutsch\tc\td\n", ["line 2: 'Deutsch' is not a language code"]),
        (b"en\ten\ta\tb\n", ["source and target language are both en"]),
        (b"en\tde\n\xff\tx\n", ["no usable pair of sentences", "invalid_utf8"]),
    ],
)
def test_unusable_table_is_refused_in_one_line(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    (tmp_path / "bad.tsv").write_bytes(content)

    assert_user_error(run_step("own_text", "--input", tmp_path / "bad.tsv", "--output", tmp_path / "own"), *parts)


def test_language_that_the_text_lacks_is_named(tmp_path: Path, folder: Path) -> None:
    result = prepare(folder, tmp_path / "data", "--languages", "en,de,sw")

    assert result.returncode == 2
    assert "--languages" in result.stderr and "'sw'" in result.stderr and "de, en, fr" in result.stderr
