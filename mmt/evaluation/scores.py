"""BLEU and chrF++ as sacreBLEU computes them, with its signatures."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmt.sacrebleu_metrics import metric


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
