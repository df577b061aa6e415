"""``--criterion moe_label_smoothed_cross_entropy``: label-smoothed cross-entropy, routing losses and expert metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from mmt.criterions.fused_cross_entropy import project_and_score
from mmt.criterions.routing_losses import (
    IS_TRAINING,
    add_over_ranks,
    log_routing_metrics,
    routing_losses,
    routing_metrics,
    routing_sums,
)
from mmt.errors import UserError
from mmt.modules.collectives import own_part
from mmt.modules.precision import compute_dtype
from mmt.modules.reused_memory import ReusedMemory
from mmt.modules.vocabulary_parallel import SplitProjection


@dataclass
class MoELabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of the criterion, added to those of fairseq's ``label_smoothed_cross_entropy``."""

    moe_balance_loss_weight: Optional[float] = field(
        default=None,
        metadata={
            "help": "weight of the balance loss, which is 1.0 per MoE layer at perfect balance. Not set: 0.01 "
            "for token and sentence routing, 0 for task routing"
        },
    )
    moe_z_loss_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the router z-loss (ST-MoE): mean squared log-sum-exp of the routers' logits; "
            "0.001 is usual"
        },
    )


DEFAULT_BALANCE_LOSS_WEIGHT = 0.01


@register_criterion("moe_label_smoothed_cross_entropy", dataclass=MoELabelSmoothedCrossEntropyConfig)
class MoELabelSmoothedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """``loss = cross-entropy + sample_size * (balance weight * balance loss + z weight * z-loss)``.

    Routing losses are means over the real tokens of the micro-batch on all ranks together and over the MoE layers, so
    they depend neither on the number of ranks nor on padding. A dense model has none of them and passes through
    unchanged.
    """

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
        moe_balance_loss_weight: float | None = None,
        moe_z_loss_weight: float = 0.0,
    ) -> None:
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        for option, weight in (
            ("--moe-balance-loss-weight", moe_balance_loss_weight),
            ("--moe-z-loss-weight", moe_z_loss_weight),
        ):
            if weight is not None and not weight >= 0:  # written so that nan is refused too
                raise UserError(f"{option} must be 0 or more, but is {weight}")
        self.balance_loss_weight = moe_balance_loss_weight
        self.z_loss_weight = moe_z_loss_weight
        self._logits_memory = ReusedMemory()
        # The processes that work on different batches; set by the trainer.
        self.data_group: ProcessGroup | None = None

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss summed over the batch, the sample size that it is divided by, and what to log.

        A batch with ``sample["is_dummy"]`` has no part in the routing losses of the other ranks.
        """
        use_fused = reduce and not self.report_accuracy and _can_fuse(model)
        net_output = model(**sample["net_input"], features_only=True) if use_fused else model(**sample["net_input"])
        if use_fused:
            loss, nll_loss = self._fused_loss(model, net_output[0], sample)
        else:
            loss, nll_loss = self.compute_loss(model, net_output, sample, reduce=reduce)
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logging_output: dict[str, Any] = {
            "loss": loss.detach(),
            "nll_loss": nll_loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            n_correct, total = self.compute_accuracy(model, net_output, sample)
            logging_output.update(n_correct=n_correct.item(), total=total.item())
        statistics = net_output[1].get("routing_statistics") or {}
        if statistics:
            logging_output.update({**routing_sums(statistics), IS_TRAINING: int(model.training)})
        if statistics and model.training:
            real = 0.0 if sample.get("is_dummy") else 1.0
            layers = net_output[1]["balanced_layers"] if self.balance_loss_weight is None else statistics.keys()
            weight = DEFAULT_BALANCE_LOSS_WEIGHT if self.balance_loss_weight is None else self.balance_loss_weight
            if (weight > 0 and layers) or self.z_loss_weight > 0:
                total_size = add_over_ranks(torch.tensor(real * sample_size, device=loss.device), self.data_group)
                balance, z = routing_losses(statistics, layers, weight=real, group=self.data_group)
                loss = loss + total_size * (weight * balance + self.z_loss_weight * z)
        return loss, sample_size, logging_output

    def _fused_loss(self, model: Any, features_BSD: Tensor, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        target_BS = model.get_targets(sample, None)[:, self.ignore_prefix_size :]
        is_real_BS = target_BS.ne(self.padding_idx)
        features_ND = features_BSD[:, self.ignore_prefix_size :][is_real_BS]
        projection = model.decoder.output_projection
        weight, split = projection.weight, None
        if isinstance(projection, SplitProjection):
            weight, split = own_part(weight), projection.split
        return project_and_score(features_ND, weight, target_BS[is_real_BS], self.eps, split, self._logits_memory)

    def metrics_of_validation(self, moe_layers: Sequence[str]) -> list[str]:
        """Name what a validation logs of the loss, and of MoE layers with these names."""
        accuracy = ["accuracy", "n_correct", "total"] if self.report_accuracy else []
        return ["loss", "nll_loss", "ppl", *accuracy, *routing_metrics(moe_layers)]

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log fairseq's metrics of the loss, and those of the experts."""
        super().reduce_metrics(logging_outputs)
        log_routing_metrics(logging_outputs)


def _can_fuse(model: Any) -> bool:
    projection = getattr(model.decoder, "output_projection", None)
    # In float16 the fused gradient, formed before the loss is scaled, would be rounded to zero.
    return isinstance(projection, nn.Linear) and compute_dtype(projection.weight) != torch.float16
