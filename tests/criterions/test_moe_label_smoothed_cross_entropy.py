"""The criterion: fairseq's loss plus weighted routing losses."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics

from mmt.criterions import moe_label_smoothed_cross_entropy
from mmt.criterions.moe_label_smoothed_cross_entropy import MoELabelSmoothedCrossEntropyCriterion
from mmt.criterions.routing_losses import routing_losses
from mmt.errors import UserError
from mmt.models.moe_sublayer import names_of_moe_layers
from tests.models.tiny import EOS, PAD, batch, tiny_model, tiny_task

TASK = SimpleNamespace(target_dictionary=tiny_task().target_dictionary)


def sample() -> dict[str, Any]:
    """Two sentences of different length, 3 and 4 target tokens with end-of-sentence."""
    net_input = batch([[5, 6, 7, 8], [9, 10]], [[11, 12], [14, 15, 16]])
    target = torch.tensor([[11, 12, EOS, PAD], [14, 15, 16, EOS]])
    return {"net_input": net_input, "target": target, "ntokens": 7, "nsentences": 2}


def criterion(**options: Any) -> MoELabelSmoothedCrossEntropyCriterion:
    return MoELabelSmoothedCrossEntropyCriterion(TASK, **{"sentence_avg": False, "label_smoothing": 0.1, **options})


def moe(routing: str = "token") -> Any:
    return tiny_model(moe_experts=4, encoder_routing=routing, decoder_routing=routing).train()


@pytest.mark.parametrize("ignore_prefix_size", [0, 1])
def test_the_loss_of_a_dense_model_is_fairseqs(ignore_prefix_size: int) -> None:
    model = tiny_model(moe_experts=0).train()
    net_input = {key: value for key, value in sample()["net_input"].items() if not key.endswith("lang_id")}
    theirs = LabelSmoothedCrossEntropyCriterion(TASK, False, 0.1, ignore_prefix_size)
    expected, size, log = theirs(model, {**sample(), "net_input": net_input})

    # Fused, and with the logits that the accuracy needs.
    for report_accuracy in (False, True):
        ours = criterion(ignore_prefix_size=ignore_prefix_size, report_accuracy=report_accuracy)
        loss, our_size, our_log = ours(model, sample())
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(our_log["nll_loss"], log["nll_loss"])
        assert our_size == size == 7
        assert ("n_correct" in our_log) == report_accuracy


def test_routing_losses_weigh_as_much_as_the_sample_is_large() -> None:
    model = moe()
    statistics = model(**sample()["net_input"])[1]["routing_statistics"]
    balance, z = routing_losses(statistics, statistics)
    plain, _, _ = criterion(moe_balance_loss_weight=0.0)(model, sample())
    for options, routing_loss in (
        ({"moe_balance_loss_weight": 0.5}, 0.5 * balance),
        ({"moe_balance_loss_weight": 0.0, "moe_z_loss_weight": 0.1}, 0.1 * z),
        ({}, 0.01 * balance),
    ):
        for sentence_avg, size in ((False, 7), (True, 2)):
            loss, sample_size, log = criterion(sentence_avg=sentence_avg, **options)(model, sample())
            torch.testing.assert_close(loss, plain + size * routing_loss)
            assert sample_size == size
            torch.testing.assert_close(log["loss"], plain.detach())  # the logs show the translation loss alone


def test_task_routers_are_balanced_only_on_request() -> None:
    model = moe("task")
    plain, _, _ = criterion(moe_balance_loss_weight=0.0)(model, sample())
    torch.testing.assert_close(criterion()(model, sample())[0], plain)
    assert criterion(moe_balance_loss_weight=0.5)(model, sample())[0] > plain + 1


def test_evaluation_and_dummy_batches_have_no_routing_losses() -> None:
    heavy, plain = criterion(moe_balance_loss_weight=100.0), criterion(moe_balance_loss_weight=0.0)
    model = moe()
    torch.testing.assert_close(heavy(model, {**sample(), "is_dummy": True})[0], plain(model, sample())[0])
    model.eval()
    torch.testing.assert_close(heavy(model, sample())[0], plain(model, sample())[0])


def test_in_float16_no_gradient_is_formed_before_the_loss_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(moe_experts=0).train()
    expected, _, _ = criterion()(model, sample())
    monkeypatch.setattr(moe_label_smoothed_cross_entropy, "project_and_score", None)  # forms it in the forward pass
    with torch.autocast("cpu", dtype=torch.float16):
        loss, _, _ = criterion()(model, sample())
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("report_accuracy", [False, True])
def test_what_a_validation_logs_is_named_beforehand(experts: int, report_accuracy: bool) -> None:
    model, ours = tiny_model(moe_experts=experts).eval(), criterion(report_accuracy=report_accuracy)
    with metrics.aggregate(new_root=True) as aggregator:
        ours.reduce_metrics([ours(model, sample())[2]])
        logged = aggregator.get_smoothed_values()
    assert sorted(logged) == sorted(ours.metrics_of_validation(names_of_moe_layers(model)))


@pytest.mark.parametrize("option", ["moe_balance_loss_weight", "moe_z_loss_weight"])
@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_negative_weights_are_refused(option: str, weight: float) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} must be 0 or more, but is {weight}"):
        criterion(**{option: weight})
