"""No evaluation sentence in training, on either side, in any language."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.normalise import normalise
from data_prep.pairs import write_rows
from data_prep.split import SplitOptions, describe, split
from data_prep.verify_split import verify
from tests.data_prep.conftest import SAMPLE_LANGUAGES
from tests.data_prep.helpers import assert_user_error, run_step, write_lines

TEST = {
    "en": "The administrator has turned off this feature for your device",
    "de": "Der Administrator hat diese Funktion für dein Gerät deaktiviert",
    "fr": "L'administrateur a désactivé cette fonctionnalité sur votre appareil",
}
LEAKS = [
    (TEST["en"], "Die Verwaltung schaltete das Merkmal ab"),  # equal source
    ("THE ADMINISTRATOR has turned off this feature for your device.", "So gut wie gleich"),
    ("The administrator has turned off this feature for every device", "Beinahe gleich"),  # near source
    (TEST["en"] + " (设备)", "Mit ein wenig Chinesisch"),  # near source, with a script that hides nothing
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
    assert (counts["exact_source_in_evaluation"], counts["near_source_in_evaluation"]) == (2, 2)
    assert (counts["exact_target_in_evaluation"], counts["near_target_in_evaluation"]) == (2, 1)


def test_every_planted_leak_is_found_by_the_check(tmp_path: Path, unique: Path) -> None:
    for side, language in enumerate(("en", "de")):
        write_lines(tmp_path / "text" / f"train.en-de.{language}", [row[side] for row in LEAKS + CLEAN])

    found = verify(tmp_path / "text", [tmp_path / "sets"], jobs=1)
    result = run_step("verify_split", "--data", tmp_path / "text", "--evalsets", tmp_path / "sets")

    assert (found["exact"], found["near"], found["languages"]) == (4, 3, {"de": 3, "en": 4})
    assert result.returncode == 1 and "4 equal, 3 near-duplicates" in result.stdout


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
        (f"The same long sentence about a printer with {chr(97 + i)}", f"Satz Nummer {chr(97 + i)}", "own")
        for i in range(9)
    ]
    rows += [(f"Something else {chr(97 + i)}", f"Etwas anderes {chr(97 + i)}", "own") for i in range(9)]
    write_rows(tmp_path / "unique" / "en-de.tsv", rows)

    stats = split(tmp_path / "unique", tmp_path / "text", ["en-de"], SplitOptions(valid_pairs=1), jobs=1)

    train = (tmp_path / "text" / "train.en-de.en").read_text().splitlines()
    assert train == [source for source, _, _ in rows[9:]]
    # The pair that is split off is counted once, and nothing is called evaluation, since there is none.
    counts = stats["counts"]
    assert [counts[kind] for kind in ("read", "valid", "near_source_in_validation", "train")] == [18, 1, 8, 9]
    assert not [kind for kind in counts if kind.endswith("_in_evaluation")]
    assert describe(stats).endswith("; left out: near_source_in_validation 8")


def test_what_is_like_the_test_and_what_is_like_the_validation_set_is_counted_apart(
    tmp_path: Path, unique: Path
) -> None:
    alike = [(f"The old printer in the hall has {i} pages", f"Satz {chr(97 + i)}") for i in range(4)]
    write_rows(unique / "en-de.tsv", [(*row, "x") for row in LEAKS + CLEAN + alike])
    options = SplitOptions(evalsets=(tmp_path / "sets",), valid_pairs=1, seed=0)

    for seed in range(20):  # until one of those alike is chosen
        stats = split(unique, tmp_path / "text", ["en-de"], replace(options, seed=seed), jobs=1)
        if "printer" in (tmp_path / "text" / "valid.en-de.en").read_text():
            break

    counts = stats["counts"]
    assert sum(number for kind, number in counts.items() if kind.endswith("_in_evaluation")) == len(LEAKS)
    assert (counts["valid"], counts["exact_source_in_validation"], counts["train"]) == (1, 3, len(CLEAN))


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


def test_every_file_of_the_test_set_is_held_out_without_being_named_among_the_evaluation_sets(
    tmp_path: Path, unique: Path
) -> None:
    different = [("An orange cat", "Eine Katze"), ("Bread and butter", "Butterbrot"), ("Rain in May", "Mairegen")]
    write_rows(unique / "en-de.tsv", [(*row, "x") for row in LEAKS + different])

    split(unique, tmp_path / "text", ["en-de"], SplitOptions(test=tmp_path / "sets" / "test", valid_pairs=1), jobs=1)

    kept = [p.read_text() for p in (tmp_path / "text").glob("[tv][ra]*.en-de.*")]  # train and valid
    assert len(kept) == 4 and not [text for text in kept if TEST["fr"] in text]


def test_pairs_split_off_for_validation_are_never_near_the_test_set(tmp_path: Path) -> None:
    (tmp_path / "unique").mkdir()
    words = ["harbour", "lantern", "meadow", "copper", "violin", "glacier", "pepper", "saddle", "turret", "walnut"]
    near = [f"The old printer in the hall has no more paper since {word}" for word in words]
    rows = [(text, f"Satz {word}", "own") for text, word in zip(near, words)]
    rows += [(f"{word} is one of the words in this list", f"{word} auch", "own") for word in words]
    rows += [(f"{word} {word[::-1]} {word.upper()}s", f"{word} {word} {i}", "own") for i, word in enumerate(words)]
    write_rows(tmp_path / "unique" / "en-de.tsv", rows)
    write_lines(tmp_path / "test" / "test.en-de.en", ["The old printer in the hall has no more paper since Monday"])
    write_lines(tmp_path / "test" / "test.en-de.de", ["Der Drucker im Flur hat kein Papier"])

    for seed in range(5):
        options = SplitOptions(test=tmp_path / "test", valid_pairs=3, seed=seed)
        split(tmp_path / "unique", tmp_path / f"text{seed}", ["en-de"], options, jobs=1)

        valid = (tmp_path / f"text{seed}" / "valid.en-de.en").read_text().splitlines()
        assert valid and not set(valid) & set(near)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("de-en", {"test.en-de.de": "de-en de", "test.en-de.en": "de-en en"}),
        ("de-fr", {"test.de-fr.de": "de-fr de", "test.de-fr.fr": "de-fr fr"}),
        ("en-de", {"test.en-de.de": "en-de de", "test.en-de.en": "en-de en"}),
    ],
)
def test_test_files_are_written_in_the_order_of_the_trained_pair(
    tmp_path: Path, unique: Path, name: str, written: dict[str, str]
) -> None:
    for language in name.split("-"):
        write_lines(tmp_path / "own" / "test" / f"test.{name}.{language}", [f"{name} {language}"])

    options = SplitOptions(test=tmp_path / "own" / "test", valid_pairs=1)
    stats = split(unique, tmp_path / "text", ["en-de"], options, jobs=1)

    assert {p.name: p.read_text().strip() for p in (tmp_path / "text").glob("test.*")} == written
    assert stats["counts"]["test"] == 1


def test_a_multi_way_test_set_is_written_for_any_two_trained_languages(tmp_path: Path, unique: Path) -> None:
    test = tmp_path / "sets" / "test"
    write_rows(unique / "de-fr.tsv", [("Guten Morgen", "Bonjour", "x"), ("Gute Nacht", "Bonne nuit", "x")])
    for language, lines in {"en": ["One", "Two"], "de": ["Eins", ""], "fr": ["Un", "Deux"], "it": ["Uno", ""]}.items():
        write_lines(test / f"test.{language}", [TEST.get(language, "Prova"), *lines])

    options = SplitOptions(test=test, valid_pairs=1, near=False)
    stats = split(unique, tmp_path / "text", ["de-fr", "en-de"], options, jobs=1)

    written = {p.name: p.read_text().splitlines() for p in (tmp_path / "text").glob("test.*")}
    assert written == {
        "test.en": [TEST["en"], "One"], "test.de": [TEST["de"], "Eins"], "test.fr": [TEST["fr"], "Un"],
        "test.en-de.en": [TEST["en"], "One"], "test.en-de.de": [TEST["de"], "Eins"],
        "test.de-fr.de": [TEST["de"], "Eins"], "test.de-fr.fr": [TEST["fr"], "Un"],
    }  # fmt: skip
    assert stats["counts"]["test_lines_not_in_all_languages"] == 1
    assert stats["pairs"]["en-de"]["test_empty"] == 1


def test_a_set_without_a_line_in_both_languages_of_a_pair_is_refused_or_not_of_that_pair(
    tmp_path: Path, unique: Path
) -> None:
    for folder, name in ((tmp_path / "test", "test"), (tmp_path / "own" / "test", "test.en-de")):
        write_lines(folder / f"{name}.en", ["", "a line"])
        write_lines(folder / f"{name}.de", ["eine Zeile", ""])

    split(unique, tmp_path / "text", ["en-de"], SplitOptions(test=tmp_path / "test"), jobs=1)
    assert not list((tmp_path / "text").glob("test.*"))

    with pytest.raises(DataError, match="test.en-de.en and test.en-de.de: no line has text in both; skipped: {'empty'"):
        split(unique, tmp_path / "other", ["en-de"], SplitOptions(test=tmp_path / "own" / "test"), jobs=1)


def test_a_file_that_comes_to_a_linked_evaluation_set_is_kept_out_too(tmp_path: Path, unique: Path) -> None:
    options = SplitOptions(evalsets=(tmp_path / "own",), valid_pairs=1)
    write_lines(tmp_path / "own" / "test.en", ["A sentence that is nowhere else"])
    write_lines(tmp_path / "elsewhere" / "dev.en", ["Another sentence that is nowhere else"])
    (tmp_path / "own" / "linked").symlink_to(tmp_path / "elsewhere")

    def kept() -> str:
        split(unique, tmp_path / "text", ["en-de"], options, jobs=1)
        return "".join(path.read_text() for path in (tmp_path / "text").iterdir())

    assert TEST["en"] in kept()
    write_lines(tmp_path / "elsewhere" / "test.en", [TEST["en"]])
    assert TEST["en"] not in kept()


def test_a_set_that_plays_another_part_is_split_anew(tmp_path: Path, unique: Path) -> None:
    dev = tmp_path / "sets" / "dev"
    for options in (SplitOptions(valid=dev), SplitOptions(test=dev), SplitOptions(evalsets=(dev,))):
        split(unique, tmp_path / "text", ["en-de"], options, jobs=1)
        names = {path.name.split(".")[0] for path in (tmp_path / "text").iterdir()}
        assert names == {"train", "valid", *(["test"] if options.test else [])}


def test_a_test_set_beside_sets_that_bring_their_own_is_refused(tmp_path: Path, unique: Path) -> None:
    options = ["--input", unique, "--output", tmp_path / "text", "--sets", tmp_path / "own"]

    result = run_step("split", *options, "--test", tmp_path / "sets" / "test")

    assert_user_error(result, "--test has no effect with --sets, which has its own")


def test_lines_of_characters_that_nobody_sees_are_no_validation_text(tmp_path: Path, unique: Path) -> None:
    write_lines(tmp_path / "own" / "dev" / "dev.en", ["A line", "\u200b"])
    write_lines(tmp_path / "own" / "dev" / "dev.de", ["Eine Zeile", "Nichts dazu"])

    stats = split(unique, tmp_path / "text", ["en-de"], SplitOptions(valid=tmp_path / "own" / "dev"), jobs=1)

    assert (tmp_path / "text" / "valid.en-de.de").read_text() == "Eine Zeile\n"
    assert stats["pairs"]["en-de"]["valid_empty"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"Hello\tHallo\n\n", "en-de.tsv, line 2: must have 2 tab"), (b"a\xff\tb\n", "line 1: must be UTF-8")],
)
def test_a_row_that_no_step_wrote_is_an_error_that_names_it(
    tmp_path: Path, unique: Path, content: bytes, message: str
) -> None:
    (unique / "en-de.tsv").write_bytes(content)

    with pytest.raises(DataError, match=message):
        split(unique, tmp_path / "text", ["en-de"], SplitOptions(), jobs=1)


def test_a_set_without_a_file_of_its_name_is_refused(tmp_path: Path, unique: Path) -> None:
    write_lines(tmp_path / "devset" / "valid.en-de.en", ["a line"])

    with pytest.raises(DataError, match=r"devset: no files devset.<language> or devset.<pair>.<language> in it"):
        split(unique, tmp_path / "text", ["en-de"], SplitOptions(valid=tmp_path / "devset"), 1)


def test_test_files_in_both_orders_are_refused(tmp_path: Path, unique: Path) -> None:
    for name in ("en-de", "de-en"):
        for language in ("en", "de"):
            write_lines(tmp_path / "own" / "test" / f"test.{name}.{language}", ["x"])

    with pytest.raises(DataError, match="has both de-en and en-de"):
        split(unique, tmp_path / "text", ["en-de"], SplitOptions(test=tmp_path / "own" / "test"), jobs=1)


def test_nothing_left_to_train_on_is_an_error_that_names_the_pair(tmp_path: Path, unique: Path) -> None:
    write_rows(unique / "en-de.tsv", [(*row, "x") for row in LEAKS])

    with pytest.raises(DataError, match="no training pairs are left for en-de"):
        split(unique, tmp_path / "text", ["en-de"], SplitOptions(evalsets=(tmp_path / "sets",)), jobs=1)


def test_sample_has_no_evaluation_sentence_in_training(prepared_sample: Path) -> None:
    result = run_step(
        "verify_split",
        "--data",
        prepared_sample / "software50" / "sample",
        "--evalsets",
        prepared_sample / "evalsets" / "software50",
    )

    assert result.returncode == 0, result
    assert "0 equal, 0 near-duplicates" in result.stdout


def test_validation_and_test_text_of_the_sample_are_the_frozen_sets(prepared_sample: Path) -> None:
    text, frozen = prepared_sample / "software50" / "sample" / "text", prepared_sample / "evalsets" / "software50"

    def lines(path: Path) -> list[str]:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")

    for language in SAMPLE_LANGUAGES[1:]:
        for name, set_name, number in (("valid", "dev", 500), ("test", "test", 1000)):
            for side in ("en", language):
                theirs = [normalise(line) for line in lines(frozen / set_name / f"{set_name}.{side}")]
                assert len(theirs) == number
                assert lines(text / f"{name}.en-{language}.{side}") == theirs
                assert name == "valid" or lines(text / f"test.{side}") == theirs
