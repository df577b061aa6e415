"""Puts our attention and dropout in the place of fairseq's in a finished model."""

from fairseq import modules
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import nn

from mmt.models.attention import MultiheadAttention
from mmt.models.dropout import Dropout

_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    modules.MultiheadAttention: MultiheadAttention,
    FairseqDropout: Dropout,
}


def use_faster_modules(model: nn.Module) -> None:
    """Change fairseq's modules in ``model`` into our subclasses of them, in place.

    The subclasses have no state of their own, so that parameters, their names and the random numbers that initialised
    them stay what fairseq made, and fairseq's layers need no copies of the methods that build them.
    """
    for module in model.modules():
        faster = _FASTER.get(type(module))
        if faster is not None:
            module.__class__ = faster
