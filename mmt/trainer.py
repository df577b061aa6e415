"""The trainer that ``fairseq-train --user-dir mmt`` runs: fairseq's own, with bfloat16 autocast, exact gradient
accumulation, and models that are spread over many processes.
"""

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fairseq.trainer
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from mmt.beginning import how_it_begins, refuse_to_forget
from mmt.criterions.moe_label_smoothed_cross_entropy import MoELabelSmoothedCrossEntropyCriterion
from mmt.distributed.background import do_or_put_off
from mmt.distributed.checkpoint import LAST, newest_first, reading_with, suffixed
from mmt.distributed.saving_trainer import SavingTrainer
from mmt.errors import CheckpointDamaged, UserError, as_typed, what_does_not_fit
from mmt.fairseq_options import refuse_dead_flags, refuse_two_precisions, switched_off
from mmt.models.moe_sublayer import names_of_moe_layers
from mmt.models.moe_transformer import MoETransformerModel
from mmt.modules.collectives import own_part
from mmt.modules.moe_layer import moe_layers
from mmt.resuming import go_on_with_best_score, share_data_anew, warn_of_other_batches, what_to_remember
from mmt.run_folder import claim, keep_vocabulary
from mmt.tasks.multilingual_moe_translation import MultilingualMoETranslationTask

logger = logging.getLogger(__name__)

# Processes that load data (--num-workers) are copies of this one. What the last epoch left behind, its loader among it,
# is not theirs to clean up: torch shows a traceback when they try ("can only test a child process").
os.register_at_fork(after_in_child=gc.freeze)


