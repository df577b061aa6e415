#!/usr/bin/env python3
"""Speed of the MoE layer, forward and backward, against a dense network of equal active FLOPs and other MoE layers.

    python scripts/bench_layer.py [--experts 8,32,128] [--tokens 512,4096] [--top-k 1] [--dtype float32,bfloat16]
                                  [--device cuda]

Milliseconds are medians of repetitions in turns, all systems in one process with the memory settings of `mmt train`,
the same expert weights and the same tokens. "/ dense" is the time over that of a dense network with ffn_dim * top-k
hidden units; "x" after a rival is its time over mmt's at the same top-k: above 1.00, mmt is faster.

mmt never drops a token. The rivals, all with ReLU experts with biases:
  deepspeed    its defaults: capacity factor 1.0, so it drops tokens and computes less than mmt
  deepspeed*   the same, told not to drop: every expert is padded to the fullest one
  fairscale    Top2Gate, always top-2, capacity fixed at 2 T / E, so it drops tokens
  huggingface  NllbMoeSparseMLP, always top-2, with a capacity that drops nothing; transformers 5 computes something
               else (it calls two experts only), so 4.57.1
They are optional:
    pip install setuptools wheel && pip install --no-build-isolation --no-deps fairscale==0.4.13 deepspeed==0.19.8
    pip install einops hjson msgpack ninja psutil py-cpuinfo pydantic transformers==4.57.1
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
warnings.filterwarnings("ignore", category=FutureWarning, module="fairscale")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mmt.modules.balance import balance_loss  # noqa: E402
from mmt.modules.dispatch import DroplessDispatch  # noqa: E402
from mmt.modules.experts import Experts  # noqa: E402
from mmt.modules.moe_layer import MoELayer  # noqa: E402
from mmt.modules.router import TokenRouter  # noqa: E402
from mmt.modules.routing import TokenContext  # noqa: E402
from mmt.training_environment import training_environment  # noqa: E402

# A system that needs longer than this for one pass is measured by its second pass alone; much longer, by its first.
SLOW_S, VERY_SLOW_S = 2.0, 10.0


@dataclass(frozen=True)
class Sizes:
    """The layer to build: model dim, hidden dim of an expert, number of experts, experts per token, tokens."""

    dim: int
    ffn_dim: int
    experts: int
    top_k: int
    tokens: int


System = tuple[nn.Module, Callable[[Tensor], Tensor]]  # a module, and how it turns states (T, D) into a loss


class Dense(nn.Module):
    """The feed-forward network of a transformer."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to states ``(..., D)``."""
        return self.fc2(torch.relu(self.fc1(x)))


def build_dense(sizes: Sizes, experts: Experts) -> System:
    """Build the dense network of equal active FLOPs."""
    network = Dense(sizes.dim, sizes.top_k * sizes.ffn_dim)
    return network, lambda x: network(x).sum()


def build_mmt(sizes: Sizes, experts: Experts) -> System:
    """Build mmt's token-routed, dropless layer."""
    layer = MoELayer(TokenRouter(sizes.dim, sizes.experts, sizes.top_k), DroplessDispatch(), experts)

    def run(x: Tensor) -> Tensor:
        y, routing = layer(x, TokenContext())
        return y.sum() + 0.01 * balance_loss(routing)

    return layer, run


def build_fairscale(sizes: Sizes, experts: Experts) -> System:
    """Build fairscale's layer."""
    moe = import_module("fairscale.nn.moe")
    networks = nn.ModuleList(Dense(sizes.dim, 1) for _ in range(sizes.experts))
    share_weights(networks, experts)
    layer = moe.MOELayer(moe.Top2Gate(sizes.dim, sizes.experts), networks)
    return layer, lambda x: layer(x[:, None]).sum() + 0.01 * layer.l_aux


