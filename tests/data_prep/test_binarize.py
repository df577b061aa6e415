"""Binary data: what fairseq reads from it is the text."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from data_prep.binarize import binarize
from data_prep.errors import DataError
from data_prep.indexed import token_dtype, write_indexed
from data_prep.train_spm import train_spm
from tests.data_prep.conftest import SAMPLE_LANGUAGES
from tests.data_prep.helpers import write_lines


@pytest.fixture
def folder(prepared_sample: Path) -> Path:
    return prepared_sample / "software50" / "sample"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("language", SAMPLE_LANGUAGES)
def test_fairseq_reads_back_every_sentence(folder: Path, split: str, language: str) -> None:
    pair = "en-de" if language == "en" else f"en-{language}"
    dictionary = Dictionary.load(str(folder / "bin" / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(folder / "bin" / f"{split}.{pair}.{language}"), dictionary, "mmap")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "bin" / "spm.model"))
    lines = (folder / "text" / f"{split}.{pair}.{language}").read_text(encoding="utf-8").split("\n")[:-1]

    assert len(dataset) == len(lines) > 0
    step = 1 + len(lines) // 400
    for line, tokens in ((lines[i], dataset[i]) for i in [*range(0, len(lines), step), len(lines) - 1]):
        assert tokens[-1] == dictionary.eos() and dictionary.unk() not in tokens
        assert model.decode(dictionary.string(tokens).split()) == line


def test_dictionary_gives_the_ids_that_fairseq_gives_to_pieces(folder: Path) -> None:
    dictionary = Dictionary.load(str(folder / "bin" / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(folder / "bin" / "valid.en-hi.hi"), dictionary, "mmap")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "bin" / "spm.model"))
    line = (folder / "text" / "valid.en-hi.hi").read_text(encoding="utf-8").splitlines()[7]

    by_fairseq = dictionary.encode_line(" ".join(model.encode(line, out_type=str)), add_if_not_exist=False)

    assert dataset[7].tolist() == by_fairseq.tolist()


def test_counts_in_the_dictionary_are_those_of_the_training_text(folder: Path) -> None:
    dictionary = Dictionary.load(str(folder / "bin" / "dict.txt"))
    counted = np.zeros(len(dictionary), dtype=int)
    for path in (folder / "bin").glob("train.*.bin"):
        tokens = np.fromfile(path, dtype=np.uint16)
        counted += np.bincount(tokens, minlength=len(dictionary))

    assert dictionary.count[dictionary.nspecial :] == counted[dictionary.nspecial :].tolist()
    assert len(dictionary) == 4 + 5000 - 3
    assert sum(symbol.startswith("<0x") for symbol in dictionary.symbols) == 256


def test_folder_has_one_dictionary_for_all_languages_and_lists_them_in_fixed_order(folder: Path) -> None:
    dictionaries = {path.name: path.read_bytes() for path in (folder / "bin").glob("dict*.txt")}

    assert set(dictionaries) == {"dict.txt", *(f"dict.{lang}.txt" for lang in SAMPLE_LANGUAGES)}
    assert len(set(dictionaries.values())) == 1
    assert (folder / "bin" / "lang_list.txt").read_text() == "en\nde\nel\nhi\nth\nzh\n"
    assert (folder / "bin" / "lang_pairs.txt").read_text() == (
        "en-de,de-en,en-el,el-en,en-hi,hi-en,en-th,th-en,en-zh,zh-en\n"
    )
    assert (folder / "bin" / "spm.model").read_bytes() == (folder / "spm" / "spm.model").read_bytes()


def test_a_model_of_pieces_need_not_have_an_end_mark(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "text" / "train.en-de.en").read_text(encoding="utf-8").splitlines()[:500]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "spm"), vocab_size=200, eos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    last = model.id_to_piece(model.get_piece_size() - 1)  # a character
    for language in ("en", "de"):
        write_lines(tmp_path / f"train.en-de.{language}", [f"{last}{last} {last}"] * 2)

    binarize(tmp_path, tmp_path / "spm.model", tmp_path / "bin", 1)

    dictionary = Dictionary.load(str(tmp_path / "bin" / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(tmp_path / "bin" / "train.en-de.en"), dictionary, "mmap")
    assert [int(token) for token in dataset[0]].count(dictionary.eos()) == 1
    assert dictionary.string(dataset[0]).split().count(last) >= 1


@pytest.mark.parametrize("vocab_size", [1_000, 70_000])
def test_files_are_byte_for_byte_those_of_fairseqs_own_builder(tmp_path: Path, vocab_size: int) -> None:
    rng = np.random.default_rng(0)
    sentences = [rng.integers(0, vocab_size, size=n) for n in (3, 1, 40, 0, 7)]
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=token_dtype(vocab_size).type)
    for sentence in sentences:
        builder.add_item(torch.from_numpy(sentence))
    builder.finalize(str(tmp_path / "theirs.idx"))

    write_indexed(tmp_path / "ours", np.concatenate(sentences), np.array([len(s) for s in sentences]), vocab_size)

    for ending in (".bin", ".idx"):
        assert (tmp_path / f"ours{ending}").read_bytes() == (tmp_path / f"theirs{ending}").read_bytes()


def test_missing_unequal_and_empty_files_are_errors_that_name_them(folder: Path, tmp_path: Path) -> None:
    model = folder / "spm" / "spm.model"
    write_lines(tmp_path / "train.en-de.en", ["one", "two"])
    with pytest.raises(DataError, match="no such file: .*train.en-de.de"):
        binarize(tmp_path, model, tmp_path / "bin", 1)
    write_lines(tmp_path / "train.en-de.de", ["eins"])
    with pytest.raises(DataError, match=r"train.en-de.en has 2, .*train.en-de.de has 1"):
        binarize(tmp_path, model, tmp_path / "bin", 1)
    write_lines(tmp_path / "train.en-de.en", [])
    write_lines(tmp_path / "train.en-de.de", [])
    with pytest.raises(DataError, match="train.en-de.en: the file is empty"):
        binarize(tmp_path, model, tmp_path / "bin", 1)
    assert not (tmp_path / "bin").exists()


def test_text_that_is_not_utf8_is_an_error_that_names_file_and_line(folder: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "train.en-de.de", ["eins", "zwei"])
    (tmp_path / "train.en-de.en").write_bytes(b"one\ncaf\xe9\n")

    message = r"train.en-de.en, line 2: must be UTF-8"
    with pytest.raises(DataError, match=message):
        binarize(tmp_path, folder / "spm" / "spm.model", tmp_path / "bin", 1)
    with pytest.raises(DataError, match=message):
        train_spm(tmp_path, tmp_path / "spm", 300)
    assert not (tmp_path / "bin").exists() and not (tmp_path / "spm").exists()


def test_a_model_of_pieces_may_be_named_without_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "text" / "train.en-de.en", ["one", "two"])
    write_lines(tmp_path / "text" / "train.en-de.de", ["eins", "zwei"])
    shutil.copy(folder / "spm" / "spm.model", tmp_path)
    monkeypatch.chdir(tmp_path)

    stats = binarize(tmp_path / "text", Path("spm.model"), tmp_path / "bin", 1)

    assert stats["inputs"] == ["text", "spm.model"]


def test_what_is_no_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    for language in ("en", "de"):
        write_lines(tmp_path / f"train.en-de.{language}", ["one"])
    (tmp_path / "bad.model").write_bytes(b"no model")

    with pytest.raises(DataError, match="bad.model: not a SentencePiece model"):
        binarize(tmp_path, tmp_path / "bad.model", tmp_path / "bin", 1)
