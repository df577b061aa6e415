#!/usr/bin/env python3
"""Training speed of mmt against stock fairseq, in one run: same data, model size, batches and machine.

    python scripts/bench_train.py DATA_FOLDER [--updates 40] [--threads 2] [--device cuda]

Three systems are trained for a few updates each, in turns, ``--rounds`` times: stock fairseq (``fairseq-train`` in
float32, as a user gets it), mmt's dense model, and mmt with 16 token-routed experts (top-1) in every other layer. The
figure is the median over logging intervals of target words per second after a warm-up; ratios are to stock fairseq and
to mmt dense.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
LOG_INTERVAL = 2


def common_arguments(options: argparse.Namespace) -> list[str]:
    """Arguments that all systems share: data, model size, batch, schedule."""
    data = Path(options.data)
    pairs = (data / "lang_pairs.txt").read_text().strip()
    shape = [
        f"--{side}-{name}={size}"
        for side in ("encoder", "decoder")
        for name, size in {
            "embed-dim": options.dim,
            "ffn-embed-dim": options.ffn_dim,
            "layers": options.layers,
            "attention-heads": options.heads,
        }.items()
    ]
    return [
        *[str(data), f"--lang-dict={data / 'lang_list.txt'}", f"--lang-pairs={pairs}"],
        *"--encoder-langtok tgt --decoder-langtok --sampling-method temperature --sampling-temperature 1".split(),
        *shape,
        *f"--share-all-embeddings --dropout 0.1 --label-smoothing 0.1 --max-tokens {options.max_tokens}".split(),
        *["--adam-betas=(0.9, 0.98)", *"--lr 0.0005 --lr-scheduler inverse_sqrt --warmup-updates 4000".split()],
        *f"--max-update {options.updates} --seed 1 --num-workers 0 --no-save --disable-validation".split(),
        *(["--cpu"] if options.device == "cpu" else []),
        *f"--log-format json --log-interval {LOG_INTERVAL}".split(),
    ]


def systems(options: argparse.Namespace) -> dict[str, list[str]]:
    """What differs between the systems."""
    ours = [f"--user-dir={REPOSITORY / 'mmt'}", *"--task multilingual_moe_translation --arch moe_transformer".split()]
    ours += "--criterion moe_label_smoothed_cross_entropy --optimizer fused_adam --bf16".split()
    stock = "--task translation_multi_simple_epoch --arch transformer --criterion label_smoothed_cross_entropy".split()
    experts = f"--moe-experts {options.experts} --moe-freq 2 --moe-top-k 1".split()
    return {
        "fairseq dense (float32)": [*stock, "--optimizer", "adam"],
        "mmt dense (bf16)": ours,
        f"mmt {options.experts} experts, token routing": [*ours, *experts],
    }


def words_per_second(arguments: list[str], options: argparse.Namespace, ours: bool) -> list[float]:
    """Run one training and return the speed of each logging interval after the warm-up."""
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ, "OMP_NUM_THREADS": str(options.threads)}
    if ours:
        # The same settings that `mmt train` uses.
        sys.path.insert(0, str(REPOSITORY))
        from mmt.training_environment import training_environment

        environment = training_environment(environment)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).parent / "fairseq-train"),
            *common_arguments(options),
            *arguments,
            "--save-dir",
            folder,
        ]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        sys.exit(f"bench_train: {' '.join(command)} failed:\n{result.stderr[-2000:]}\n{result.stdout[-2000:]}")
    speeds = []
    for line in result.stdout.splitlines() + result.stderr.splitlines():
        if "train_inner" in line and "{" in line:
            record = json.loads(line[line.index("{") :])
            if int(record["num_updates"]) > options.warmup_updates:
                speeds.append(float(record["wps"]))
    return speeds


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", help="binarized data folder with lang_list.txt, lang_pairs.txt, dict.txt and dict.<language>.txt"
    )
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--warmup-updates", type=int, default=10, help="updates that are not measured")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: one GPU")
    parser.add_argument("--max-tokens", type=int, default=4000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--ffn-dim", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--experts", type=int, default=16)
    options = parser.parse_args()
    if not 0 <= options.warmup_updates < options.updates or options.rounds < 1:
        parser.error("--updates must be above --warmup-updates, and --rounds at least 1")
    speeds: dict[str, list[float]] = {name: [] for name in systems(options)}
    for round_number in range(options.rounds):
        for name, arguments in systems(options).items():
            speeds[name] += words_per_second(arguments, options, ours=name.startswith("mmt"))
            print(
                f"round {round_number + 1}: {name}: {statistics.median(speeds[name]):.0f} words/s",
                file=sys.stderr,
                flush=True,
            )
    median = {name: statistics.median(values) for name, values in speeds.items()}
    stock, dense, _ = median.values()
    print(
        f"{options.layers}+{options.layers} layers, d{options.dim}, {options.max_tokens} tokens per batch, "
        + (f"{options.threads} threads" if options.device == "cpu" else torch.cuda.get_device_name())
    )
    print(f"{'system':<36}{'words/s':>10}{'/ fairseq':>12}{'/ mmt dense':>13}")
    for name, value in median.items():
        print(f"{name:<36}{value:>10.0f}{value / stock:>12.2f}{value / dense:>13.2f}")


if __name__ == "__main__":
    main()
