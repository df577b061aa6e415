"""Macro averages and tables."""

import pytest

from mmt.evaluation.tables import average, average_table, averages, direction_table, groups, signature_lines

TIERS = {"en": "pivot", "de": "high", "ru": "high", "sw": "low"}
DIRECTIONS = ["en-de", "de-en", "en-sw", "sw-en", "de-ru"]
SYSTEMS = {
    "model": {direction: {"bleu": 10.0 + i, "chrf": 20.0 + i} for i, direction in enumerate(DIRECTIONS)},
    "copy source": {direction: {"bleu": 1.0, "chrf": 2.0} for direction in DIRECTIONS},
    "nearest training sentence": {direction: {"bleu": 5.0, "chrf": 6.0} for direction in DIRECTIONS[:4]},
}


def record(direction: str, **changes: object) -> dict[str, object]:
    target = direction.split("-")[1]
    scores = {
        **SYSTEMS["model"][direction],
        "length_ratio": 0.987,
        "empty_hypotheses": 3,
        "wall_s": 12.4,
        "trained": direction != "de-ru",
    }
    return {
        "direction": direction,
        **scores,
        "bleu_signature": f"tok:{target}" if target == "sw" else "tok:13a",
        "chrf_signature": "nw:2",
        **changes,
    }


def test_directions_are_grouped_by_english_and_by_tier() -> None:
    assert groups(DIRECTIONS, TIERS) == {
        "all": DIRECTIONS,
        "en→xx": ["en-de", "en-sw"],
        "xx→en": ["de-en", "sw-en"],
        "other": ["de-ru"],
        "high": ["en-de", "de-en"],
        "low": ["en-sw", "sw-en"],
    }
    assert groups(["de-ru"], {}) == {"other": ["de-ru"]}


def test_a_macro_average_counts_each_direction_once_and_needs_all_of_them() -> None:
    assert average(SYSTEMS["model"], ["en-de", "en-sw"], "bleu") == pytest.approx((10 + 12) / 2)
    assert average(SYSTEMS["nearest training sentence"], DIRECTIONS, "bleu") is None


def test_averages_are_listed_for_every_metric_system_and_group() -> None:
    found = {(line["metric"], line["system"], line["group"]): line for line in averages(SYSTEMS, DIRECTIONS, TIERS)}

    assert len(found) == 2 * 3 * 6
    assert found["chrf", "model", "all"]["score"] == pytest.approx(22.0)
    assert found["bleu", "model", "low"] == {
        "metric": "bleu",
        "system": "model",
        "group": "low",
        "directions": 2,
        "score": pytest.approx(12.5),
    }
    assert found["chrf", "nearest training sentence", "other"]["score"] is None


def test_the_average_table_has_a_row_per_system_and_leaves_unknown_cells_empty() -> None:
    lines = average_table(SYSTEMS, DIRECTIONS, TIERS).splitlines()

    assert "all (5)" in lines[0] and "low (2)" in lines[0]
    assert lines[2].split() == ["chrF++", "model", "22.0", "21.0", "22.0", "24.0", "20.5", "22.5"]
    assert lines[4].split() == ["chrF++", "nearest", "training", "sentence", "6.0", "6.0", "6.0", "6.0"]
    assert lines[5].split()[:2] == ["BLEU", "model"]


def test_the_direction_table_marks_zero_shot_directions() -> None:
    lines = direction_table([record(direction) for direction in DIRECTIONS], SYSTEMS, TIERS).splitlines()

    assert lines[2].split() == ["en-de", "high", "10.0", "20.0", "2.0", "6.0", "0.99", "3", "12"]
    assert lines[6].split() == ["de-ru", "(zero-shot)", "14.0", "24.0", "2.0", "0.99", "3", "12"]


def test_each_signature_is_shown_once_with_the_languages_that_differ() -> None:
    found = signature_lines([record(direction) for direction in DIRECTIONS])

    assert found == ["BLEU    tok:13a", "BLEU    tok:sw (into sw)", "chrF++  nw:2"]
