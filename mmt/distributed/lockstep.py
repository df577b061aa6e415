"""Beam search on several processes that need each other in every step of the decoder.

Each process translates sentences of its own, which end after different numbers of steps. But where experts or
parameters are spread over the processes, every one of them has to take part in every step of the others.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

T = TypeVar("T")


class Lockstep:
    """Keeps the processes of a group together while they translate.

    Args:
        model: its decoder is called once per step.
        group: the processes.
    """

    def __init__(self, model: Any, group: ProcessGroup) -> None:
        self.model = model
        self.group = group

    def __call__(self, translate: Callable[[], T]) -> T:
        """Call ``translate``, which translates one batch (``encoder`` once, ``decoder`` in each step).

        Every process has to. At the end it goes on with steps that lead nowhere until all others are done.
        """
        # As part of a call of the whole model, for which parameters are put together.
        return self.model.run(lambda: self._translate(translate))

    def _translate(self, translate: Callable[[], T]) -> T:
        decoder = self.model.decoder
        decode = decoder.forward
        last: dict[str, Any] = {}

        def decode_with_others(tokens: Tensor, encoder_out: Any = None, **options: Any) -> Any:
            last.update(tokens=tokens, encoder_out=encoder_out)
            self._others_go_on(is_going_on=True, device=tokens.device)
            return decode(tokens, encoder_out=encoder_out, **options)

        decoder.forward = decode_with_others
        try:
            translation = translate()
        finally:
            del decoder.forward
        tokens = last["tokens"][:1, :1]
        encoder_out = self.model.encoder.reorder_encoder_out(last["encoder_out"], tokens.new_zeros(1))
        while self._others_go_on(is_going_on=False, device=tokens.device):
            decode(tokens, encoder_out=encoder_out)
        return translation

    def _others_go_on(self, *, is_going_on: bool, device: torch.device) -> bool:
        number = torch.tensor(int(is_going_on), device=device)
        dist.all_reduce(number, group=self.group)
        return bool(number)