class MoETrainer(SavingTrainer):
    """fairseq's Trainer for MoE translation.

    With our task, which has its part in them (with another one fairseq's ways stay):

    * ``--bf16`` means bfloat16 autocast around float32 parameters, on CPU and CUDA: the optimizer updates the
      parameters themselves, so there is neither a second copy of them nor a bfloat16 residual stream.
      ``--memory-efficient-bf16`` keeps fairseq's meaning (bfloat16 parameters).
    * ``--amp`` is float16 autocast, as in fairseq.
    * With ``--update-freq N`` a dummy batch weighs nothing, wherever in the group it falls.
    * A run keeps its vocabulary beside its checkpoints.

    With any task:

    * A gradient that is not finite ends the training in words.
    * A training goes on with another number of processes where it stopped in the data.
    * ``--patience`` counts on where a resumed training stopped counting; the best score of another metric is forgotten.
    * A training whose last checkpoint is damaged says so, and goes on from the newest one that is not.
    * A training that has all of its ``--max-update`` ends at once, and leaves its checkpoints as they are.
    * One training at a time writes to a folder.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None) -> None:
        refuse_dead_flags(cfg.distributed_training)
        refuse_two_precisions(cfg.common)
        self._has_our_task = isinstance(task, MultilingualMoETranslationTask)
        if self._has_our_task:
            task.check_checkpoint_metric(
                cfg.checkpoint.best_checkpoint_metric,
                _metrics_of_validation(criterion, model),
                maximize=cfg.checkpoint.maximize_best_checkpoint_metric,
            )
        self._beginning = how_it_begins(cfg.checkpoint)
        if moe_layers(model) and not isinstance(criterion, MoELabelSmoothedCrossEntropyCriterion):
            logger.warning(
                "--criterion %s trains without a balance loss, and logs nothing of the experts: use "
                "moe_label_smoothed_cross_entropy",
                cfg.criterion._name,
            )
        self.autocasts = bool(self._has_our_task and cfg.common.bf16 and not cfg.common.memory_efficient_bf16)
        if self.autocasts:
            task.autocast_dtype = torch.bfloat16
        elif self._has_our_task and cfg.common.amp:
            task.autocast_dtype = torch.float16
        with self._without_fairseqs_bf16(cfg):
            super().__init__(cfg, task, model, criterion, quantizer)
        if not cfg.checkpoint.no_save and self.is_data_parallel_master:
            claim(Path(cfg.checkpoint.save_dir))

    def _without_fairseqs_bf16(self, cfg: Any) -> contextlib.AbstractContextManager[None]:
        """Keep fairseq from casting the model, or wrapping the optimizer, while we autocast."""
        return switched_off(cfg.common, "bf16") if self.autocasts else contextlib.nullcontext()

    def _build_optimizer(self) -> None:
        for option in ("memory_efficient_bf16", "memory_efficient_fp16"):
            if self.cfg.common[option] and self.cfg.optimizer._name == "fused_adam":  # its moments would have 16 bits
                raise UserError(f"{as_typed(option)} does not work with --optimizer fused_adam: use adam")
        with self._without_fairseqs_bf16(self.cfg):
            super()._build_optimizer()

    def _build_ema(self) -> None:
        super()._build_ema()
        if self._ema is not None:  # fairseq would average whole numbers too, which torch refuses
            state = self._ema.get_model().state_dict()
            self._ema.skip_keys |= {key for key, tensor in state.items() if not tensor.is_floating_point()}

    def _fp_convert_sample(self, sample: Any) -> Any:
        return sample if self.autocasts else super()._fp_convert_sample(sample)

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """Run one update on a group of micro-batches.

        fairseq sets the whole group's sample size to 0 when its *last* micro-batch is a dummy, and counts the dummy's
        tokens when it is not (a gradient 1.5 times too large with ``--update-freq 2``). Our task weighs dummies with 0;
        here they only go first.
        """
        return super().train_step(sorted(samples, key=_is_real) if self._has_our_task else samples, raise_oom)

    def clip_grad_norm(self, clip_norm: float) -> torch.Tensor:
        """Clip the gradient; end the training if it is not finite, which every process sees in the norm.

        fairseq would go through the batch once more to look for the cause, and show a traceback.

        Raises:
            UserError: names the update, the parameters, and what to do.
        """
        norm = super().clip_grad_norm(clip_norm)
        if self.cfg.common.fp16 or self.cfg.common.amp or torch.isfinite(norm):  # float16 has a loss scale to lower
            return norm
        names = [name for name, parameter in self.model.named_parameters() if _is_not_finite(parameter.grad)]
        where = f"of {names[0]} ({len(names)} parameters in all)" if names else "on another process"
        raise UserError(
            f"update {self.get_num_updates() + 1}: the gradient {where} is not finite, its norm is {norm:g}; the last "
            "checkpoint is as it was. Try a lower --lr, more --warmup-updates, or --clip-norm"
        )

    def get_train_iterator(self, *args: Any, **kwargs: Any) -> Any:
        with _named_if_empty(self.cfg.dataset.train_subset):
            return super().get_train_iterator(*args, **kwargs)

    def get_valid_iterator(self, subset: str, *args: Any, **kwargs: Any) -> Any:
        with _named_if_empty(subset):
            return super().get_valid_iterator(subset, *args, **kwargs)

    def begin_epoch(self, epoch: int) -> None:
        # fairseq would first make one more update, and then compare.
        max_update = self.cfg.optimization.max_update
        if 0 < max_update <= self.get_num_updates():
            logger.info("training has all of its %d updates (--max-update)", max_update)
            raise SystemExit(0)
        super().begin_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        # fairseq saves the task's state, but hands only the extra state back to a training that is resumed.
        state["extra_state"]["task_state"] = state["task_state"]
        state["extra_state"]["beginning"] = self._beginning
        state["extra_state"].update(what_to_remember(self.cfg, self.data_parallel_world_size))
        return state

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        saved = super().save_checkpoint(filename, extra_state)
        if saved is not None and self.is_data_parallel_master and self._has_our_task:
            do_or_put_off(lambda: keep_vocabulary(self.task, Path(saved).parent))
        return saved

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Go on from a checkpoint, or, if the last one of this training is damaged, from the newest one that is not."""
        save_dir, suffix = Path(self.cfg.checkpoint.save_dir), self.checkpoint_suffix
        last = save_dir / suffixed(LAST, suffix)
        if Path(filename) != last:
            return self._load_checkpoint(filename, *args, **kwargs)
        damage = CheckpointDamaged(f"checkpoint {last} does not exist, though others do")
        if last.exists():
            try:
                return self._load_checkpoint(filename, *args, **kwargs)
            except CheckpointDamaged as error:
                damage = error
        others = [path for path in newest_first(save_dir, suffix) if path != last]
        if not others and not last.exists():  # a training that begins
            refuse_to_forget(save_dir, suffix)
            return self._load_checkpoint(filename, *args, **kwargs)
        for path in others:
            logger.warning("%s", damage)
            logger.warning("going on from %s instead", path)
            try:
                return self._load_checkpoint(str(path), *args, **kwargs)
            except CheckpointDamaged as error:
                damage = error
        raise damage

    def _load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        self.agree_on(Path(filename))
        try:
            with reading_with(self.read_checkpoint):
                extra_state = super().load_checkpoint(filename, *args, **kwargs)
            if extra_state is not None:
                metrics.reset_meters("valid")  # of the last validation, which may have had other directions
                if not self.cfg.checkpoint.reset_dataloader and filename != self.cfg.checkpoint.finetune_from_model:
                    warn_of_other_batches(self.cfg, extra_state)
                    share_data_anew(self.cfg, extra_state, self.data_parallel_world_size)
                self.task.load_state_dict(extra_state.get("task_state", {}))
                if not kwargs.get("reset_meters"):
                    go_on_with_best_score(self.cfg, extra_state)
                if not self._beginning and Path(filename).parent == Path(self.cfg.checkpoint.save_dir):
                    self._beginning = extra_state.get("beginning", {})  # of the run, however it is gone on with
            return extra_state
        except Exception as error:
            # fairseq replaces every error by "please ensure that the architectures match".
            cause = error.__context__
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(error, AssertionError) and "--reset-optimizer" in str(error):  # another one, or criterion
                raise UserError(f"checkpoint {filename}: {error}") from error
            if isinstance(cause, RuntimeError) and "state_dict" in str(cause):
                reason = what_does_not_fit(cause)
                raise UserError(
                    f"checkpoint {filename} does not fit the model that the options describe: {reason}"
                ) from error
            raise


