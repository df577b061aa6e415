"""Run the steps in order, from packages or from your own text to data ready for training; finished steps are skipped.

With --recipe: data/<recipe>/<preset>/{text,spm,bin}. With --input FOLDER or --input FILE.tsv:
data/<name>/default/{text,spm,bin}.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_prep.binarize import load_model
from data_prep.errors import DataError, run_program
from data_prep.evalsets import held_out_files
from data_prep.options import (
    add_common_options,
    add_recipe_options,
    chosen_recipe,
    refuse_without_effect,
    set_up_logging,
)
from data_prep.own_text import TABLE_ENDINGS
from data_prep.pairs import pair_name
from data_prep.recipe import PIVOT, REPOSITORY
from data_prep.train_spm import check_seed, check_vocab_size

DEFAULT_VOCAB_SIZE = 8_000
# Below data/evalsets: test text that users bring; no step writes there.
OWN_EVALSETS = "own"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

Command = list[str]


def _step(name: str, *arguments: object) -> Command:
    return ["python", "-m", f"data_prep.{name}", *map(str, arguments)]


def _optional(flag: str, value: object) -> list[object]:
    return [] if value is None else [flag, value]


def _evalsets(args: argparse.Namespace) -> list[Path]:
    """The users' folders of text that is to stay out of training."""
    own = args.data / "evalsets" / OWN_EVALSETS
    return [*([own] if own.is_dir() else []), *args.evalsets]


def _split_options(args: argparse.Namespace) -> list[object]:
    """What the user says of the split, with the test text that is to stay out of training."""
    return [
        *(word for folder in _evalsets(args) for word in ("--evalsets", folder)),
        "--held-out-rule", args.held_out_rule, *_optional("--valid-pairs", args.valid_pairs),
        *_optional("--seed", args.seed), "--jobs", args.jobs,
    ]  # fmt: skip


def _own_name(source: Path) -> str:
    """What the user's own data is called: as its folder, or as its table without the ending."""
    name = Path(os.path.abspath(source)).name  # "." has no name
    ending = next((e for e in TABLE_ENDINGS if name.endswith(e)), "") if source.is_file() else ""
    return name.removesuffix(ending)


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
        if recipe.valid_set:
            refuse_without_effect(args, f"with --recipe {args.recipe}, which has a validation set", "--valid-pairs")
    pairs = ["--pairs", ",".join(pair_name(PIVOT, code) for code in codes)]
    limit = ["--max-pairs", preset.max_pairs if args.max_pairs is None else args.max_pairs]
    files = ["--input", unique, "--output", output / "text"]
    commands.append(_step("split", *files, *pairs, *evaluation, *limit, *_split_options(args)))
    return commands + _spm_and_bin(args, output, preset.vocab_size), output, work


def own_text_commands(args: argparse.Namespace) -> tuple[list[Command], Path, Path]:
    """The commands that make data of the user's own text, the folder they make, and that of what is on the way."""
    if not args.input.exists():
        raise DataError(f"--input: no such file or folder: {args.input}")
    name = _own_name(args.input) if args.name is None else args.name
    if not name:
        raise DataError(f"the data of --input {args.input} needs a name: --name must be given and not be empty")
    work = args.data / name
    output, corpus = args.output or work / "default", work / "corpus"
    only: list[object] = ["--languages", args.languages] if args.languages else []
    jobs: list[object] = ["--jobs", args.jobs]
    files = ["--input", corpus / "unique", "--output", output / "text", "--sets", corpus / "own"]
    commands = [
        _step("own_text", "--input", args.input, "--output", corpus / "own", *only),
        _step("deduplicate", "--input", corpus / "own" / "train", "--output", corpus / "unique", *jobs),
        _step("split", *files, *_optional("--max-pairs", args.max_pairs), *_split_options(args)),
    ]
    return commands + _spm_and_bin(args, output, DEFAULT_VOCAB_SIZE), output, work


