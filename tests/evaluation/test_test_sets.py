"""Finding and reading test sets, and choosing directions."""

import re
from pathlib import Path

import pytest

from mmt.errors import UserError
from mmt.evaluation.directions import choose_directions, group, read_tiers, tier
from mmt.evaluation.test_sets import find_test_set, read_lines

LANGUAGES = ["en", "de", "ru"]
TRAINED = ["en-de", "de-en", "en-ru", "ru-en"]


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_text("one\ntwo\n")
    return tmp_path


def test_a_multi_way_folder_has_all_directions_of_the_languages_that_count(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "news.en", "news.de", "news.ru", "news.fr", "NOTICE", "news.stats.json")

    test_set = find_test_set(str(folder), LANGUAGES)

    assert test_set.name == "news"
    assert test_set.languages() == {"en", "de", "ru"}
    assert test_set.files("de", "ru") == (folder / "news.de", folder / "news.ru")
    assert test_set.files("en", "fr") is None


def test_a_pair_file_serves_both_directions_and_no_other(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "test.en-de.en", "test.en-de.de", "test.en-ru.en", "test.en-ru.ru")

    test_set = find_test_set(str(folder), LANGUAGES)

    assert test_set.files("de", "en") == (folder / "test.en-de.de", folder / "test.en-de.en")
    assert test_set.files("de", "ru") is None


def test_in_a_folder_of_training_data_the_test_files_are_meant(tmp_path: Path) -> None:
    names = [f"{split}.en-de.{language}" for split in ("train", "valid", "test") for language in ("en", "de")]
    folder = folder_with(tmp_path, *names)

    assert find_test_set(str(folder), LANGUAGES).name == "test"
    assert find_test_set(f"{folder}/valid", LANGUAGES).name == "valid"
    assert find_test_set(f"mine={folder}/valid", LANGUAGES).name == "mine"


def test_languages_may_have_script_names(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "dev.eng_Latn", "dev.zho_Hans")

    assert find_test_set(str(folder), ["eng_Latn", "zho_Hans"]).files("eng_Latn", "zho_Hans") is not None


@pytest.mark.parametrize(
    ("argument", "files", "message"),
    [
        ("{}/no/such", [], "--test-set {}/no/such: no such folder"),
        ("{}/other", ["test.en", "test.de"], "--test-set {}/other: no such folder"),
        ("=x", [], "--test-set must be FOLDER or NAME=FOLDER, but is '=x'"),
        ("", [], "--test-set must be FOLDER or NAME=FOLDER, but is ''"),
        ("{}", [], "--test-set {}: no files NAME.LANG or NAME.XX-YY.LANG of the languages en, de, ru"),
        (
            "{}",
            ["test.fr", "test.it"],
            "--test-set {}: no files NAME.LANG or NAME.XX-YY.LANG of the languages en, de, ru",
        ),
        (
            "{}",
            ["test.en", "test.fr"],
            "--test-set {}: only one language of the model (en) is there, but a direction needs two",
        ),
        ("{}", ["test.en-de.en"], "--test-set {}: test.en-de.de is missing"),
        (
            "{}",
            ["a.en", "a.de", "b.en", "b.de"],
            "--test-set {0}: no files test.LANG or test.XX-YY.LANG in it; put them beside your training text (of a "
            "table: into data/evalsets/own) and prepare it again, or choose {0}/a or {0}/b",
        ),
        (  # training text is nothing to test on
            "{}",
            ["train.en-de.en", "train.en-de.de", "valid.en-de.en", "valid.en-de.de"],
            "--test-set {0}: no files test.LANG or test.XX-YY.LANG in it; put them beside your training text (of a "
            "table: into data/evalsets/own) and prepare it again, or choose {0}/valid",
        ),
        (
            "{}",
            ["train.en-de.en", "train.en-de.de"],
            "--test-set {0}: no files test.LANG or test.XX-YY.LANG in it; put them beside your training text (of a "
            "table: into data/evalsets/own) and prepare it again, or choose another folder",
        ),
    ],
)
def test_what_is_no_test_set_is_named(argument: str, files: list[str], message: str, tmp_path: Path) -> None:
    folder_with(tmp_path, *files)

    with pytest.raises(UserError, match=f"^{re.escape(message.format(tmp_path))}$"):
        find_test_set(argument.format(tmp_path), LANGUAGES)


