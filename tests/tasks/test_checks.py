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
    check_best_metric(name, LOGGED, scored, DIRECTIONS, maximize=name.startswith(("bleu", "chrf")))


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
        check_best_metric(name, LOGGED, scored, DIRECTIONS, maximize=False)


@pytest.mark.parametrize("logged", [[*LOGGED, "accuracy"], None], ids=["ours", "somebody else's"])
@pytest.mark.parametrize(
    ("name", "maximize", "message"),
    [
        *((name, False, "more is better, .* must be set") for name in ("bleu", "chrf", "chrf_en-de", "accuracy")),
        *((name, True, "less is better, .* must be left out") for name in ("loss", "nll_loss", "ppl")),
    ],
)
def test_of_a_best_metric_the_worst_is_not_kept(
    name: str, maximize: bool, message: str, logged: list[str] | None
) -> None:
    with pytest.raises(UserError, match=f"^--best-checkpoint-metric {name}: {message}"):
        check_best_metric(name, logged, True, DIRECTIONS, maximize=maximize)
    check_best_metric(name, logged, True, DIRECTIONS, maximize=not maximize)


@pytest.mark.parametrize("maximize", [False, True])
def test_which_way_is_better_of_the_other_metrics_is_for_the_user_to_say(maximize: bool) -> None:
    check_best_metric("moe_entropy", LOGGED, True, DIRECTIONS, maximize=maximize)


def test_what_somebody_elses_criterion_logs_is_not_guessed() -> None:
    check_best_metric("f1", None, False, DIRECTIONS, maximize=True)
    with pytest.raises(UserError, match="needs --eval-bleu"):
        check_best_metric("bleu", None, False, DIRECTIONS, maximize=True)
