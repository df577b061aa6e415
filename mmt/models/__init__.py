"""The MoE transformer and its named architectures; importing this package registers them."""

from mmt.models import architectures

__all__ = ["architectures"]
