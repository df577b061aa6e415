"""No evaluation sentence in training, on either side, in any language."""

from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.pairs import write_rows
from data_prep.shingles import HeldOut
from data_prep.split import SplitOptions, split
from data_prep.verify_split import verify
from tests.data_prep.conftest import SAMPLE_LANGUAGES
from tests.data_prep.helpers import run_step, write_lines

TEST = {
    "en": "The administrator has turned off this feature for your device",
    "de": "Der Administrator hat diese Funktion für dein Gerät deaktiviert",
    "fr": "L'administrateur a désactivé cette fonctionnalité sur votre appareil",
}
LEAKS = [
    (TEST["en"], "Die Verwaltung schaltete das Merkmal ab"),  # equal source
    ("THE ADMINISTRATOR has turned off this feature for your device.", "So gut wie gleich"),
    ("The administrator has turned off this feature for every device", "Beinahe gleich"),  # near source
    ("Somebody switched it off", TEST["de"]),  # equal target
    ("Somebody switched it all off", "Der Administrator hat diese Funktion für dein Gerät abgeschaltet"),  # near target
    ("Cette phrase est française", TEST["fr"]),  # equal to another language's
]
CLEAN = [(f"{word} is a harmless sentence", f"{word} ist ein harmloser Satz") for word in ("Alpha", "Beta", "Gamma")]


@pytest.fixture
def unique(tmp_path: Path) -> Path:
    folder = tmp_path / "unique"
    folder.mkdir()
    write_rows(folder / "en-de.tsv", [(*row, "x") for row in LEAKS + CLEAN])
    for language, text in TEST.items():
        write_lines(tmp_path / "sets" / "test" / f"test.{language}", [text])
        write_lines(tmp_path / "sets" / "dev" / f"dev.{language}", [f"{language} validation line {language}"])
    return folder


def test_equal_and_near_sentences_of_either_side_and_any_language_leave_training(tmp_path: Path, unique: Path) -> None:
    sets = tmp_path / "sets"
    options = SplitOptions(evalsets=(sets,), valid=sets / "dev", test=sets / "test")

    stats = split(unique, tmp_path / "text", ["en-de"], options, jobs=1)

    assert (tmp_path / "text" / "train.en-de.en").read_text().splitlines() == [source for source, _ in CLEAN]
    assert (tmp_path / "text" / "train.en-de.de").read_text().splitlines() == [target for _, target in CLEAN]
    assert (tmp_path / "text" / "test.en-de.de").read_text().splitlines() == [TEST["de"]]
    assert (tmp_path / "text" / "valid.en-de.en").read_text().splitlines() == ["en validation line en"]
    counts = stats["counts"]
    assert (counts["exact_source_in_evaluation"], counts["near_source_in_evaluation"]) == (2, 1)
    assert (counts["exact_target_in_evaluation"], counts["near_target_in_evaluation"]) == (2, 1)


def test_every_planted_leak_is_found_by_the_check(tmp_path: Path, unique: Path) -> None:
    for side, language in enumerate(("en", "de")):
        write_lines(tmp_path / "text" / f"train.en-de.{language}", [row[side] for row in LEAKS + CLEAN])

    found = verify(tmp_path / "text", [tmp_path / "sets"], jobs=1)
    result = run_step("verify_split", "--data", tmp_path / "text", "--evalsets", tmp_path / "sets")

    assert (found["exact"], found["near"], found["languages"]) == (4, 2, {"de": 3, "en": 3})
    assert result.returncode == 1 and "4 equal, 2 near-duplicates" in result.stdout


