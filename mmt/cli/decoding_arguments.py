"""Options that ``mmt translate`` and ``mmt evaluate`` share."""

import argparse
import os
from dataclasses import fields

import torch

from mmt.inference.translator import DecodingOptions, Translator
from mmt.tasks.vocabulary_files import FILES

_DEFAULTS = {field.name: field.default for field in fields(DecodingOptions)}


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add ``--model``, ``--data`` and ``--device``."""
    parser.add_argument(
        "--model",
        required=required,
        metavar="PATH",
        help="a checkpoint, or a run's folder (its checkpoint_best.pt, else checkpoint_last.pt)",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help=f"folder with {', '.join(FILES)} (default: the checkpoint's, where a run keeps them, or the data folder "
        "that the model was trained with)",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to compute (default: auto, cuda if there is one)",
    )


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the search."""
    group = parser.add_argument_group("search")
    group.add_argument("--beam", type=int, default=_DEFAULTS["beam"], help="size of the beam (default: %(default)s)")
    group.add_argument(
        "--lenpen",
        type=float,
        default=_DEFAULTS["lenpen"],
        help="length penalty: below 1 favours short translations (default: %(default)s)",
    )
    group.add_argument(
        "--max-len-a",
        type=float,
        default=_DEFAULTS["max_len_a"],
        metavar="A",
        help="a translation of x pieces has at most A * x + B (default: %(default)s)",
    )
    group.add_argument(
        "--max-len-b",
        type=int,
        default=_DEFAULTS["max_len_b"],
        metavar="B",
        help="see --max-len-a (default: %(default)s)",
    )
    group.add_argument(
        "--max-tokens",
        type=int,
        default=_DEFAULTS["max_tokens"],
        help="pieces in a batch, with padding (default: %(default)s)",
    )
    group.add_argument("--bf16", action="store_true", help="compute in bfloat16")


def decoding_options(args: argparse.Namespace, *, too_long: str) -> DecodingOptions:
    """Return the options of the search.

    Raises:
        UserError: names the option that is wrong.
    """
    return DecodingOptions(
        beam=args.beam,
        lenpen=args.lenpen,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
        max_tokens=args.max_tokens,
        bf16=args.bf16,
        too_long=too_long,
    )


def translator_from(args: argparse.Namespace, *, too_long: str) -> Translator:
    """Load the model that the options name.

    Raises:
        UserError: names the option that is wrong.
    """
    options = decoding_options(args, too_long=too_long)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.is_available():
        # Of the devices that they all see, each process of a machine takes one of its own.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return Translator.from_checkpoint(args.model, data=args.data, device=device, options=options)
