"""One translation for each English sentence."""

from data_prep.deduplicate import cap_sources, drop_overused_targets, merge_repeats, merge_variants


def test_the_majority_of_sources_wins_and_trust_decides_a_tie() -> None:
    rows = [
        ("Open", "Öffnen", "a"), ("Open", "Aufmachen", "b"), ("Open", "Aufmachen", "c"),
        ("Close", "Zu", "c"), ("Close", "Schließen", "b"),
        ("Same", "Gleich", "a"), ("Same", "Gleich", "c"),
    ]  # fmt: skip
    counts: dict[str, int] = {}

    assert merge_variants(rows, ("a", "b", "c"), counts) == [
        ("Open", "Aufmachen", "b"), ("Close", "Schließen", "b"), ("Same", "Gleich", "a"),
    ]  # fmt: skip
    assert counts == {"read": 7, "variant": 2, "repeated": 2}


def test_a_translation_of_more_than_six_sources_goes_with_all_its_pairs() -> None:
    six = [(f"six {i}", "sechs", "a") for i in range(6)]
    seven = [(f"seven {i}", "sieben", "a") for i in range(7)]
    counts: dict[str, int] = {}

    assert drop_overused_targets(six + seven, counts) == six
    assert counts == {"overused_translation": 7}


def test_a_capped_source_keeps_the_same_pairs_in_any_order() -> None:
    rows = [(f"text {i}", f"Text {i}", "big") for i in range(100)] + [("other", "anderes", "small")]
    counts: dict[str, int] = {}

    kept = cap_sources(rows, {"big": 30}, counts)

    assert len(kept) == 31 and kept[-1] == rows[-1]
    assert counts == {"over_cap": 70}
    assert set(cap_sources(rows[::-1], {"big": 30}, {})) == set(kept)


def test_own_text_keeps_different_translations_and_loses_repeats() -> None:
    rows = [("a", "x", "own"), ("a", "y", "own"), ("a", "x", "own")]
    counts: dict[str, int] = {}

    assert merge_repeats(rows, counts) == rows[:2]
    assert counts == {"read": 3, "repeated": 1}
