"""Command-line options that several programs share."""

from __future__ import annotations

import argparse
import logging
import sys

from data_prep.errors import DataError
from data_prep.recipe import PIVOT, Language, Preset, Recipe, check_languages, load_recipe
from data_prep.steps import default_jobs

DEFAULT_PRESET = "full"


def add_recipe_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """``--recipe``, ``--preset`` and ``--languages``."""
    parser.add_argument(
        "--recipe", required=required, help="name of a folder under recipes/, or the path of a data.yaml"
    )
    parser.add_argument("--preset", help=f"which of the recipe's presets (default: {DEFAULT_PRESET})")
    parser.add_argument("--languages", help="only these, comma separated, with en: en,de,ru (default: the preset's)")


def add_common_options(parser: argparse.ArgumentParser, *, jobs: bool = True) -> None:
    """``--verbose``, and ``--jobs`` for the programs that use more than one process."""
    if jobs:
        parser.add_argument(
            "--jobs", type=int, default=default_jobs(), help="processes to use (default: the number of cores)"
        )
    parser.add_argument("--verbose", action="store_true", help="log every file to stderr")


def set_up_logging(args: argparse.Namespace) -> None:
    """Log to stderr; check ``--jobs``."""
    if "jobs" in args and args.jobs < 1:
        raise DataError(f"--jobs must be at least 1, but is {args.jobs}")
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def refuse_without_effect(args: argparse.Namespace, reason: str, *options: str) -> None:
    """Refuse the first of ``options`` that is given: it would have no effect."""
    for option in options:
        if getattr(args, option.removeprefix("--").replace("-", "_")) is not None:
            raise DataError(f"{option} has no effect {reason}")


def language_codes(args: argparse.Namespace, recipe: Recipe, preset: Preset) -> list[str]:
    """The languages of a run besides English: ``--languages``, else the preset's, else all of the recipe."""
    codes = [c.strip() for c in args.languages.split(",") if c.strip()] if args.languages else list(preset.languages)
    check_languages(codes, recipe.languages, "--languages" if args.languages else f"preset {preset.name}")
    return sorted(set(codes or recipe.languages) - {PIVOT})


def chosen_recipe(args: argparse.Namespace) -> tuple[Recipe, Preset, list[Language]]:
    """Recipe, preset and languages (without English) that the options name."""
    recipe = load_recipe(args.recipe)
    preset = recipe.preset(args.preset or DEFAULT_PRESET)
    languages = [recipe.languages[code] for code in language_codes(args, recipe, preset)]
    if not languages:
        raise DataError(f"--languages: at least one language besides {PIVOT} is needed")
    return recipe, preset, languages
