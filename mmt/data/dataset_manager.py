"""fairseq's loading of multilingual data, with the languages of every sentence and mistakes named."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq.data import FairseqDataset
from fairseq.data.multilingual.multilingual_data_manager import MultilingualDatasetManager, load_sampling_weights
from fairseq.utils import split_paths

from mmt.data.language_ids import LanguageIdDataset
from mmt.errors import UserError

logger = logging.getLogger(__name__)


class LanguageIdDatasetManager(MultilingualDatasetManager):
    """fairseq's multilingual data loading, with the languages of every sentence in every batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told_of_limit: set[str] = set()

    def load_a_dataset(self, split: str, data_path: str, src: str, *args: Any, **kwargs: Any) -> FairseqDataset:
        try:
            dataset = super().load_a_dataset(split, data_path, src, *args, **kwargs)
        except AssertionError as error:
            raise UserError(f"{split} data of {src}-{kwargs['tgt']} in {data_path}: {error}") from error
        limit = None if split == self.args.train_subset else self.args.valid_sentences_per_direction
        target = kwargs["tgt"]
        if limit is not None and split not in self.told_of_limit:
            self.told_of_limit.add(split)
            logger.info("%s: the first %d sentences of each direction (--valid-sentences-per-direction)", split, limit)
        return LanguageIdDataset(dataset, self.langs.index(src), self.langs.index(target), max_sentences=limit)

    def get_sampling_ratios(
        self, data_param_list: Any, datasets: Sequence[tuple[str, Any]], epoch: int, shard_epoch: int | None = None
    ) -> Any:
        """Return the share of each direction.

        Raises:
            UserError: names a direction that ``--sampling-weights`` leaves out, or a share that is none.
        """
        weights, option = self.args.sampling_weights, "--sampling-weights"
        if self.args.sampling_weights_from_file:
            option = f"--sampling-weights-from-file {self.args.sampling_weights_from_file}"
            try:
                weights = load_sampling_weights(self.args.sampling_weights_from_file)
            except ValueError as error:
                raise UserError(f"{option}: not JSON: {error}") from error
        if weights or self.args.sampling_weights_from_file:
            _check_shares(option, weights, [key for key, _ in datasets])
        return super().get_sampling_ratios(data_param_list, datasets, epoch, shard_epoch)

    def get_split_num_data_shards(self, split: str) -> dict[str, int]:
        """Return in how many folders there is data of each direction, further data included.

        Raises:
            UserError: names a folder of ``--extra-data`` that does not exist, or a direction without data, or with data
                in other folders than it will be read from.
        """
        if split in self._num_shards_dict:  # has been checked
            return super().get_split_num_data_shards(split)
        folders, lang_pairs = self.get_data_paths_and_lang_pairs(split)
        for kind in folders.keys() - {"main"}:
            for folder in split_paths(folders[kind]):
                if not Path(folder).is_dir():
                    raise UserError(f"--extra-data: the folder {folder} of {kind!r} does not exist")
        shards = super().get_split_num_data_shards(split)
        for kind, pairs in lang_pairs.items():
            for pair in pairs:
                key = self.get_dataset_key(kind, *pair.split("-"))
                if key not in shards:
                    raise UserError(f"no binarized {split} data of {pair} in {folders[kind]}")
                # fairseq counts the folders that have a direction, and goes through as many from the first on.
                paths = split_paths(folders[kind])
                for folder in paths[: shards[key] if split == self.args.train_subset else 1]:
                    if not self._is_in(folder, split, pair):
                        several = ": of several folders, those with a direction must come before those without"
                        hint = several if len(paths) > 1 else ""
                        raise UserError(f"no binarized {split} data of {pair} in {folder}{hint}")
        return shards

    def _is_in(self, folder: str, split: str, pair: str) -> bool:
        """Tell whether a folder has sentences of a direction, or of its reverse."""
        source, target = pair.split("-")
        directions = (source, target), (target, source)
        return any(self.split_exists(split, *each, source, folder, self.args.dataset_impl) for each in directions)


def _check_shares(option: str, shares: Any, directions: Sequence[str]) -> None:
    if not isinstance(shares, dict):
        raise UserError(f"{option} must be a dictionary with the share of every direction, but is {shares!r}")
    for direction in directions:
        if direction not in shares:
            raise UserError(f"{option} must give the share of every direction, but has none for {direction!r}")
        share = shares[direction]
        if not isinstance(share, (int, float)) or not 0 <= share < math.inf:
            raise UserError(f"{option} must give numbers of 0 or more, but gives {direction!r} {share!r}")
    if not any(shares[direction] for direction in directions):
        raise UserError(f"{option} must give a share above 0 to one direction at least")
