"""Every sentence of a batch carries the index of its source and of its target language."""

from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset


class LanguageIdDataset(BaseWrapperDataset):
    """Add language indices to each item of a language-pair dataset of one direction, and to the batches made of them.

    Batches mix directions (temperature sampling), and fairseq collates a mixed batch with the first direction's
    dataset. So the indices travel with the items. They are put where fairseq's ``--enable-lang-ids`` puts them:
    ``batch["net_input"]["src_lang_id"]`` and ``batch["tgt_lang_id"]``, each ``(B, 1)``.

    Args:
        dataset: a fairseq language-pair dataset.
        source_index: index of the source language in the task's list of languages.
        target_index: index of the target language.
        max_sentences: keep only the first ``max_sentences`` items (None: all), to bound the time of a validation.
    """

    def __init__(
        self, dataset: FairseqDataset, source_index: int, target_index: int, max_sentences: int | None = None
    ) -> None:
        super().__init__(dataset)
        self.source_index = source_index
        self.target_index = target_index
        self.length = len(dataset) if max_sentences is None else min(len(dataset), max_sentences)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "languages": (self.source_index, self.target_index)}

    @property
    def sizes(self) -> np.ndarray:
        return self.dataset.sizes[: self.length]

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.dataset.num_tokens_vec(indices)

    def ordered_indices(self) -> np.ndarray:
        indices = self.dataset.ordered_indices()
        return indices[indices < self.length]

    def collater(self, samples: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        # Collating sorts the sentences by length. Items of different directions may share an id, so positions are
        # sent through in place of the ids to learn the new order.
        batch = self.dataset.collater([{**sample, "id": i} for i, sample in enumerate(samples)], **kwargs)
        if not batch:
            return batch
        order = batch["id"].tolist()
        languages = torch.tensor([samples[i]["languages"] for i in order], dtype=torch.long)
        batch["id"] = torch.tensor([samples[i]["id"] for i in order], dtype=torch.long)
        batch["net_input"]["src_lang_id"] = languages[:, :1]
        batch["tgt_lang_id"] = languages[:, 1:]
        return batch
