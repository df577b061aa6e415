"""``mmt train``: print the ``fairseq-train`` command that a recipe stands for, and run it.

Training goes on where it stopped: fairseq loads ``checkpoint_last.pt`` of the run's folder if there is one.
"""

import argparse
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

import mmt
from mmt.command_line import fairseq_train_arguments
from mmt.errors import UserError
from mmt.recipes import compose, groups, recipe_folder
from mmt.sharing import rank_and_world_size
from mmt.training_environment import training_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``mmt train``."""
    parser.add_argument("recipe", help="name of a folder in recipes/, or path of a folder with train.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="group=choice | section.key=value",
        help="such as model=task run=quick optimization.max_update=1000; --choices lists the groups",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, start nothing")
    parser.add_argument("--choices", action="store_true", help="list the recipe's groups and the choices of each")


def run(args: argparse.Namespace) -> int:
    """Print the command and, without ``--dry-run``, become it.

    Raises:
        UserError: for an unknown recipe, group, choice or key, a wrong value, or data that is not there.
    """
    # Hydra tells at level DEBUG what it composes, and fairseq opens that level.
    logging.getLogger("hydra").setLevel(logging.WARNING)
    folder = recipe_folder(args.recipe)
    if args.choices:
        for group, choices in groups(folder).items():
            print(f"{group}={'|'.join(choices)}")
        return 0
    config = compose(folder, args.overrides)
    if config.common.user_dir == "mmt" and not Path("mmt").is_dir():  # not in the repository's root
        config.common.user_dir = str(Path(mmt.__file__).resolve().parent)
    command = ["fairseq-train", *fairseq_train_arguments(config)]
    environment = training_environment()
    settings = [f"{key}={shlex.quote(value)}" for key, value in environment.items() if key not in os.environ]
    if rank_and_world_size()[0] == 0:
        print(" ".join([*settings, shlex.join(command)]), flush=True)
    if args.dry_run:
        return 0
    _check_data(folder, config)
    # The script, not "python -m fairseq_cli.train": mmt puts its trainer into the module of that name, which would then
    # not be the one that runs.
    os.execve(_fairseq_train(), command, environment)


def _check_data(folder: Path, config: DictConfig) -> None:
    for data in config.task.data.split(":"):
        split = config.dataset.train_subset
        if not any(Path(data).glob(f"{split}.*-*.*")):
            how = _how_to_prepare(folder, Path(data))
            raise UserError(f"task.data: {data} holds no data to train on (no files {split}.xx-yy.*); {how}")


def _how_to_prepare(folder: Path, data: Path) -> str:
    parts: Sequence[str] = data.parts
    if len(parts) == 4 and parts[0] == "data" and parts[3] == "bin":
        return f"prepare it with: make data RECIPE={parts[1]} PRESET={parts[2]}"
    return f"see {folder / 'README.md'}"


def _fairseq_train() -> str:
    """Find the script of this Python's environment, whether or not the environment is activated."""
    beside_python = Path(sys.executable).with_name("fairseq-train")
    found = str(beside_python) if beside_python.is_file() else shutil.which("fairseq-train")
    if found is None:
        raise UserError("fairseq-train is not installed beside this Python; run: pip install -e .")
    return found