def build_deepspeed(sizes: Sizes, experts: Experts, drop_tokens: bool = True) -> System:
    """Build DeepSpeed's layer."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    moe = import_module("deepspeed.moe.sharded_moe")
    networks = import_module("deepspeed.moe.experts").Experts(Dense(sizes.dim, 1), sizes.experts)
    share_weights(networks.deepspeed_experts, experts)
    gate = moe.TopKGate(sizes.dim, sizes.experts, k=sizes.top_k, drop_tokens=drop_tokens)
    layer = moe.MOELayer(gate, networks, "bench", 1, sizes.experts)
    return layer, lambda x: layer(x[None], None).sum() + 0.01 * layer.l_aux


def build_huggingface(sizes: Sizes, experts: Experts) -> System:
    """Build the layer of Hugging Face's NLLB-MoE; its balance loss is computed elsewhere and left out."""
    transformers = import_module("transformers")
    if not transformers.__version__.startswith("4."):
        raise ImportError(f"transformers {transformers.__version__} computes something else")
    config = transformers.NllbMoeConfig(
        d_model=sizes.dim,
        num_experts=sizes.experts,
        expert_capacity=sizes.tokens,
        router_dtype="float32",
        moe_token_dropout=0.0,
        activation_function="relu",
    )
    layer = import_module("transformers.models.nllb_moe.modeling_nllb_moe").NllbMoeSparseMLP(config, ffn_dim=1)
    share_weights(layer.experts.values(), experts)
    return layer, lambda x: layer(x[None], padding_mask=None)[0].sum()


RIVALS: dict[str, tuple[Callable[[Sizes, Experts], System], int | None]] = {  # builder, and the only top-k it knows
    "deepspeed": (build_deepspeed, None),
    "deepspeed*": (lambda sizes, experts: build_deepspeed(sizes, experts, drop_tokens=False), None),
    "fairscale": (build_fairscale, 2),
    "huggingface": (build_huggingface, 2),
}


def share_weights(networks: Iterable[Any], experts: Experts) -> None:
    """Let expert networks with layers ``fc1``, ``fc2`` use the weights of ``experts``, so that they need no own."""
    for index, network in enumerate(networks):
        parameters = [nn.Parameter(stacked.data[index]) for stacked in experts.parameters()]
        network.fc1.weight, network.fc1.bias, network.fc2.weight, network.fc2.bias = parameters


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def run_once(system: System, x: Tensor, dtype: torch.dtype) -> float:
    """Return the seconds of one forward and backward pass."""
    module, loss_of = system
    x = x.clone().requires_grad_()
    synchronize(x.device)
    start = time.perf_counter()
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = loss_of(x)
    loss.backward()
    synchronize(x.device)
    seconds = time.perf_counter() - start
    module.zero_grad(set_to_none=True)
    return seconds


