"""Cleaning: every reason for dropping a pair, and the statistics."""

import json
from pathlib import Path

import pytest

from data_prep.clean import clean
from data_prep.errors import DataError
from data_prep.length_ratio import log_ratio, ratio_limits
from data_prep.pair_rules import Rules
from data_prep.pairs import read_rows, write_rows
from data_prep.recipe import REPOSITORY, Language, Source

GERMAN = Language("de", "deu_Latn", "German", "IE Germanic", "Latin", "high", ("de",))
RULES = {"de": Rules("Latin"), "ru": Rules("Cyrillic"), "ja": Rules("Kana+Han")}

FAULTS = [
    ("de", "", "leer", "empty"),
    ("de", "word " * 101, "Wort", "too_long"),
    ("ja", "Open it", "あ" * 801, "too_long"),
    ("de", "Open", "Öffnen", "one_word"),
    ("de", "Open %s now", "%s jetzt öffnen", "placeholder"),
    ("de", "Open %1$d of {count}", "x y", "placeholder"),
    ("de", "Hello $1", "Hallo du", "placeholder"),
    ("de", "Hello %(name)s there", "Hallo dort", "placeholder"),
    ("de", "See https://example.org now", "Siehe dort", "code_or_markup"),
    ("de", "Use the --force option", "Nutze die Option", "code_or_markup"),
    ("de", "Set foo_bar here", "Setze es hier", "code_or_markup"),
    ("de", "Web Browser", "web browser", "identical"),
    ("de", "1 2 3 4 x", "1 2 3 4 y", "few_letters"),
    ("ru", "Open file", "Otkryt fajl", "wrong_script"),
    ("ja", "Файл открыт", "開いた", "wrong_script"),
    ("de", "The new file server is not ready", "The new file server is nicht ready", "half_translated"),
    ("de", "Wait 5 seconds", "Warte 6 Sekunden", "digits_differ"),
]
GOOD = [
    ("de", "Open the file", "Die Datei öffnen"),
    ("de", "It is 100% sure", "Es ist zu 100% sicher"),
    ("de", "Version 1,000.5 is out", "Version 1.000,5 ist da"),  # separators may differ
    ("ru", "Open the PDF file", "Открыть файл PDF"),
    ("ja", "Wait 5 seconds", "5秒待つ"),
]


@pytest.mark.parametrize(("language", "source", "target", "reason"), FAULTS)
def test_faulty_pair_is_dropped_with_its_reason(language: str, source: str, target: str, reason: str) -> None:
    assert RULES[language].fault(source.strip(), target) == reason


@pytest.mark.parametrize(("language", "source", "target"), GOOD)
def test_good_pair_is_kept(language: str, source: str, target: str) -> None:
    assert RULES[language].fault(source, target) is None


def test_the_page_about_data_explains_every_reason() -> None:
    page = (REPOSITORY / "docs" / "data.md").read_text()

    assert [reason for *_, reason in FAULTS if f"`{reason}`" not in page] == []


def test_digits_of_other_scripts_count_as_the_same_number() -> None:
    assert Rules("Arabic").fault("Decrease by 10", "قلل بقيمة ١٠") is None


def test_placeholders_can_be_kept_where_both_sides_have_the_same() -> None:
    rules = Rules("Latin", keep_placeholders=True)

    assert rules.fault("Open %s in %d", "%d mal %s öffnen") is None
    assert rules.fault("Open %s in %d", "%s öffnen") == "placeholder"


def test_outliers_of_length_lie_outside_the_limits_of_their_own_language() -> None:
    usual = [log_ratio("x" * n, "y" * (2 * n + n % 7)) for n in range(10, 310)]
    limits = ratio_limits(usual)

    assert limits is not None
    assert limits[0] < log_ratio("x" * 50, "y" * 100) < limits[1] < log_ratio("x" * 50, "y" * 250)
    assert ratio_limits(usual[:100]) is None


def test_counts_of_every_source_add_up_and_only_good_rows_are_written(tmp_path: Path) -> None:
    for name, rows in {
        "one": [("_Open file", "Datei _öffnen"), ("Open file", "Datei öffnen"), ("Bad %s", "%s schlecht")],
        "two": [("Open file", "Datei öffnen"), ("One.\n\nTwo parts", "Ein Teil.\n\nZwei Teile"), ("A\n\nb", "c")],
    }.items():
        (tmp_path / "raw" / name).mkdir(parents=True)
        write_rows(tmp_path / "raw" / name / "en-de.tsv", rows)
    sources = [Source("one", "mo", accelerator="gtk"), Source("two", "mo"), Source("absent", "mo")]

    total = clean(tmp_path / "raw", tmp_path / "clean", [GERMAN], sources, jobs=1)

    assert list(read_rows(tmp_path / "clean" / "en-de.tsv", fields=2)) == [
        ["Open file", "Datei öffnen", "one"],
        ["Open file", "Datei öffnen", "two"],
        ["Two parts", "Zwei Teile", "two"],
    ]
    assert total == {
        "read": 6, "further_paragraphs": 1, "duplicate": 1, "placeholder": 1, "one_word": 1, "paragraphs_differ": 1,
        "kept": 3,
    }  # fmt: skip
    stats = json.loads((tmp_path / "clean" / "en-de.tsv.stats.json").read_text())
    assert stats["sources"]["one"] == {"read": 3, "further_paragraphs": 0, "duplicate": 1, "placeholder": 1, "kept": 1}


def test_language_that_no_source_has_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no source has German \(de\)"):
        clean(tmp_path, tmp_path / "clean", [GERMAN], [Source("one", "mo")], jobs=1)
