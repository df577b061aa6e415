"""Paired bootstrap: is one system better than the other, or only on these segments?

As in Koehn (2004), and with the draws of sacreBLEU's ``--paired-bs``: random segments, with replacement, the same ones
for both systems. All directions of a test set with the same number of segments share their draws, since their segments
are translations of each other; so intervals of macro averages take into account that the directions rise and fall
together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mmt.sacrebleu_metrics import score_of_sums, segment_statistics

# sacreBLEU's, so that each system has the same scores on the same draws.
SEED, NUM_SAMPLES = 12345, 1000


@dataclass(frozen=True)
class Difference:
    """Two scores and how far they can be told apart.

    Attributes:
        low, high: 95% interval of ``score_b - score_a``.
        p: probability of a difference this large if the systems are equal.
    """

    score_a: float
    score_b: float
    low: float
    high: float
    p: float

    @property
    def delta(self) -> float:
        """By how much B is better than A."""
        return self.score_b - self.score_a


@dataclass(frozen=True)
class PairedSamples:
    """One metric of two systems: on all segments, and on each of the random draws ``(samples,)``."""

    score_a: float
    score_b: float
    samples_a: npt.NDArray[np.float64]
    samples_b: npt.NDArray[np.float64]

    def difference(self) -> Difference:
        """Return the interval (percentiles of the draws) and p.

        p is two-sided: the share of draws, shifted to mean 0, that differ as much as the whole. sacreBLEU takes
        absolute values before it shifts, which makes p too small where the systems are about equal.
        """
        deltas = self.samples_b - self.samples_a
        low, high = np.percentile(deltas, [2.5, 97.5])
        extreme = int(np.sum(np.abs(deltas - deltas.mean()) >= abs(self.score_b - self.score_a)))
        return Difference(self.score_a, self.score_b, float(low), float(high), (extreme + 1) / (len(deltas) + 1))


@lru_cache(maxsize=8)
def _draws(num_segments: int, num_samples: int, seed: int) -> npt.NDArray[np.float64]:
    """Return how often each draw has each segment, ``(samples, segments)``."""
    chosen = np.random.default_rng(seed).choice(num_segments, size=(num_samples, num_segments), replace=True)
    flat = chosen + num_segments * np.arange(num_samples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=num_samples * num_segments)
    return counts.reshape(num_samples, num_segments).astype(np.float64)


def paired_samples(
    metric: str,
    hypotheses_a: Sequence[str],
    hypotheses_b: Sequence[str],
    references: Sequence[str],
    target_language: str,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = SEED,
) -> PairedSamples:
    """Score both systems on all segments and on random draws of them.

    Args:
        metric: "bleu" or "chrf".
        hypotheses_a, hypotheses_b, references: one line per segment.
        target_language: chooses BLEU's tokenizer.
    """
    draws = _draws(len(references), num_samples, seed)
    totals, samples = [], []
    for hypotheses in (hypotheses_a, hypotheses_b):
        statistics = segment_statistics(metric, hypotheses, references, target_language)
        totals.append(score_of_sums(metric, statistics.sum(axis=0), target_language))
        samples.append(np.array([score_of_sums(metric, sums, target_language) for sums in draws @ statistics]))
    return PairedSamples(totals[0], totals[1], samples[0], samples[1])


def mean_of(samples: Sequence[PairedSamples]) -> PairedSamples:
    """Return the macro average over directions, of the scores and of each draw."""
    return PairedSamples(
        float(np.mean([sample.score_a for sample in samples])),
        float(np.mean([sample.score_b for sample in samples])),
        np.mean([sample.samples_a for sample in samples], axis=0),
        np.mean([sample.samples_b for sample in samples], axis=0),
    )


def differences(samples: Mapping[str, PairedSamples], groups: Mapping[str, Sequence[str]]) -> dict[str, Difference]:
    """Return the difference of each direction, and of the macro average of each group of directions."""
    found = {direction: sample.difference() for direction, sample in samples.items()}
    for name, members in groups.items():
        found[name] = mean_of([samples[direction] for direction in members]).difference()
    return found
