"""Run the steps in order, from packages or from your own text to data ready for training; finished steps are skipped.

With --recipe: data/<recipe>/<preset>/{text,spm,bin}. With --input FOLDER or --input FILE.tsv:
data/<name>/default/{text,spm,bin}.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.errors import DataError, run_program
from data_prep.options import (
    add_common_options,
    add_recipe_options,
    chosen_recipe,
    refuse_without_effect,
    set_up_logging,
)
from data_prep.pairs import pair_name
from data_prep.recipe import PIVOT, REPOSITORY

DEFAULT_VOCAB_SIZE = 8_000
# Below data/evalsets: test text that users bring; no step writes there.
OWN_EVALSETS = "own"

Command = list[str]


def _step(name: str, *arguments: object) -> Command:
    return ["python", "-m", f"data_prep.{name}", *map(str, arguments)]


def _optional(flag: str, value: object) -> list[object]:
    return [flag, value] if value else []


def _own_evalsets(args: argparse.Namespace) -> list[object]:
    """What keeps the user's own test text out of training."""
    own = args.data / "evalsets" / OWN_EVALSETS
    return ["--evalsets", own] if own.is_dir() else []


def recipe_commands(args: argparse.Namespace) -> tuple[list[Command], Path, Path]:
    """The commands that make a preset of a recipe, the folder they make, and the one of what they make on the way."""
    recipe, preset, languages = chosen_recipe(args)
    codes = [language.code for language in languages]
    output = args.output or args.data / recipe.name / preset.name
    work = args.data / recipe.work_name
    corpus = work / f"corpus-{preset.corpus}"
    downloads, raw, clean, unique = (corpus / name for name in ("downloads", "raw", "clean", "unique"))
    chosen: list[object] = ["--recipe", args.recipe, "--preset", preset.name]
    only: list[object] = ["--languages", ",".join([PIVOT, *codes])] if args.languages else []
    jobs: list[object] = ["--jobs", args.jobs]

    commands = []
    if recipe.evalsets:
        commands.append(_step("evalsets", "--name", recipe.evalsets, "--output", args.data / "evalsets"))
    if any(source.packages for source in recipe.sources_of(preset)):
        commands.append(_step("fetch", *chosen, "--output", downloads))
    commands.append(_step("extract", *chosen, "--input", downloads, "--output", raw, *jobs))
    commands.append(_step("clean", *chosen, *only, "--input", raw, "--output", clean, *jobs))
    commands.append(_step("deduplicate", *chosen, *only, "--input", clean, "--output", unique, *jobs))
    evaluation: list[object] = []
    if recipe.evalsets:
        folder = args.data / "evalsets" / recipe.evalsets
        evaluation = ["--evalsets", folder]
        for flag, name in (("--valid", recipe.valid_set), ("--test", recipe.test_set)):
            evaluation += [flag, folder / name] if name else []
    evaluation += _own_evalsets(args)
    pairs = ["--pairs", ",".join(pair_name(PIVOT, code) for code in codes)]
    limit = _optional("--max-pairs", preset.max_pairs if args.max_pairs is None else args.max_pairs)
    rule = ["--held-out-rule", args.held_out_rule]
    commands.append(
        _step("split", "--input", unique, "--output", output / "text", *pairs, *evaluation, *rule, *limit, *jobs)
    )
    vocab_size = args.vocab_size or preset.vocab_size
    return commands + _spm_and_bin(args, output, vocab_size), output, work


def own_text_commands(args: argparse.Namespace) -> tuple[list[Command], Path, Path]:
    """The commands that make data of the user's own text, the folder they make, and that of what is on the way."""
    if not args.input.exists():
        raise DataError(f"--input: no such file or folder: {args.input}")
    name = args.name or Path(os.path.abspath(args.input)).name.split(".")[0]
    work = args.data / name
    output, corpus = args.output or work / "default", work / "corpus"
    only: list[object] = ["--languages", args.languages] if args.languages else []
    jobs: list[object] = ["--jobs", args.jobs]
    sets: list[object] = ["--sets", corpus / "own"]
    commands = [
        _step("own_text", "--input", args.input, "--output", corpus / "own", *only),
        _step("deduplicate", "--input", corpus / "own" / "train", "--output", corpus / "unique", *jobs),
        _step(
            "split", "--input", corpus / "unique", "--output", output / "text", *sets, *_own_evalsets(args),
            "--held-out-rule", args.held_out_rule, *_optional("--max-pairs", args.max_pairs), *jobs,
        ),
    ]  # fmt: skip
    return commands + _spm_and_bin(args, output, args.vocab_size or DEFAULT_VOCAB_SIZE), output, work


def _spm_and_bin(args: argparse.Namespace, output: Path, vocab_size: int) -> list[Command]:
    text, model = output / "text", args.spm_model or output / "spm" / "spm.model"
    commands = []
    if args.spm_model is None:
        commands.append(_step("train_spm", "--input", text, "--output", output / "spm", "--vocab-size", vocab_size))
    commands.append(
        _step("binarize", "--input", text, "--spm-model", model, "--output", output / "bin", "--jobs", args.jobs)
    )
    return commands


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one run at a time write below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting for another run of data_prep that writes to {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_commands(commands: list[Command], verbose: bool) -> None:
    """Print and run the commands; stop at the first that fails, with its exit code."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])])
    for command in commands:
        command = [*command, "--verbose"] if verbose and command[2] != "data_prep.evalsets" else command
        print("+", shlex.join(command), flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, *command[1:]], env=environment).returncode
        if code:
            raise SystemExit(code if code > 0 else 1)
        print(f"  {time.monotonic() - start:.1f} s", flush=True)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.run", description=__doc__.splitlines()[0])
    add_recipe_options(parser, required=False)
    parser.add_argument(
        "--input", type=Path, help="your own text: a folder of train.en-de.{en,de} files, or a table .tsv"
    )
    parser.add_argument("--name", help="name of your own data under data/ (default: the name of --input)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all data (default: data)")
    parser.add_argument("--output", type=Path, help="folder to write text, spm and bin to (default: see above)")
    parser.add_argument(
        "--vocab-size", type=int, help=f"number of pieces (default: the preset's, or {DEFAULT_VOCAB_SIZE})"
    )
    parser.add_argument(
        "--max-pairs", type=int, help="most training pairs for a language pair (default: the preset's, or all)"
    )
    parser.add_argument(
        "--spm-model", type=Path, help="use this SentencePiece model, for instance a trained model's spm.model"
    )
    parser.add_argument(
        "--held-out-rule", choices=["near", "exact"], default="near",
        help="drop training sentences that are near-duplicates of validation or test sentences, or only equal ones "
        "(default: near)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    if (args.recipe is None) == (args.input is None):
        raise DataError("give either --recipe NAME or --input FOLDER_OR_TSV")
    if args.recipe:
        refuse_without_effect(args, "with --recipe", "--name")
    else:
        refuse_without_effect(args, "with --input", "--preset")
    if args.spm_model:
        refuse_without_effect(args, "with --spm-model, which has its own", "--vocab-size")
    commands, output, work = own_text_commands(args) if args.input else recipe_commands(args)
    if args.dry_run:
        for command in commands:
            print(shlex.join(command))
        return
    with only_one(work):
        run_commands(commands, args.verbose)
    print(f"ready: {output / 'bin'}")


if __name__ == "__main__":
    run_program(main, "data_prep.run")
