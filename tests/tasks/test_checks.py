"""Options that no training can follow, told before it begins."""

import pytest

from mmt.errors import UserError
from mmt.tasks.checks import check_best_metric

LOGGED = ["loss", "nll_loss", "ppl", "moe_entropy", "encoder.1_entropy"]
DIRECTIONS = ["en-de", "de-en"]


@pytest.mark.parametrize(
    ("name", "scored"),
    [
        *((name, False) for name in (*LOGGED, "bsz", "wps", "wpb", "num_updates")),
        *((name, True) for name in ("loss", "bleu", "chrf", "bleu_en-de", "chrf_de-en")),
    ],
)
def test_what_a_validation_logs_can_be_the_best_metric(name: str, scored: bool) -> None:
    check_best_metric(name, LOGGED, scored, DIRECTIONS)


@pytest.mark.parametrize(
    ("name", "scored", "message"),
    [
        ("losss", False, r"losss: no validation has it \(is it loss\?\); there are bsz, loss, moe_entropy, nll_loss,"),
        ("accuracy", False, "accuracy: no validation has it; there are .*, and more with .* --report-accuracy"),
        ("BLEU", False, "BLEU: no validation has it; there are bsz, loss"),
        ("BLEU", True, r"BLEU: no validation has it \(is it bleu\?\); there are bleu, bsz, chrf, loss"),
        ("bleu-en-de", True, r"bleu-en-de: no validation has it \(is it bleu_en-de\?\)"),
        ("encoder.3_entropy", False, r"encoder.3_entropy: no validation has it \(is it encoder.1_entropy\?\)"),
        ("best_loss", False, "best_loss: no validation has it"),
        ("bleu_", True, "bleu_: no validation has it"),
        ("bleu_en-fr", True, "bleu_en-fr: en-fr is not one of the directions en-de, de-en"),
        ("chrf", False, "chrf needs --eval-bleu"),
    ],
)
def test_a_best_metric_that_no_validation_has_is_refused_by_name(name: str, scored: bool, message: str) -> None:
    with pytest.raises(UserError, match=f"^--best-checkpoint-metric {message}"):
        check_best_metric(name, LOGGED, scored, DIRECTIONS)


def test_what_somebody_elses_criterion_logs_is_not_guessed() -> None:
    check_best_metric("accuracy", None, False, DIRECTIONS)
    with pytest.raises(UserError, match="needs --eval-bleu"):
        check_best_metric("bleu", None, False, DIRECTIONS)
