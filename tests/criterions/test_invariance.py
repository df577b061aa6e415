"""The losses and the metrics depend on the sentences alone: not on their padding, their order, or how they are split
into batches.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from torch.nn import functional as F

from mmt.criterions.moe_label_smoothed_cross_entropy import MoELabelSmoothedCrossEntropyCriterion
from tests.models.tiny import EOS, PAD, batch, tiny_model, tiny_task

TASK = SimpleNamespace(target_dictionary=tiny_task().target_dictionary)
ROUTINGS = ["token", "sentence", "task"]

Sentence = tuple[list[int], list[int], int, int]
# Source, target, source language and target language.
SENTENCES: list[Sentence] = [
    ([5, 6, 7, 8], [11, 12], 0, 1),
    ([9, 10], [14, 15, 16], 1, 0),
    ([6, 9, 12], [13], 0, 2),
    ([20, 5], [7, 8, 9, 10, 21], 2, 0),
]


def collate(sentences: Sequence[Sentence], more_padding: int = 0) -> dict[str, Any]:
    """Make a batch with ``more_padding`` columns more than its longest sentences need."""
    sources, targets, source_languages, target_languages = zip(*sentences)
    net_input = batch(list(sources), list(targets))
    net_input["src_tokens"] = F.pad(net_input["src_tokens"], (more_padding, 0), value=PAD)
    net_input["prev_output_tokens"] = F.pad(net_input["prev_output_tokens"], (0, more_padding), value=PAD)
    net_input["src_lang_id"] = torch.tensor(source_languages)[:, None]
    net_input["tgt_lang_id"] = torch.tensor(target_languages)[:, None]
    length = net_input["prev_output_tokens"].size(1)
    target = torch.tensor([words + [EOS] + [PAD] * (length - len(words) - 1) for words in targets])
    num_tokens = sum(len(words) + 1 for words in targets)
    return {"net_input": net_input, "target": target, "ntokens": num_tokens, "nsentences": len(sentences)}


def batches_of(change: str) -> list[dict[str, Any]]:
    """Collate the same sentences in another way."""
    if change == "padding":
        return [collate(SENTENCES, more_padding=7)]
    if change == "order":
        return [collate([SENTENCES[i] for i in (2, 0, 3, 1)])]
    return [collate(SENTENCES[:1]), collate(SENTENCES[1:])]


def moe(routing: str) -> Any:
    return tiny_model(moe_experts=4, moe_freq=1, encoder_routing=routing, decoder_routing=routing)


def criterion(report_accuracy: bool) -> MoELabelSmoothedCrossEntropyCriterion:
    weights = {"moe_balance_loss_weight": 0.5, "moe_z_loss_weight": 0.1}
    return MoELabelSmoothedCrossEntropyCriterion(TASK, False, 0.1, report_accuracy=report_accuracy, **weights)


def measure(
    model: Any, batches: list[dict[str, Any]], report_accuracy: bool
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Return the sums over ``batches``, the sum of their routing losses, and the metrics of all of them."""
    measured = criterion(report_accuracy)
    logs, routing_loss = [], 0.0
    for sample in batches:
        loss, _, log = measured(model, sample)
        logs.append(log)
        routing_loss += float(loss) - float(log["loss"])
    sums = {key: sum(float(log[key]) for log in logs) for key in ("loss", "nll_loss", "ntokens", "nsentences")}
    with metrics.aggregate(new_root=True) as logged:
        # fairseq adds up the micro-batches of an update before it asks, but asks after each batch of a validation.
        for of_one in [logs] if model.training else [[log] for log in logs]:
            measured.reduce_metrics(of_one)
    values = {key: float(value) for key, value in logged.get_smoothed_values().items()}
    # fairseq's own are means over batches of the numbers of words, from which it computes the accuracy.
    return sums, routing_loss, {key: value for key, value in values.items() if key not in ("total", "n_correct")}


def nearly(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("report_accuracy", [False, True], ids=["fused", "unfused"])
@pytest.mark.parametrize("change", ["padding", "order", "split"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_same_sentences_have_the_same_losses_and_metrics(
    routing: str, change: str, report_accuracy: bool, is_training: bool
) -> None:
    model = moe(routing).train(is_training)
    with torch.set_grad_enabled(is_training):
        expected_sums, expected_routing_loss, expected_metrics = measure(model, [collate(SENTENCES)], report_accuracy)
        sums, routing_loss, changed_metrics = measure(model, batches_of(change), report_accuracy)
    assert sums == nearly(expected_sums)
    assert changed_metrics == pytest.approx(expected_metrics, abs=2e-3)  # they are rounded
    assert {"loss", "nll_loss", "moe_imbalance", "encoder.1_entropy", "decoder.1_unused"} <= expected_metrics.keys()
    assert ("accuracy" in expected_metrics) == report_accuracy
    assert (expected_routing_loss > 1) == is_training
    if change != "split":  # they are means over a micro-batch
        assert routing_loss == nearly(expected_routing_loss)


@pytest.mark.parametrize("report_accuracy", [False, True], ids=["fused", "unfused"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_padding_and_order_change_no_gradient(routing: str, report_accuracy: bool) -> None:
    gradients = []
    for (sample,) in ([collate(SENTENCES)], batches_of("padding"), batches_of("order")):
        model = moe(routing).train()
        criterion(report_accuracy)(model, sample)[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("router" in name for name in gradients[0])
    for changed in gradients[1:]:
        assert changed.keys() == gradients[0].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(changed[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
