"""``mmt consolidate``: one file out of a checkpoint that several processes have written."""

import argparse
from pathlib import Path

from mmt.inference.loading import find_checkpoint
from mmt.surgery.consolidate import consolidate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``mmt consolidate``."""
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint, or a run's folder, of which the best checkpoint is taken"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the new file; .pt or .safetensors")


def run(args: argparse.Namespace) -> int:
    """Write the file.

    Raises:
        UserError: if there is no such checkpoint, or the file cannot be one.
    """
    checkpoint, output = find_checkpoint(args.model, "MODEL"), Path(args.output)
    num_parameters = consolidate(checkpoint, output)
    print(f"{output}: {num_parameters:,} parameters of {checkpoint}, {output.stat().st_size:,} bytes")
    return 0
