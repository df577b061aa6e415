#!/usr/bin/env python3
"""Words per second on one and two processes, and bytes between them against what has to travel at least.

    python scripts/bench_parallel.py data/software6/full/bin [--updates 12] [--max-tokens 2000] [--dim 512]

Trains the same model with the real command, one thread for each process, as: one process; two data-parallel ones (dp);
two with half of the experts each (ep); the same with ZeRO-2 (ep+zero). Each process has a batch of --max-tokens, so
that with two of them twice as many words per second is perfect.

Bytes are those that go through the loopback device, of which the kernel keeps count: run nothing else meanwhile. The
least that has to travel: a row of D numbers for each route to an expert of the other process, forth and back, in the
forward and in the backward pass; and of each parameter that both have, 2 (P - 1) times its gradient for P processes
(reduce-scatter and all-gather of Thakur et al. 2005, which no all-reduce can beat; ZeRO moves as much).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

EXPERTS = 16
SYSTEMS = {
    "one": (1, []),
    "dp": (2, []),
    "ep": (2, ["--expert-parallel-size", "2"]),
    "ep+zero": (2, ["--expert-parallel-size", "2", "--zero", "2"]),
}


def loopback_bytes() -> int:
    """Return how many bytes went through the loopback device since the machine was started."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise SystemExit("bench_parallel.py: there is no loopback device in /proc/net/dev")


class Meter:
    """Counts words, seconds and bytes of one process from the end of the warm-up on."""

    def __init__(self, warmup: int, updates: int, output: str) -> None:
        self.warmup, self.updates, self.output = warmup, updates, output
        self.words = self.row_bytes = 0
        self.start_s = self.start_bytes = 0.0

    def after_update(self, trainer: Any, samples: list[Any]) -> None:
        """Look at the clock and at the counters."""
        import torch.distributed as dist

        done = trainer.get_num_updates()
        if done > self.warmup:
            self.words += sum(sample["ntokens"] for sample in samples if sample)
        if done not in (self.warmup, self.updates):
            return
        if dist.is_initialized():
            dist.barrier()
        if done == self.warmup:
            self.row_bytes, self.start_s, self.start_bytes = 0, time.perf_counter(), loopback_bytes()
            return
        seconds, moved = time.perf_counter() - self.start_s, loopback_bytes() - self.start_bytes
        facts = {"words": self.words, "seconds": seconds, "moved": moved, "rows": self.row_bytes}
        rank = dist.get_rank() if dist.is_initialized() else 0
        Path(f"{self.output}.{rank}").write_text(json.dumps({**facts, **shared_bytes(trainer)}))

    def all_to_all(self, original: Any) -> Any:
        """Wrap the function that sends rows, and count those that leave the process."""

        def counted(x_RD: Any, send: list[int], receive: list[int], group: Any) -> Any:
            leaving = sum(send) - send[group.rank()]
            self.row_bytes += leaving * x_RD.size(1) * x_RD.element_size()
            return original(x_RD, send, receive, group)

        return counted


def shared_bytes(trainer: Any) -> dict[str, int]:
    """Return the bytes of the gradients of what all processes have, and of the experts."""
    from mmt.distributed.split_rules import is_of_experts

    counts = {"dense": 0, "experts": 0}
    for name, parameter in trainer.model.named_parameters():
        counts["experts" if is_of_experts(name) else "dense"] += 4 * parameter.numel()
    return counts


def work(arguments: list[str]) -> None:
    """Train, as fairseq-train does, with a meter."""
    import fairseq_cli.train

    import mmt  # noqa: F401
    from mmt.modules import collectives
    from mmt.trainer import MoETrainer

    warmup, updates, output, *rest = arguments
    meter = Meter(int(warmup), int(updates), output)
    train_step = MoETrainer.train_step

    def metered(self: Any, samples: list[Any], raise_oom: bool = False) -> Any:
        result = train_step(self, samples, raise_oom)
        meter.after_update(self, samples)
        return result

    MoETrainer.train_step = metered  # type: ignore[method-assign]
    collectives._start_all_to_all = meter.all_to_all(collectives._start_all_to_all)
    sys.argv = ["fairseq-train", *rest]
    fairseq_cli.train.cli_main()


def measure(system: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """Train one system in processes of its own; return what each of them counted."""
    processes, options = SYSTEMS[system]
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/facts"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += [__file__, "--work", str(args.warmup_updates), str(args.updates), output]
        command += [args.data, "--user-dir", str(ROOT / "mmt"), "--task", "multilingual_moe_translation", *options]
        command += ["--arch", "moe_transformer", "--share-all-embeddings", "--encoder-langtok", "tgt"]
        command += ["--decoder-langtok", "--encoder-embed-dim", str(args.dim)]
        command += ["--encoder-ffn-embed-dim", str(4 * args.dim), "--encoder-layers", "2", "--decoder-layers", "2"]
        command += ["--encoder-attention-heads", "8", "--decoder-attention-heads", "8"]
        command += ["--moe-experts", str(EXPERTS), "--moe-freq", "2", "--moe-top-k", "1"]
        command += ["--criterion", "moe_label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--cpu"]
        command += ["--optimizer", "fused_adam", "--lr", "0.001", "--lr-scheduler", "inverse_sqrt", "--bf16"]
        command += ["--warmup-updates", "100", "--clip-norm", "1.0", "--max-tokens", str(args.max_tokens)]
        command += ["--max-source-positions", "128", "--max-target-positions", "128", "--num-workers", "0"]
        command += ["--skip-invalid-size-inputs-valid-test", "--disable-validation", "--no-save"]
        command += ["--max-update", str(args.updates), "--save-dir", folder]
        result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if result.returncode != 0:
            raise SystemExit(f"bench_parallel.py: {system} failed:\n{result.stderr[-3000:]}")
        return [json.loads(Path(f"{output}.{rank}").read_text()) for rank in range(processes)]


def main() -> None:
    """Measure all systems in turns and print a table."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of binarized data")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--warmup-updates", type=int, default=4, help="not counted")
    parser.add_argument("--max-tokens", type=int, default=2000, help="of a process")
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    if not 0 < args.warmup_updates < args.updates:
        parser.error("--warmup-updates must be above 0, and --updates above it")
    print("| system | processes | words/s | ratio to one | bytes per word | least | ratio |\n" + 7 * "|---" + "|")
    base = 0.0
    for system, (processes, _) in SYSTEMS.items():
        facts = measure(system, args)
        words, seconds = sum(fact["words"] for fact in facts), max(fact["seconds"] for fact in facts)
        base = base or words / seconds
        row = f"| {system} | {processes} | {words / seconds:,.0f} | {words / seconds / base:.2f} |"
        if processes > 1:
            alike = facts[0]["dense"] + (facts[0]["experts"] if system == "dp" else 0)
            updates = args.updates - args.warmup_updates
            least = sum(fact["rows"] for fact in facts) + updates * 2 * (processes - 1) * alike
            moved = max(fact["moved"] for fact in facts)
            row += f" {moved / words:,.0f} | {least / words:,.0f} | {moved / least:.3f} |"
        print(row if processes > 1 else f"{row} | | |", flush=True)


if __name__ == "__main__":
    main()
