"""What is read of several folders and of further data, and with which language tokens; what is missing is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary

from mmt.errors import UserError
from tests.tasks.test_multilingual_moe_translation import batches, make_task
from tests.toy_data import LANGUAGES, write_toy_data


def further(folder: Path, directions: str = "bb-en") -> dict[str, str]:
    return {"extra_data": f"{{'mined': '{folder}'}}", "extra_lang_pairs": f"{{'mined': '{directions}'}}"}


def languages_of(batch: dict[str, Any]) -> list[str]:
    """Return the source language of each sentence."""
    return [LANGUAGES[index] for index in batch["net_input"]["src_lang_id"].flatten().tolist()]


def words(tokens: torch.Tensor, dictionary: Dictionary) -> list[str]:
    """Return the symbols of a sentence, of words only the language."""
    return [dictionary[int(token)].rstrip("0123456789") for token in tokens if int(token) != dictionary.pad()]


@pytest.mark.parametrize(
    ("options", "source", "target"),
    [
        ({"encoder_langtok": "src"}, ["__en__", "en", "</s>"], ["</s>", "__aa__", "aa"]),
        ({"encoder_langtok": "tgt", "lang_tok_style": "mbart"}, ["[aa]", "en", "</s>"], ["</s>", "[aa]", "aa"]),
        (
            {"langtoks_specs": "main,mined", "langtoks": "{'main': ('src.mined', 'tgt.mined')}"},
            ["__en_mined__", "en", "</s>"],
            ["</s>", "__aa_mined__", "aa"],
        ),
        (
            {"encoder_langtok": "tgt", "lang_tok_replacing_bos_eos": True},
            ["en", "en", "__aa__"],
            ["__aa__", "aa", "aa"],
        ),
        ({"decoder_langtok": False}, ["en", "en", "</s>"], ["</s>", "aa", "aa"]),
    ],
    ids=["before", "in brackets", "of a kind of data", "in place of eos", "none"],
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_language_tokens_are_where_the_options_put_them(
    split: str, options: dict[str, Any], source: list[str], target: list[str], toy_data: Path
) -> None:
    task = make_task(toy_data, lang_pairs="en-aa", **options)
    for batch in batches(task, split):
        for tokens in batch["net_input"]["src_tokens"]:
            found = words(tokens, task.source_dictionary)
            assert [*found[:2], found[-1]] == source
        for tokens, read in zip(batch["target"], batch["net_input"]["prev_output_tokens"]):
            assert words(read, task.target_dictionary)[:3] == target
            assert words(tokens, task.target_dictionary)[:2] == words(read, task.target_dictionary)[1:3]


def test_sources_are_truncated_and_targets_are_not(toy_data: Path) -> None:
    limit = {"truncate_source": True, "max_source_positions": 3}
    task = make_task(toy_data, lang_pairs="en-aa", encoder_langtok="src", **limit)
    found = batches(task, "valid")
    sources = [words(tokens, task.source_dictionary) for batch in found for tokens in batch["net_input"]["src_tokens"]]
    assert all(source == ["__en__", "en", "en", "</s>"] for source in sources)
    assert max(batch["target"].size(1) for batch in found) == 1 + 5 + 1


def test_a_direction_and_its_reverse_can_share_what_they_read(tmp_path: Path) -> None:
    data = write_toy_data(tmp_path, train_size=20)
    shared = {"enable_reservsed_directions_shared_datasets": True, "encoder_langtok": "src"}
    task = make_task(data, lang_pairs="en-aa,aa-en", **shared)
    found = {
        (language, *words(source, task.source_dictionary)[:2], *words(target, task.target_dictionary)[:2])
        for batch in batches(task, "train")
        for language, source, target in zip(languages_of(batch), batch["net_input"]["src_tokens"], batch["target"])
    }
    assert found == {("en", "__en__", "en", "__aa__", "aa"), ("aa", "__aa__", "aa", "__en__", "en")}


@pytest.mark.parametrize("split", ["train", "clean"])
def test_epochs_go_through_the_folders_in_turn(split: str, tmp_path: Path) -> None:
    folders = [write_toy_data(tmp_path / str(size), train_size=size, valid_size=1) for size in (30, 20)]
    for path in [path for folder in folders for path in folder.glob("train.*")]:
        path.rename(path.with_name(path.name.replace("train", split)))
    task = make_task(Path(f"{folders[0]}:{folders[1]}"), lang_pairs="en-aa", train_subset=split)
    sizes = []
    for epoch in (1, 2, 3):
        task.load_dataset(split, epoch=epoch)
        sizes.append(len(task.dataset(split)))
    assert sizes == [30, 20, 30]
    assert task.has_sharded_data("train")  # fairseq-train asks so, whatever the subset, before it loads the next


def test_a_direction_that_the_first_folder_lacks_is_named(tmp_path: Path) -> None:
    first, second = (write_toy_data(tmp_path / name, train_size=5, valid_size=5) for name in ("first", "second"))
    for path in first.glob("train.en-bb.*"):
        path.unlink()
    message = f"^no binarized train data of en-bb in {first}: of several folders, those with a direction must come"
    with pytest.raises(UserError, match=message):
        make_task(Path(f"{first}:{second}"), lang_pairs="en-aa,en-bb").load_dataset("train")
    make_task(Path(f"{second}:{first}"), lang_pairs="en-aa,en-bb").load_dataset("train", epoch=2)


@pytest.mark.parametrize("has_tokens", [False, True])
def test_sentences_of_further_data_are_trained_on_and_have_the_language_tokens_that_are_asked_for(
    has_tokens: bool, toy_data: Path, tmp_path: Path
) -> None:
    mined = write_toy_data(tmp_path / "mined", train_size=50)
    tokens = {"langtoks": "{'mined': ('tgt', 'tgt')}"} if has_tokens else {}
    task = make_task(toy_data, lang_pairs="en-aa", encoder_langtok="tgt", **further(mined), **tokens)

    found = batches(task, "train")

    assert sum(languages_of(batch).count("en") for batch in found) == 2000
    assert sum(languages_of(batch).count("bb") for batch in found) == 50
    firsts = {
        task.target_dictionary[int(target[0])]
        for batch in found
        for language, target in zip(languages_of(batch), batch["target"])
        if language == "bb"
    }
    assert ("__en__" in firsts) == has_tokens
    assert not has_tokens or len(firsts) == 1


def test_validations_do_without_further_data(toy_data: Path, tmp_path: Path) -> None:
    task = make_task(toy_data, lang_pairs="en-aa", **further(tmp_path / "elsewhere"))
    assert {language for batch in batches(task, "valid") for language in languages_of(batch)} == {"en"}


def test_what_is_missing_of_further_data_is_named(toy_data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, message in (
        (tmp_path / "nothing", f"--extra-data: the folder {tmp_path}/nothing of 'mined' does not exist"),
        (f"{toy_data}:{tmp_path}/nothing", f"--extra-data: the folder {tmp_path}/nothing of 'mined' does not exist"),
        (empty, f"no binarized train data of bb-en in {empty}"),
    ):
        with pytest.raises(UserError, match=f"^{message}$"):
            make_task(toy_data, lang_pairs="en-aa", **further(Path(folder))).load_dataset("train")