def _metrics_of_validation(criterion: Any, model: Any) -> list[str] | None:
    """Name what a validation logs of the loss and the experts; None if these are somebody else's, who knows it."""
    if type(criterion) is MoELabelSmoothedCrossEntropyCriterion and type(model) is MoETransformerModel:
        return criterion.metrics_of_validation(names_of_moe_layers(model))
    return None


@contextlib.contextmanager
def _named_if_empty(split: str) -> Iterator[None]:
    """Name the data of which nothing is left, where fairseq says that "the dataset" is empty."""
    try:
        yield
    except Exception as error:
        if "The dataset is empty" not in str(error):
            raise
        raise UserError(
            f"{split} data: there is no sentence in it, or none within --max-source-positions, --max-target-positions "
            "and, to train on, --max-tokens"
        ) from error


def _is_not_finite(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and not bool(torch.isfinite(own_part(gradient)).all())


def _is_real(sample: Any) -> bool:
    return sample is not None and len(sample) > 0


def install_trainer() -> None:
    """Make fairseq's training command use ``MoETrainer``.

    ``fairseq_cli.train.main`` looks ``Trainer`` up in its own module when it runs. That module may be imported before
    the plugin (the command line), after it (a script that imports mmt first), or run as ``__main__`` (``python -m
    fairseq_cli.train``).
    """
    fairseq.trainer.Trainer = MoETrainer
    for name in ("fairseq_cli.train", "__main__"):
        module = sys.modules.get(name)
        if getattr(module, "Trainer", None) is Trainer:
            module.Trainer = MoETrainer  # type: ignore[union-attr]