def test_files_of_unequal_length_are_named_with_both_counts(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "test.en", "test.de")
    (folder / "test.de").write_text("one\n")

    with pytest.raises(
        UserError, match=re.escape(f"--test-set: {folder}/test.en has 2 lines, but {folder}/test.de has 1")
    ):
        find_test_set(str(folder), LANGUAGES).read("en", "de")


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "test.de").write_text("Datei\nFenster\n", encoding="utf-8-sig")

    assert read_lines(tmp_path / "test.de") == ["Datei", "Fenster"]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("a\u2028b\x0bc\r\n\nd".encode())

    assert read_lines(path) == ["a\u2028b\x0bc", "", "d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"fine\n\xff\n", "line 2: not valid UTF-8 (invalid start byte at byte 1)"),
        (b"fine\nze\0ro\n", "line 2: there are NUL bytes in it"),
    ],
)
def test_a_bad_file_is_named_with_the_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "test.en"
    path.write_bytes(content)

    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_lines(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ("trained", "en-de en-ru de-en ru-en"),
        ("all", "en-de en-ru de-en de-ru ru-en ru-de"),
        ("en-xx", "en-de en-ru"),
        ("xx-en", "de-en ru-en"),
        ("en-xx,xx-en", "en-de en-ru de-en ru-en"),
        ("zero-shot", "de-ru ru-de"),
        ("ru-de,en-de,en-de", "en-de ru-de"),
    ],
)
def test_directions_are_chosen_by_name_or_by_kind_in_a_fixed_order(
    specification: str, expected: str, tmp_path: Path
) -> None:
    test_set = find_test_set(str(folder_with(tmp_path, "news.en", "news.de", "news.ru")), LANGUAGES)

    assert choose_directions(specification, languages=LANGUAGES, trained=TRAINED, test_set=test_set) == expected.split()


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        (
            "en-xy",
            "--directions: unknown language 'xy' in 'en-xy'; the model knows en, de, ru, "
            "and trained, all, en-xx, xx-en, zero-shot are choices",
        ),
        ("everything", "--directions: unknown language 'everything' in 'everything'"),
        ("en-en", "--directions: en-en has only one language"),
        ("en-ru", "--directions en-ru: test set {}/news has no text for it"),
        ("zero-shot", "--directions zero-shot: test set {}/news has no text for any of these directions"),
    ],
)
def test_directions_that_cannot_be_scored_are_named(specification: str, message: str, tmp_path: Path) -> None:
    test_set = find_test_set(str(folder_with(tmp_path, "news.en", "news.de")), LANGUAGES)

    with pytest.raises(UserError, match=re.escape(message.format(tmp_path))):
        choose_directions(specification, languages=LANGUAGES, trained=TRAINED, test_set=test_set)


def test_a_direction_belongs_to_a_group_and_to_the_tier_of_the_language_beside_english() -> None:
    tiers = {"de": "high", "sw": "low"}

    assert [group(direction) for direction in ("en-de", "de-en", "de-sw")] == ["en→xx", "xx→en", "other"]
    assert [tier(direction, tiers) for direction in ("en-de", "sw-en", "de-sw", "en-fr")] == ["high", "low", None, None]
    # As FLORES-200 and mBART call English.
    assert [group(direction) for direction in ("eng_Latn-deu_Latn", "de_DE-en_XX")] == ["en→xx", "xx→en"]
    assert tier("eng_Latn-deu_Latn", {"deu_Latn": "high"}) == "high"


def test_tiers_are_read_by_the_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "langs.tsv"
    path.write_text("name\ttier\tcode\nGerman\thigh\tde\n\nSwahili\tlow\tsw\n")

    assert read_tiers(path) == {"de": "high", "sw": "low"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("code\tsize\nde\t1\n", "the first line must name tab-separated columns, among them code and tier"),
        ("", "the first line must name tab-separated columns"),
        ("code\ttier\nde\n", "line 2: 1 columns, but the first line has 2"),
        ("code\ttier\nde\tother\n", "line 2: 'other' is the name of another average"),
    ],
)
def test_a_bad_table_of_tiers_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "langs.tsv"
    path.write_text(content)

    with pytest.raises(UserError, match=re.escape(message)):
        read_tiers(path)
