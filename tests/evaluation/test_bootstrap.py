"""Paired bootstrap: the same draws as sacreBLEU's, intervals, macro averages."""

import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from mmt.evaluation.bootstrap import PairedSamples, differences, mean_of, paired_samples
from mmt.sacrebleu_metrics import METRICS

WORDS = "open close the window file print page new old save name list of text and help".split()


def corrupted(references: list[str], share: float, seed: int) -> list[str]:
    """Replace a share of the words."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else word for word in line.split()) for line in references
    ]


REFERENCES = [" ".join(random.Random(i).choices(WORDS, k=3 + i % 9)) for i in range(120)]
GOOD, BAD = corrupted(REFERENCES, 0.2, seed=1), corrupted(REFERENCES, 0.5, seed=2)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_and_draws_are_those_of_sacrebleu(metric: str) -> None:
    _, theirs = PairedTest(
        [("Baseline", BAD), ("System", GOOD)],
        {"metric": BLEU() if metric == "bleu" else CHRF(word_order=2)},
        [REFERENCES],
        test_type="bs",
        n_samples=200,
    )()
    baseline, system = next(results for name, results in theirs.items() if name != "System")

    ours = paired_samples(metric, BAD, GOOD, REFERENCES, "de", num_samples=200)

    assert (ours.score_a, ours.score_b) == pytest.approx((baseline.score, system.score))
    for samples, expected in ((ours.samples_a, baseline), (ours.samples_b, system)):
        # sacreBLEU adds in float32. Its interval leaves out 200 // 40 = 5 draws at each end.
        assert samples.mean() == pytest.approx(expected.mean, rel=1e-4)
        ordered = np.sort(samples)
        assert (ordered[-6] - ordered[5]) / 2 == pytest.approx(expected.ci, rel=1e-4)
    assert ours.difference().p == pytest.approx(system.p_value) == pytest.approx(1 / 201)


@pytest.mark.parametrize("metric", METRICS)
def test_a_better_system_is_told_from_a_worse_one(metric: str) -> None:
    difference = paired_samples(metric, BAD, GOOD, REFERENCES, "de", num_samples=200).difference()

    assert 0 < difference.low < difference.delta < difference.high
    assert difference.p < 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_systems_that_are_equally_good_are_not_told_apart(metric: str) -> None:
    other = corrupted(REFERENCES, 0.2, seed=6)

    difference = paired_samples(metric, GOOD, other, REFERENCES, "de", num_samples=200).difference()

    assert difference.low < 0 < difference.high
    assert difference.p > 0.05


def test_a_system_does_not_differ_from_itself() -> None:
    difference = paired_samples("bleu", GOOD, GOOD, REFERENCES, "de", num_samples=50).difference()

    assert (difference.delta, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_swapping_the_systems_turns_the_difference_around() -> None:
    forwards = paired_samples("chrf", BAD, GOOD, REFERENCES, "de", num_samples=100).difference()
    backwards = paired_samples("chrf", GOOD, BAD, REFERENCES, "de", num_samples=100).difference()

    assert (backwards.delta, backwards.low, backwards.high) == pytest.approx(
        (-forwards.delta, -forwards.high, -forwards.low)
    )


def test_a_macro_average_is_taken_draw_by_draw() -> None:
    # A gains in draw 1 what the other direction loses: the average never moves, although each direction does.
    up = PairedSamples(10.0, 11.0, np.array([10.0, 10.0, 10.0]), np.array([11.0, 13.0, 9.0]))
    down = PairedSamples(20.0, 21.0, np.array([20.0, 20.0, 20.0]), np.array([21.0, 19.0, 23.0]))

    assert mean_of([up, down]).difference().delta == 1.0
    found = differences({"en-de": up, "en-ru": down}, {"all": ["en-de", "en-ru"]})
    assert (found["all"].low, found["all"].high) == (1.0, 1.0)
    assert found["en-de"].low < 0 < found["en-ru"].high


def test_directions_with_as_many_segments_share_their_draws() -> None:
    first = paired_samples("chrf", BAD, GOOD, REFERENCES, "de", num_samples=50)
    second = paired_samples("chrf", BAD, GOOD, REFERENCES, "ru", num_samples=50)

    np.testing.assert_array_equal(first.samples_b, second.samples_b)
