"""Training losses; importing this package registers them."""

from mmt.criterions import moe_label_smoothed_cross_entropy

__all__ = ["moe_label_smoothed_cross_entropy"]
