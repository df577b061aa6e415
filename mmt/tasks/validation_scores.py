"""BLEU and chrF++ of each direction during validation, from sums that can be added over batches and ranks."""

from collections.abc import Sequence
from functools import cache

import torch
from fairseq.logging import metrics
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor

from mmt.sacrebleu_tokenizers import tokenizer_for_language

KEY = "_score_sums"


@cache
def _bleu(target_language: str) -> BLEU:
    return BLEU(tokenize=tokenizer_for_language(target_language))


@cache
def _chrf() -> CHRF:
    return CHRF(word_order=2)


def _num_sums() -> int:
    return len(score_sums(["a"], ["a"], "en"))


def score_sums(hypotheses: Sequence[str], references: Sequence[str], target_language: str) -> list[float]:
    """Return sacreBLEU's sufficient statistics of BLEU and chrF++ for these sentences, one after the other."""
    bleu = _bleu(target_language)._extract_corpus_statistics(list(hypotheses), [list(references)])
    chrf = _chrf()._extract_corpus_statistics(list(hypotheses), [list(references)])
    return [float(sum(column)) for column in (*zip(*bleu), *zip(*chrf))]


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
        table = torch.zeros(len(self.directions), _num_sums(), dtype=torch.float64)
        for direction in set(directions):
            chosen = [i for i, other in enumerate(directions) if other == direction]
            sums = score_sums([hypotheses[i] for i in chosen], [references[i] for i in chosen], direction.split("-")[1])
            table[self._rows[direction]] += torch.tensor(sums, dtype=torch.float64)
        return table

    def scores(self, table: Tensor) -> dict[str, float]:
        """Turn sums into "bleu_en-de", "chrf_en-de", ... and their averages "bleu" and "chrf" over the directions
        seen.
        """
        scores: dict[str, float] = {}
        seen = [direction for direction in self.directions if table[self._rows[direction]].any()]
        for direction in seen:
            sums = [round(value) for value in table[self._rows[direction]].tolist()]
            bleu = _bleu(direction.split("-")[1])
            num_bleu = 2 + 2 * bleu.max_ngram_order
            scores[f"bleu_{direction}"] = bleu._compute_score_from_stats(sums[:num_bleu]).score
            scores[f"chrf_{direction}"] = _chrf()._compute_score_from_stats(sums[num_bleu:]).score
        for metric in ("bleu", "chrf"):
            scores[metric] = sum(scores[f"{metric}_{direction}"] for direction in seen) / max(len(seen), 1)
        return scores

    def _scores_once(self, table: Tensor) -> dict[str, float]:
        """Return ``scores(table)``. fairseq asks for each of them one by one."""
        key = table.cpu().numpy().tobytes()
        if self._last[0] != key:
            self._last = key, self.scores(table)
        return self._last[1]

    def log(self, table: Tensor) -> None:
        """Log a batch's sums; the scores that fairseq shows are computed from all sums of the validation."""
        metrics.log_scalar(KEY, table)

        def derive(name: str) -> None:
            metrics.log_derived(name, lambda meters: round(self._scores_once(meters[KEY].sum).get(name, 0.0), 2))

        for metric in ("bleu", "chrf"):
            derive(metric)
            for direction in self.directions:
                derive(f"{metric}_{direction}")
