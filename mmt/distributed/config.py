"""The options of training on many processes."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass


@dataclass
class ParallelConfig(FairseqDataclass):
    """How a model is spread over the processes: data x expert x tensor parallelism, and ZeRO."""

    expert_parallel_size: int = field(
        default=1,
        metadata={"help": "spread the experts of each layer over N processes; tokens travel to their experts"},
    )
    expert_parallel_node_size: int = field(
        default=1,
        metadata={
            "help": "how many of these N processes are on one node: tokens travel within nodes first, then in fewer "
            "and larger messages between them; default: 1, every process sends to every other"
        },
    )
    expert_parallel_chunks: int = field(
        default=1,
        metadata={
            "help": "compute the experts of a process in so many parts, each while the tokens of the next one travel"
        },
    )
    tensor_parallel_size: int = field(
        default=1,
        metadata={
            "help": "split attention, feed-forward networks, experts and output projection over N processes, which "
            "work on the same batch"
        },
    )
    zero: int = field(
        default=0,
        metadata={
            "help": "what data-parallel processes share out among themselves instead of each holding all of it: 0 "
            "nothing, 1 the optimizer's state, 2 also the gradients, 3 also the parameters"
        },
    )
    data_parallel_replicas: Optional[int] = field(
        default=None,
        metadata={
            "help": "share out, with --zero, within N groups of processes, not among all of them: less communication "
            "between nodes, more memory; default: 1"
        },
    )
