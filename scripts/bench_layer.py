#!/usr/bin/env python3
"""Speed of the MoE layer, forward and backward, against a dense network of equal active FLOPs and against other MoE layers, in one run.

    python scripts/bench_layer.py [--experts 8,32,128] [--tokens 512,4096] [--dtypes float32,bfloat16]

Every system gets the same tokens and the same number of experts per token. fairscale's Top2Gate always takes two, Hugging Face's NLLB-MoE too, so they are compared with mmt at top-2; DeepSpeed at
top-1. fairscale and DeepSpeed run with their own default capacities, so they drop tokens and mmt does not. The figures are medians of interleaved repetitions; a ratio above 1 means that mmt is faster.
The rivals are optional:

    pip install --no-build-isolation fairscale==0.4.13 deepspeed transformers==4.57.1
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mmt.modules.balance import balance_loss  # noqa: E402
from mmt.modules.dispatch import DroplessDispatch  # noqa: E402
from mmt.modules.experts import Experts  # noqa: E402
from mmt.modules.moe_layer import MoELayer  # noqa: E402
from mmt.modules.router import TokenRouter  # noqa: E402
from mmt.modules.routing import TokenContext  # noqa: E402

System = Callable[[Tensor], Tensor]  # (T, D) -> scalar loss


class Dense(nn.Module):
    """The dense feed-forward network that a token of a top-1 layer passes through."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x_TD)))


def dense(dim: int, ffn_dim: int, experts: int, top_k: int) -> tuple[nn.Module, System]:
    network = Dense(dim, top_k * ffn_dim)
    return network, lambda x: network(x).sum()


def mmt(dim: int, ffn_dim: int, experts: int, top_k: int) -> tuple[nn.Module, System]:
    layer = MoELayer(TokenRouter(dim, experts, top_k), DroplessDispatch(), Experts(experts, dim, ffn_dim))

    def run(x: Tensor) -> Tensor:
        y, routing = layer(x, TokenContext(None, torch.zeros(x.size(0), dtype=torch.long), 1))
        return y.sum() + balance_loss(routing)

    return layer, run


def fairscale(dim: int, ffn_dim: int, experts: int, top_k: int) -> tuple[nn.Module, System]:
    from fairscale.nn.moe import MOELayer, Top2Gate

    layer = MOELayer(Top2Gate(dim, experts), nn.ModuleList(Dense(dim, ffn_dim) for _ in range(experts)))
    return layer, lambda x: layer(x[:, None]).sum() + layer.l_aux


def deepspeed(dim: int, ffn_dim: int, experts: int, top_k: int) -> tuple[nn.Module, System]:
    from deepspeed.moe.experts import Experts as DeepSpeedExperts
    from deepspeed.moe.sharded_moe import MOELayer, TopKGate

    gate = TopKGate(dim, experts, k=top_k)
    layer = MOELayer(gate, DeepSpeedExperts(Dense(dim, ffn_dim), experts), "bench", 1, experts)
    layer._set_ep_group(dist.group.WORLD)
    return layer, lambda x: layer(x[None], None).sum() + layer.l_aux


def huggingface(dim: int, ffn_dim: int, experts: int, top_k: int) -> tuple[nn.Module, System]:
    from transformers import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP

    config = NllbMoeConfig(d_model=dim, num_experts=experts, router_dtype="float32", moe_token_dropout=0.0, activation_function="relu")
    layer = NllbMoeSparseMLP(config, ffn_dim)

    def run(x: Tensor) -> Tensor:
        y, (logits, _) = layer(x[None], padding_mask=None)
        return y.sum() + 0.0 * logits.sum()

    return layer, run


RIVALS: dict[str, tuple[Callable[..., tuple[nn.Module, System]], int]] = {
    "deepspeed": (deepspeed, 1),
    "fairscale": (fairscale, 2),
    "huggingface": (huggingface, 2),
}


def measure(systems: dict[str, System], modules: dict[str, nn.Module], tokens: int, dim: int, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of forward and backward of each system, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for repeat in range(repeats + 1):
        x = torch.randn(tokens, dim)
        for name, run in systems.items():
            for parameter in modules[name].parameters():
                parameter.grad = None
            states = x.clone().requires_grad_()
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = run(states)
            loss.backward()
            if repeat > 0:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def build(name: str, builder: Callable[..., tuple[nn.Module, System]], *sizes: int) -> tuple[nn.Module, System] | None:
    """Build a rival, or say on stderr how to install it."""
    try:
        torch.manual_seed(1)
        return builder(*sizes)
    except ImportError as error:
        print(f"{name} is not measured: {error}; see --help for how to install it", file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", default="8,32,128")
    parser.add_argument("--tokens", default="512,4096")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ffn-dim", type=int, default=2048)
    parser.add_argument("--dtypes", default="float32,bfloat16", help="bfloat16: autocast around float32 weights")
    parser.add_argument("--rivals", default="deepspeed,fairscale,huggingface", help="comma-separated, or 'none'")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rivals = [] if options.rivals == "none" else options.rivals.split(",")
    if "deepspeed" in rivals or "fairscale" in rivals:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        dist.init_process_group("gloo", rank=0, world_size=1)
    print(f"d{options.dim}, f{options.ffn_dim}, {options.threads} threads; milliseconds of forward + backward, and how many times slower than mmt")
    columns = "".join(f"{name:>20}" for name in rivals)
    print(f"{'type':<10}{'E':>5}{'T':>6}{'dense':>9}{'mmt k1':>9}{'mmt/dense':>11}{'mmt k2':>9}{columns}")
    for dtype_name in options.dtypes.split(","):
        for experts in map(int, options.experts.split(",")):
            sizes = options.dim, options.ffn_dim, experts
            built = {"dense": build("dense", dense, *sizes, 1), "mmt k1": build("mmt", mmt, *sizes, 1), "mmt k2": build("mmt", mmt, *sizes, 2)}
            built |= {name: build(name, RIVALS[name][0], *sizes, RIVALS[name][1]) for name in rivals}
            present = {name: system for name, system in built.items() if system is not None}
            for tokens in map(int, options.tokens.split(",")):
                found = measure(
                    {name: system[1] for name, system in present.items()},
                    {name: system[0] for name, system in present.items()},
                    *(tokens, options.dim, getattr(torch, dtype_name), options.repeats),
                )
                cells = ""
                for name in rivals:
                    own = found[f"mmt k{RIVALS[name][1]}"]
                    cells += f"{'-':>20}" if name not in found else f"{found[name]:>11.0f} {found[name] / own:>7.2f}x"
                ratio = found["mmt k1"] / found["dense"]
                print(
                    f"{dtype_name:<10}{experts:>5}{tokens:>6}{found['dense']:>9.1f}{found['mmt k1']:>9.1f}{ratio:>11.2f}{found['mmt k2']:>9.1f}{cells}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
