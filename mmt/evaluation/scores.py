"""BLEU and chrF++ as sacreBLEU computes them, with its signatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mmt.sacrebleu_tokenizers import tokenizer_for_language

METRICS = ("bleu", "chrf")
METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF++"}


@dataclass(frozen=True)
class Scores:
    """Scores of a direction, each with the signature that makes it repeatable.

    Attributes:
        length_ratio: words of the hypotheses by words of the references, as BLEU's tokenizer counts them.
    """

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str
    length_ratio: float


@cache
def metric(name: str, target_language: str) -> BLEU | CHRF:
    """Return sacreBLEU's metric: "bleu" with the language's tokenizer, or "chrf" with word bigrams (chrF++)."""
    return BLEU(tokenize=tokenizer_for_language(target_language), force=True) if name == "bleu" else CHRF(word_order=2)


def score(hypotheses: Sequence[str], references: Sequence[str], target_language: str) -> Scores:
    """Score hypotheses against one reference each."""
    bleu, chrf = metric("bleu", target_language), metric("chrf", target_language)
    bleu_score = bleu.corpus_score(hypotheses, [references])
    chrf_score = chrf.corpus_score(hypotheses, [references])
    return Scores(
        bleu=bleu_score.score,
        chrf=chrf_score.score,
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
        length_ratio=bleu_score.sys_len / max(bleu_score.ref_len, 1),
    )


def segment_statistics(
    name: str, hypotheses: Sequence[str], references: Sequence[str], target_language: str
) -> np.ndarray:
    """Return what a metric counts in each segment, ``(segments, counts)``; a score is computed from sums of these."""
    return np.array(
        metric(name, target_language)._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.float64
    )


def score_of_sums(name: str, sums: np.ndarray, target_language: str) -> float:
    """Return the score that belongs to the sums of a metric's counts, ``(counts,)``."""
    return metric(name, target_language)._compute_score_from_stats([round(value) for value in sums.tolist()]).score