def test_held_out_pairs_are_split_off_for_all_languages_at_once(tmp_path: Path) -> None:
    (tmp_path / "unique").mkdir()
    for language in ("de", "fr"):
        rows = [
            (f"This is sentence {chr(97 + i // 26)}{chr(97 + i % 26)} of many", f"{language} {i} x", "own")
            for i in range(400)
        ]
        write_rows(tmp_path / "unique" / f"en-{language}.tsv", rows)

    split(tmp_path / "unique", tmp_path / "text", ["en-de", "en-fr"], SplitOptions(valid_pairs=20, near=False), jobs=1)

    texts = {p.name: p.read_text().splitlines() for p in (tmp_path / "text").iterdir()}
    assert len(texts["valid.en-de.en"]) == 20
    assert texts["valid.en-de.en"] == texts["valid.en-fr.en"]
    assert len(texts["train.en-de.en"]) == len(texts["train.en-de.de"]) == 380
    assert not set(texts["valid.en-de.en"]) & set(texts["train.en-fr.en"])


def test_near_duplicates_of_split_off_pairs_leave_training_too(tmp_path: Path) -> None:
    (tmp_path / "unique").mkdir()
    rows = [
        (f"The same long sentence about a printer with paper {i}", f"Satz Nummer {chr(97 + i)}", "own")
        for i in range(9)
    ]
    rows += [(f"Something else {chr(97 + i)}", f"Etwas anderes {chr(97 + i)}", "own") for i in range(9)]
    write_rows(tmp_path / "unique" / "en-de.tsv", rows)

    split(tmp_path / "unique", tmp_path / "text", ["en-de"], SplitOptions(valid_pairs=1), jobs=1)

    train = (tmp_path / "text" / "train.en-de.en").read_text().splitlines()
    assert train == [source for source, _, _ in rows[9:]]


def test_limit_takes_the_same_pairs_in_any_run_and_other_ones_for_each_language(tmp_path: Path) -> None:
    (tmp_path / "unique").mkdir()
    rows = [(f"sentence {chr(97 + i % 26)}{chr(97 + i // 26)} here", f"{i} x", "own") for i in range(300)]
    for language in ("de", "fr"):
        write_rows(tmp_path / "unique" / f"en-{language}.tsv", rows)
    options = SplitOptions(max_pairs=50, valid_pairs=5, near=False)

    for name in ("first", "second"):
        split(tmp_path / "unique", tmp_path / name, ["en-de", "en-fr"], options, jobs=1)

    first = {p.name: p.read_text() for p in (tmp_path / "first").iterdir()}
    assert first == {p.name: p.read_text() for p in (tmp_path / "second").iterdir()}
    assert len(first["train.en-de.en"].splitlines()) == 50
    assert first["train.en-de.en"] != first["train.en-fr.en"]


def test_nothing_left_to_train_on_is_an_error_that_names_the_pair(tmp_path: Path, unique: Path) -> None:
    write_rows(unique / "en-de.tsv", [(*row, "x") for row in LEAKS])

    with pytest.raises(DataError, match="no training pairs are left for en-de"):
        split(unique, tmp_path / "text", ["en-de"], SplitOptions(evalsets=(tmp_path / "sets",)), jobs=1)


def test_sample_has_no_evaluation_sentence_in_training(sample_data: Path) -> None:
    result = run_step(
        "verify_split",
        "--data",
        sample_data / "software50" / "sample",
        "--evalsets",
        sample_data / "evalsets" / "software50",
    )

    assert result.returncode == 0, result
    assert "0 equal, 0 near-duplicates" in result.stdout


def test_validation_and_test_text_of_the_sample_are_the_frozen_sets(sample_data: Path) -> None:
    text, frozen = sample_data / "software50" / "sample" / "text", sample_data / "evalsets" / "software50"
    for language in SAMPLE_LANGUAGES[1:]:
        for name, set_name, lines in (("valid", "dev", 500), ("test", "test", 1000)):
            ours = (text / f"{name}.en-{language}.{language}").read_text().splitlines()
            theirs = (frozen / set_name / f"{set_name}.{language}").read_text().splitlines()
            assert len(ours) == len(theirs) == lines
            index = HeldOut(theirs, near=False)
            assert all(index.match(line) for line in ours[:50])