def measure(systems: dict[str, System], x_like: Tensor, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each system, measured in turns after a warm-up.

    Every turn has new tokens, as in training: experts get another number of them each time, and kernels that are made
    for one number of rows have to be made anew.
    """
    x = torch.randn_like(x_like)
    warm_up = {name: run_once(system, x, dtype) for name, system in systems.items()}
    times: dict[str, list[float]] = {name: [s] if s > VERY_SLOW_S else [] for name, s in warm_up.items()}
    for _ in range(repeats):
        x = torch.randn_like(x_like)
        for name, system in systems.items():
            if warm_up[name] < SLOW_S or not times[name]:
                times[name].append(run_once(system, x, dtype))
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def build_all(sizes: Sizes, rivals: list[str], device: str) -> tuple[dict[str, System], dict[str, int]]:
    """Build all systems that are installed, with the top-k of each."""
    experts = Experts(sizes.experts, sizes.dim, sizes.ffn_dim).to(device)
    top_k = {rival: RIVALS[rival][1] or sizes.top_k for rival in rivals}
    systems = {}
    for k in sorted({sizes.top_k, *top_k.values()}):
        sizes_k = Sizes(sizes.dim, sizes.ffn_dim, sizes.experts, k, sizes.tokens)
        systems[f"dense k{k}"] = build_dense(sizes_k, experts)
        systems[f"mmt k{k}"] = build_mmt(sizes_k, experts)
        for rival in (rival for rival in rivals if top_k[rival] == k):
            systems[rival] = RIVALS[rival][0](sizes_k, experts)
    for module, _ in systems.values():
        module.to(device)
    return systems, top_k


def installed(rivals: list[str], device: str) -> list[str]:
    """Return the rivals that can be built; say on stderr which cannot, and how to install them."""
    found = []
    for rival in rivals:
        try:
            build_all(Sizes(8, 8, 4, 1, 8), [rival], device)
            found.append(rival)
        except ImportError as error:
            print(f"{rival} is not measured: {error}. --help tells how to install it.", file=sys.stderr)
    return found


def columns(top_ks: Iterable[int], rival_top_k: dict[str, int]) -> list[tuple[str, str | None, str]]:
    """List the table's columns: the system, what its time is divided by or divides, and how that is headed."""
    found: list[tuple[str, str | None, str]] = []
    for k in sorted(set(top_ks)):
        found += [(f"dense k{k}", None, ""), (f"mmt k{k}", f"dense k{k}", "/ dense")]
        found += [(rival, f"mmt k{k}", "x") for rival, its in rival_top_k.items() if its == k]
    return found


def numbers(text: str) -> list[int]:
    """Parse "8,32,128"."""
    return [int(part) for part in text.split(",")]


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=numbers, default=[8, 32, 128])
    parser.add_argument("--tokens", type=numbers, default=[512, 4096])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ffn-dim", type=int, default=2048)
    parser.add_argument("--top-k", type=int, default=1, help="for mmt and DeepSpeed; the others can top-2 only")
    parser.add_argument("--dtype", default="float32,bfloat16", help="bfloat16: autocast around float32 weights")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="comma-separated, or 'none'")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    options.rivals = [] if options.rivals == "none" else options.rivals.split(",")
    for rival in options.rivals:
        if rival not in RIVALS:
            parser.error(f"--rivals knows {', '.join(RIVALS)}, but not {rival}")
    for dtype in options.dtype.split(","):
        if dtype not in ("float32", "bfloat16"):
            parser.error(f"--dtype must be float32 or bfloat16, or both with a comma, but is {dtype}")
    return options


def main() -> None:
    """Measure all cells and print a Markdown table, a line as soon as it is known."""
    options = parse_options()
    environment = training_environment()
    if environment != dict(os.environ):  # memory settings are read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    os.environ.setdefault("DS_ACCELERATOR", options.device)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if options.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        print_table(options)
        dist.destroy_process_group()


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    rivals = installed(options.rivals, options.device)
    rival_top_k = {rival: RIVALS[rival][1] or options.top_k for rival in rivals}
    table = columns([options.top_k, *rival_top_k.values()], rival_top_k)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    print(f"ms of forward + backward, d{options.dim}, f{options.ffn_dim}, {where}, torch {torch.__version__}\n")
    heads = ["type", "E", "T", *(head for name, _, ratio in table for head in ((name, ratio) if ratio else (name,)))]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for dtype in options.dtype.split(","):
        for experts in options.experts:
            for tokens in options.tokens:
                torch.manual_seed(1)
                sizes = Sizes(options.dim, options.ffn_dim, experts, options.top_k, tokens)
                systems, _ = build_all(sizes, rivals, options.device)
                x_like = torch.empty(tokens, options.dim, device=options.device)
                ms = measure(systems, x_like, getattr(torch, dtype), options.repeats)
                cells = [dtype, str(experts), str(tokens)]
                for name, base, _ in table:
                    cells.append(f"{ms[name]:.{0 if ms[name] >= 100 else 1}f}")
                    if base is not None:
                        cells.append(f"{ms[name] / ms[base]:.2f}")
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
