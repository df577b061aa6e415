"""sacreBLEU's BLEU and chrF++ for a target language, as a whole and as sums that can be added."""

import importlib.util
from collections.abc import Sequence
from functools import cache

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

METRICS = ("bleu", "chrf")
METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF++"}

# Scripts without spaces between words for which sacreBLEU has no word tokenizer.
CHARACTER_LANGUAGES = frozenset({"th", "lo", "km", "my", "bo", "dz"})
_TWO_LETTERS = {
    "zho": "zh", "cmn": "zh", "yue": "zh", "jpn": "ja", "kor": "ko",
    "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bod": "bo", "dzo": "dz",
}  # fmt: skip
_NEEDED_MODULE = {"ja-mecab": "MeCab", "ko-mecab": "mecab_ko"}


def tokenizer_for_language(language: str) -> str:
    """Return the name of the tokenizer: "zh", "ja-mecab", "ko-mecab", "char" or "13a".

    Japanese and Korean fall back to "char" where `sacrebleu[ja]`, `sacrebleu[ko]` are not installed; the signature of
    every score tells which was used.

    Args:
        language: a code such as "de", "zh_CN" or "zho_Hans".
    """
    code = language.replace("-", "_").split("_")[0].lower()
    code = _TWO_LETTERS.get(code, code)
    if code == "zh":
        return "zh"
    if code in ("ja", "ko"):
        tokenizer = f"{code}-mecab"
        return tokenizer if importlib.util.find_spec(_NEEDED_MODULE[tokenizer]) else "char"
    return "char" if code in CHARACTER_LANGUAGES else "13a"


@cache
def metric(name: str, target_language: str) -> BLEU | CHRF:
    """Return sacreBLEU's metric: "bleu" with the language's tokenizer, or "chrf" with word bigrams (chrF++)."""
    return BLEU(tokenize=tokenizer_for_language(target_language), force=True) if name == "bleu" else CHRF(word_order=2)


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
