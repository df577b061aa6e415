"""The joint SentencePiece model."""

from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data_prep.errors import DataError
from data_prep.normalise import CHARACTER_TABLE, normalise
from data_prep.train_spm import share_lines, train_spm
from tests.data_prep.helpers import assert_user_error, run_step, write_lines


def test_shares_are_flatter_at_a_higher_temperature_and_full_where_text_is_short() -> None:
    available = {"big": 100_000, "small": 1_000}

    assert share_lines(available, 1_010, 1.0) == {"big": 1000, "small": 10}
    flat = share_lines(available, 1_000, 5.0)
    assert sum(flat.values()) == pytest.approx(1_000, abs=2)
    assert flat["big"] / flat["small"] == pytest.approx(100 ** (1 / 5), rel=0.02)
    assert share_lines(available, 50_000, 5.0)["small"] == 1_000
    assert share_lines(available, 10**9, 5.0) == available


def test_same_seed_gives_the_same_model_and_another_seed_another(prepared_sample: Path, tmp_path: Path) -> None:
    text = prepared_sample / "software50" / "sample" / "text"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_spm(text, tmp_path / name, 2_000, sample=2_000, seed=seed)
    a, b, c = ((tmp_path / name / "spm.vocab").read_bytes() for name in "abc")

    assert a == b != c


def test_model_spells_unseen_characters_in_bytes_and_loses_nothing(prepared_sample: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(prepared_sample / "software50" / "sample" / "spm" / "spm.model")
    )
    text = "Ϣ ꙮ 😀 ფაილი Datei öffnen 文件"

    assert model.unk_id() not in model.encode(text)
    assert model.decode(model.encode(text)) == text
    assert model.get_piece_size() == 5000


def test_model_normalises_characters_of_the_table_as_cleaning_does(prepared_sample: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(prepared_sample / "software50" / "sample" / "spm" / "spm.model")
    )
    for code in CHARACTER_TABLE:
        if code:
            text = f"ab{chr(code)}cd {chr(code)}{chr(code)} ef"
            assert model.decode(model.encode(text)) == normalise(text), hex(code)


def test_a_line_longer_than_sentencepieces_own_limit_is_trained_on(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.en-ka.en", ["a short line"] * 3)
    write_lines(tmp_path / "train.en-ka.ka", ["მოკლე ხაზი", "გრძელი " * 300])

    train_spm(tmp_path, tmp_path / "spm", 290, coverage=1.0)

    pieces = {line.split("\t")[0] for line in (tmp_path / "spm" / "spm.vocab").read_text().splitlines()}
    assert {"მ", "ძ"} <= pieces  # the second letter is in the long line only: 5,700 bytes


def test_vocabulary_too_big_for_the_text_is_refused_in_words(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.en-de.en", ["open the file", "close it"])
    write_lines(tmp_path / "train.en-de.de", ["die Datei öffnen", "schließen"])

    result = run_step("train_spm", "--input", tmp_path, "--output", tmp_path / "spm", "--vocab-size", 5000)

    assert_user_error(
        result, "--vocab-size 5000 is too big for this text: 4 lines give at most", "smaller --vocab-size"
    )
    assert not (tmp_path / "spm").exists() and not list(tmp_path.glob(".*partial*"))


def test_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--vocab-size must be more than 260 .*, but is 200"):
        train_spm(tmp_path, tmp_path / "spm", 200)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"coverage": 0.9}, "--character-coverage must be at least 0.98 and at most 1, but is 0.9"),
        ({"sample": 0}, "--sample-lines must be at least 1, but is 0"),
        ({"seed": 2**32}, "--seed must be at least 0 and below 4294967296, but is 4294967296"),
    ],
)
def test_what_sentencepiece_does_not_take_is_refused_in_words(
    tmp_path: Path, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train_spm(tmp_path, tmp_path / "spm", 1000, **option)


def test_vocabulary_smaller_than_the_alphabet_is_refused_in_words(prepared_sample: Path, tmp_path: Path) -> None:
    text = prepared_sample / "software50" / "sample" / "text"

    with pytest.raises(DataError, match="--vocab-size 400 does not fit"):
        train_spm(text, tmp_path / "spm", 400, sample=5_000)
