"""Further data beside the data folder: it is read, or what is missing of it is named."""

from pathlib import Path
from typing import Any

import pytest

from mmt.errors import UserError
from tests.tasks.test_multilingual_moe_translation import batches, make_task
from tests.toy_data import LANGUAGES, write_toy_data


def further(folder: Path, directions: str = "bb-en") -> dict[str, str]:
    return {"extra_data": f"{{'mined': '{folder}'}}", "extra_lang_pairs": f"{{'mined': '{directions}'}}"}


def languages_of(batch: dict[str, Any]) -> list[str]:
    """Return the source language of each sentence."""
    return [LANGUAGES[index] for index in batch["net_input"]["src_lang_id"].flatten().tolist()]


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
