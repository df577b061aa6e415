"""Optimizers that fairseq lacks; importing this package registers them."""

from mmt.optim import fused_adam

__all__ = ["fused_adam"]