def _spm_and_bin(args: argparse.Namespace, output: Path, default_vocab_size: int) -> list[Command]:
    text, model = output / "text", args.spm_model or output / "spm" / "spm.model"
    commands = []
    if args.spm_model is None:
        vocab_size = check_vocab_size(default_vocab_size if args.vocab_size is None else args.vocab_size)
        size_and_seed = ["--vocab-size", vocab_size, *_optional("--seed", args.seed)]
        commands.append(_step("train_spm", "--input", text, "--output", output / "spm", *size_and_seed))
    commands.append(
        _step("binarize", "--input", text, "--spm-model", model, "--output", output / "bin", "--jobs", args.jobs)
    )
    return commands


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Let one run at a time write below ``folder``; yields the descriptor that holds the lock.

    Where the file system knows no locks, nobody waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run of data_prep that writes to {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield lock.fileno()


@contextmanager
def only_writer(work: Path, output: Path) -> Iterator[list[int]]:
    """Let one run at a time write below both folders; yields the descriptors that hold the locks."""
    with ExitStack() as stack:
        # Each once and in the same order, whatever they are for: no two runs wait for each other.
        yield [stack.enter_context(only_one(folder)) for folder in sorted({work.resolve(), output.resolve()})]


def run_commands(commands: list[Command], verbose: bool, locks: Sequence[int] = ()) -> None:
    """Print and run the commands; stop at the first that fails, with its exit code.

    A command holds the locks too: one that outlives this process still keeps other runs away.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])])
    for command in commands:
        if verbose:
            command = [*command, "--verbose"]
        print("+", shlex.join(command), flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, *command[1:]], env=environment, pass_fds=locks).returncode
        if code:
            raise SystemExit(code if code > 0 else 1)
        print(f"  {time.monotonic() - start:.1f} s", flush=True)


def _end(signal_number: int, frame: object) -> None:
    # subprocess.run then ends the step; one that has only just begun goes on, with the locks.
    raise SystemExit(128 + signal_number)


def _parser() -> argparse.ArgumentParser:
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
        "--evalsets", type=Path, nargs="+", action="extend", default=[],
        help="further folders of files <name>.<language> to keep out of training, such as a trained model's test text",
    )  # fmt: skip
    parser.add_argument(
        "--held-out-rule", choices=["near", "exact"], default="near",
        help="drop training sentences that are near-duplicates of validation or test sentences, or only equal ones "
        "(default: near)",
    )  # fmt: skip
    parser.add_argument(
        "--valid-pairs", type=int, help="how many pairs to split off for validation (default: as data_prep.split)"
    )
    parser.add_argument("--seed", type=int, help="chooses pairs and the vocabulary's sample (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    add_common_options(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse now what a step would refuse after all the steps before it."""
    if (args.recipe is None) == (args.input is None):
        raise DataError("give either --recipe NAME or --input FOLDER_OR_TSV")
    if args.recipe is not None:
        refuse_without_effect(args, "with --recipe", "--name")
    else:
        refuse_without_effect(args, "with --input", "--preset")
    for option, value, least in (("--max-pairs", args.max_pairs, 0), ("--valid-pairs", args.valid_pairs, 1)):
        if value is not None and value < least:
            raise DataError(f"{option} must be at least {least}, but is {value}")
    for folder in args.evalsets:
        if not folder.is_dir():
            raise DataError(f"--evalsets: no such folder: {folder}")
    held_out_files(_evalsets(args))
    if args.seed is not None:
        check_seed(args.seed)
    if args.spm_model is not None:
        refuse_without_effect(args, "with --spm-model, which has its own", "--vocab-size")
        if not args.spm_model.is_file():
            raise DataError(f"--spm-model: no such file: {args.spm_model}")
        load_model(args.spm_model)


def main() -> None:
    """Run the program."""
    args = _parser().parse_args()
    set_up_logging(args)
    _check(args)
    commands, output, work = own_text_commands(args) if args.input is not None else recipe_commands(args)
    if args.dry_run:
        for command in commands:
            print(shlex.join(command))
        return
    signal.signal(signal.SIGTERM, _end)
    with only_writer(work, output) as locks:
        run_commands(commands, args.verbose, locks)
    print(f"ready: {output / 'bin'}")


if __name__ == "__main__":
    run_program(main, "data_prep.run")
