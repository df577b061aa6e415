"""``--optimizer fused_adam``: Adam in one pass over memory, on CPU and CUDA, with the options of fairseq's ``adam``."""

from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdamConfig

# fairseq keeps learning rates as lists and betas as strings such as "(0.9, 0.98)".
from omegaconf import OmegaConf


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FusedAdam(FairseqOptimizer):
    """AdamW of torch with its fused kernel.

    It computes what fairseq's ``adam`` computes (weight decay is decoupled in both), except that ``--adam-eps`` is
    added after the bias correction of the second moment, as in Kingma and Ba 2015, algorithm 1.
    """

    def __init__(self, cfg: FairseqAdamConfig, params: list[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The arguments of ``torch.optim.AdamW``; they also override those of a loaded checkpoint."""
        return {
            "lr": float(
                self.cfg.lr[0] if OmegaConf.is_list(self.cfg.lr) or isinstance(self.cfg.lr, list) else self.cfg.lr
            ),
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
        ValueError: if ``text`` does not hold two numbers in [0, 1).
    """
    parts = str(text).strip("()[] ").split(",") if isinstance(text, str) else list(text)
    betas = tuple(float(part) for part in parts)
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"--adam-betas must be two numbers in [0, 1) such as '(0.9, 0.98)', but is {text!r}")
    return betas[0], betas[1]
