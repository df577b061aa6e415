"""A plugin that is mmt with a fault: one process, at one update, gets what the environment says.

PLANTED_FAULT is "inf" (in the gradient of one expert) or "out of memory", PLANTED_RANK the process, PLANTED_UPDATE how
many updates come before it.
"""

import os
from typing import Any

import torch
import torch.distributed as dist

import mmt  # noqa: F401
from mmt.modules.collectives import own_part
from mmt.tasks.multilingual_moe_translation import MultilingualMoETranslationTask

FAULT = os.environ["PLANTED_FAULT"]
RANK, UPDATE = int(os.environ["PLANTED_RANK"]), int(os.environ["PLANTED_UPDATE"])
train_step = MultilingualMoETranslationTask.train_step


def train_step_with_fault(self: Any, sample: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Train as always, but for the fault."""
    is_now = dist.get_rank() == RANK and kwargs["update_num"] == UPDATE
    if is_now and FAULT == "out of memory":
        raise torch.OutOfMemoryError("out of memory (planted)")
    result = train_step(self, sample, model, *args, **kwargs)
    if is_now and FAULT == "inf":
        own_part(model.encoder.layers[0].moe.experts.weight_1.grad)[0, 0, 0] = float("inf")
    return result


MultilingualMoETranslationTask.train_step = train_step_with_fault  # type: ignore[method-assign]
