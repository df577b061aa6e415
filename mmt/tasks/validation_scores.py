"""BLEU and chrF++ of each direction during validation, from sums that can be added over batches and ranks."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from fairseq.logging import metrics
from torch import Tensor

from mmt.sacrebleu_metrics import METRICS, score_of_sums, segment_statistics

KEY = "_score_sums"


def score_sums(hypotheses: Sequence[str], references: Sequence[str], target_language: str) -> np.ndarray:
    """Return the sums from which BLEU and chrF++ of these sentences are computed, behind each other, ``(counts,)``."""
    return np.concatenate(
        [segment_statistics(name, hypotheses, references, target_language).sum(axis=0) for name in METRICS]
    )


@cache
def _num_sums(name: str) -> int:
    return segment_statistics(name, ["a"], ["a"], "en").shape[1]


class ValidationScores:
    """Collects score sums ``(directions, sums)`` of a fixed list of directions.

    Args:
        directions: "en-de", ...; every rank must list the same ones in the same order.
    """

    def __init__(self, directions: Sequence[str]) -> None:
        self.directions = list(directions)
        self._rows = {direction: row for row, direction in enumerate(self.directions)}
        self._last: tuple[bytes, dict[str, float]] = b"", {}

    def sums(self, hypotheses: Sequence[str], references: Sequence[str], directions: Sequence[str]) -> Tensor:
        """Return the sums of one batch whose i-th sentence was translated in ``directions[i]``, in float64."""
        table = torch.zeros(len(self.directions), sum(map(_num_sums, METRICS)), dtype=torch.float64)
        for direction in set(directions):
            chosen = [i for i, other in enumerate(directions) if other == direction]
            sums = score_sums([hypotheses[i] for i in chosen], [references[i] for i in chosen], direction.split("-")[1])
            table[self._rows[direction]] += torch.from_numpy(sums)
        return table

    def scores(self, table: Tensor) -> dict[str, float]:
        """Turn sums into "bleu_en-de", "chrf_en-de", ... and their averages "bleu" and "chrf" over the directions
        seen.
        """
        scores: dict[str, float] = {}
        seen = [direction for direction in self.directions if table[self._rows[direction]].any()]
        for direction in seen:
            bleu_sums, chrf_sums = np.split(table[self._rows[direction]].numpy(), [_num_sums("bleu")])
            language = direction.split("-")[1]
            scores[f"bleu_{direction}"] = score_of_sums("bleu", bleu_sums, language)
            scores[f"chrf_{direction}"] = score_of_sums("chrf", chrf_sums, language)
        for metric in METRICS:
            scores[metric] = sum(scores[f"{metric}_{direction}"] for direction in seen) / max(len(seen), 1)
        return scores

    def _scores_once(self, table: Tensor) -> dict[str, float]:
        """Return ``scores(table)``. fairseq asks for each of them one by one."""
        table = table.cpu()
        key = table.numpy().tobytes()
        if self._last[0] != key:
            self._last = key, self.scores(table)
        return self._last[1]

    def log(self, table: Tensor) -> None:
        """Log a batch's sums; the scores that fairseq shows are computed from all sums of the validation."""
        metrics.log_scalar(KEY, table)

        def derive(name: str) -> None:
            metrics.log_derived(name, lambda meters: round(self._scores_once(meters[KEY].sum).get(name, 0.0), 2))

        for metric in METRICS:
            derive(metric)
            for direction in self.directions:
                derive(f"{metric}_{direction}")
