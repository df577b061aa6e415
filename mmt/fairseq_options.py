"""fairseq's options: those that cannot be, and those that fairseq must see otherwise for a while."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import open_dict

from mmt.errors import UserError

DEAD_FLAGS = {  # how it is typed, and what does the same
    ("ddp_backend", "fully_sharded"): ("--ddp-backend fully_sharded", "--zero 3"),
    ("ddp_backend", "slowmo"): ("--ddp-backend slowmo", "--ddp-backend legacy_ddp, plain data parallelism,"),
    ("zero_sharding", "os"): ("--zero-sharding os", "--zero 1"),
    ("use_sharded_state", True): ("--use-sharded-state", "--zero, which also writes sharded checkpoints,"),
    ("pipeline_model_parallel", True): ("--pipeline-model-parallel", "--tensor-parallel-size"),
}
TWO_PRECISIONS = "--bf16 is one precision, and --fp16 or --amp another: choose one (common.bf16=false in a recipe)"


def refuse_two_precisions(common: Any) -> None:
    """Refuse ``--bf16`` together with float16: fairseq takes the first for a TPU's, and ours would mix them."""
    if common.bf16 and (common.fp16 or common.amp):
        raise UserError(TWO_PRECISIONS)


def refuse_dead_flags(distributed_config: Any) -> None:
    """Refuse options that need fairscale, which is no longer maintained.

    Args:
        distributed_config: anything with fairseq's ``ddp_backend`` and ``zero_sharding`` attributes.
    """
    for (attribute, value), (flag, replacement) in DEAD_FLAGS.items():
        if getattr(distributed_config, attribute, None) == value:
            raise UserError(
                f"{flag} needs fairscale, which is no longer maintained, and would mix up the experts of different "
                f"ranks. Use {replacement} instead"
            )


@contextlib.contextmanager
def with_options(section: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Let fairseq see other ``values`` of some of its options meanwhile."""
    chosen = {option: section[option] for option in values}
    with open_dict(section):
        section.update(values)
        try:
            yield
        finally:
            section.update(chosen)


def switched_off(section: Any, option: str) -> contextlib.AbstractContextManager[None]:
    """Hide from fairseq meanwhile that an option of its settings is on, since mmt does itself what it asks for."""
    return with_options(section, {option: False})
