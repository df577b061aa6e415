"""Outliers of the length ratio: the tails of each language's own distribution, not one ratio for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

MAX_DEVIATIONS = 3.2
MIN_PAIRS = 200
# For normally distributed values, median absolute deviation x 1.4826 is the standard deviation.
_MAD_TO_SD = 1.4826
# Below this the ratio of a short label is noise, not a fault.
_MIN_SPREAD = 0.15


def log_ratio(source: str, target: str) -> float:
    """Logarithm of target length over source length, in characters; smoothed, because short labels vary most."""
    return math.log((len(target) + 5) / (len(source) + 5))


def ratio_limits(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Lowest and highest log-ratio to keep; None where there are too few pairs to tell."""
    if len(ratios) < MIN_PAIRS:
        return None
    middle = median(ratios)
    spread = max(_MIN_SPREAD, _MAD_TO_SD * median(abs(r - middle) for r in ratios))
    return middle - MAX_DEVIATIONS * spread, middle + MAX_DEVIATIONS * spread
