"""The shipped sample corpus: what it holds, and that it holds no evaluation sentence."""

import lzma

from data_prep.evalsets import PACKED, check_hash, read_held_out, unpack
from data_prep.recipe import REPOSITORY, load_recipe
from data_prep.shingles import HeldOut
from data_prep.split import find_held_out
from data_prep.steps import default_jobs

SAMPLE = REPOSITORY / "sample" / "chromium.tsv.xz"


def test_sample_is_small_whole_and_licensed() -> None:
    assert SAMPLE.stat().st_size <= 4_000_000
    assert check_hash(SAMPLE)
    assert "Redistribution and use in source and binary forms" in (SAMPLE.parent / "NOTICE").read_text()


def test_sample_has_english_and_fifty_languages_of_seventeen_scripts() -> None:
    with lzma.open(SAMPLE, "rt", encoding="utf-8") as file:
        columns = file.readline().rstrip("\n").split("\t")
        rows = [line.rstrip("\n").split("\t") for line in file]
    languages = load_recipe("software50").languages

    assert columns[0] == "en" and set(columns) == set(languages)
    assert len({languages[code].script for code in columns}) == 17
    assert all(len(row) == len(columns) for row in rows)
    for column, code in enumerate(columns):
        assert sum(bool(row[column]) for row in rows) > 4500, code


def test_no_sentence_of_the_sample_is_near_an_evaluation_sentence_in_any_language(tmp_path_factory) -> None:
    folder = unpack("software50", tmp_path_factory.mktemp("evalsets"))
    with lzma.open(SAMPLE, "rt", encoding="utf-8") as file:
        sentences = sorted({text for line in file for text in line.rstrip("\n").split("\t") if text})
    held_out = read_held_out([folder])

    assert len(sentences) > 280_000 and len(held_out) == 51 * 1548
    assert find_held_out(sentences, HeldOut(held_out), default_jobs()) == {}


def test_frozen_evaluation_sets_have_their_recorded_hash() -> None:
    assert check_hash(PACKED / "software50-eval.tar.xz")
