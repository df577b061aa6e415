"""``--optimizer fused_adam``: Adam in one pass over memory, on CPU and CUDA, with the options of fairseq's ``adam``."""

from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdamConfig
from omegaconf import OmegaConf

from mmt.errors import UserError, as_typed


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FusedAdam(FairseqOptimizer):
    """AdamW of torch with its fused kernel.

    It computes what fairseq's ``adam`` computes (weight decay is decoupled in both), except that ``--adam-eps`` is
    added after the bias correction of the second moment, as in Kingma and Ba 2015, algorithm 1.
    """

    def __init__(self, cfg: FairseqAdamConfig, params: list[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        for option in ("use_old_adam", "fp16_adam_stats"):
            if getattr(cfg, option, False):
                raise UserError(f"{as_typed(option)} does not work with --optimizer fused_adam: use adam")
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The arguments of ``torch.optim.AdamW``.

        A training that goes on takes all but the learning rate from its checkpoint, as with fairseq's ``adam``;
        ``--optimizer-overrides`` changes them.
        """
        lr = self.cfg.lr
        return {
            "lr": float(lr[0] if OmegaConf.is_list(lr) or isinstance(lr, list) else lr),  # fairseq's are lists
            "betas": parse_betas(self.cfg.adam_betas),
            "eps": float(self.cfg.adam_eps),
            "weight_decay": float(self.cfg.weight_decay),
        }

    @property
    def supports_flat_params(self) -> bool:
        return True


def parse_betas(text: Any) -> tuple[float, float]:
    """Turn "(0.9, 0.98)", "0.9,0.98" or a pair of numbers into two floats.

    Raises:
        UserError: if ``text`` does not hold two numbers in [0, 1).
    """
    parts = text.strip("()[] ").split(",") if isinstance(text, str) else list(text)
    try:
        first, second = (float(part) for part in parts)
    except ValueError:  # not numbers, or not two
        first = second = -1.0
    if not (0.0 <= first < 1.0 and 0.0 <= second < 1.0):
        raise UserError(f"--adam-betas must be two numbers in [0, 1) such as '(0.9, 0.98)', but is {text!r}")
    return first, second
