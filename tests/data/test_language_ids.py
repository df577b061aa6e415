"""Language ids stay with their sentences through fairseq's sorting, mixing and shuffling."""

import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset

from mmt.data.language_ids import LanguageIdDataset
from mmt.data.task_ids import TaskIds
from mmt.errors import UserError

DICTIONARY = Dictionary()
for word in range(30):
    DICTIONARY.add_symbol(f"w{word}")


def pair_dataset(lengths: list[int], token: int) -> LanguagePairDataset:
    """Sentences made of one token, so that a row tells where it is from."""
    sentences = [torch.tensor([token] * length + [2]) for length in lengths]
    sizes = [length + 1 for length in lengths]
    data = ListDataset(sentences, sizes)
    return LanguagePairDataset(data, sizes, DICTIONARY, data, sizes, DICTIONARY)


def test_a_mixed_batch_knows_the_languages_of_every_row() -> None:
    german, french = (
        LanguageIdDataset(pair_dataset([2, 5, 3], 7), 0, 1),
        LanguageIdDataset(pair_dataset([4, 1], 8), 2, 0),
    )
    # Collated by the first direction's dataset, as fairseq does.
    batch = german.collater([german[0], french[0], german[1], french[1], german[2]])
    first_tokens = [row[row.ne(DICTIONARY.pad())][0].item() for row in batch["net_input"]["src_tokens"]]
    assert sorted(first_tokens) == [7, 7, 7, 8, 8]
    assert batch["net_input"]["src_lang_id"].flatten().tolist() == [{7: 0, 8: 2}[token] for token in first_tokens]
    assert batch["tgt_lang_id"].flatten().tolist() == [{7: 1, 8: 0}[token] for token in first_tokens]


def test_ids_of_the_sentences_are_kept() -> None:
    dataset = LanguageIdDataset(pair_dataset([2, 5, 3], 7), 0, 1)
    batch = dataset.collater([dataset[0], dataset[1], dataset[2]])
    lengths = batch["net_input"]["src_lengths"].tolist()
    assert dict(zip(batch["id"].tolist(), lengths)) == {0: 3, 1: 6, 2: 4}


def test_a_limit_keeps_the_first_sentences_only() -> None:
    dataset = LanguageIdDataset(pair_dataset([2, 5, 3, 9], 7), 0, 1, max_sentences=2)
    assert len(dataset) == len(dataset.sizes) == 2
    assert sorted(dataset.ordered_indices().tolist()) == [0, 1]


@pytest.mark.parametrize("kind, expected", [("target", [1, 0]), ("source", [0, 2]), ("pair", [1, 2])])
def test_task_ids_by_kind(kind: str, expected: list[int]) -> None:
    task_ids = TaskIds(kind, ["en", "de", "fr"], ["de-en", "en-de", "fr-en"])
    assert task_ids(torch.tensor([0, 2]), torch.tensor([1, 0])).tolist() == expected
    # Pairs are numbered by --lang-pairs, which a later command may give otherwise; languages by the data folder.
    assert set(task_ids.state_dict()) == ({"task_of_pair"} if kind == "pair" else set())


def test_an_unknown_kind_of_task_id_is_refused() -> None:
    with pytest.raises(UserError, match="--moe-task-id must be one of target, source, pair, but is 'domain'"):
        TaskIds("domain", ["en"], [])
