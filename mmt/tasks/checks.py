"""What can be wrong with the options of ``multilingual_moe_translation`` once its languages are known."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from fairseq.utils import split_paths

from mmt.errors import UserError, as_typed
from mmt.sacrebleu_metrics import METRICS
from mmt.tasks.config import extra_lang_pairs, language_tokens
from mmt.tasks.generation_options import parse_generation_options

OF_EVERY_VALIDATION = ("bsz", "num_updates", "wpb", "wps")  # as fairseq logs them
LESS_IS_BETTER = ("loss", "nll_loss", "ppl")


def check_options(args: argparse.Namespace, languages: Sequence[str]) -> None:
    """Check the options that depend on each other, or on what lies in the data folder.

    Args:
        args: the options as fairseq wants them (``as_fairseq_arguments``).
        languages: those of the model.

    Raises:
        UserError: names the option, file or language that is wrong.
    """
    trained = args.lang_pairs + extra_lang_pairs(args)
    asked_for: list[str] = []
    if args.source_lang is not None or args.target_lang is not None:
        if args.source_lang is None or args.target_lang is None:
            raise UserError("--source-lang and --target-lang go together, but only one of them is given")
        asked_for = [f"{args.source_lang}-{args.target_lang}"]
    for pair in trained + asked_for:
        for language in pair.split("-"):
            if language not in languages:
                raise UserError(f"unknown language {language!r} in {pair}; the languages are {', '.join(languages)}")
    if args.eval_bleu and language_tokens(args)["main"][1] and args.lang_tok_replacing_bos_eos:
        option = "--langtoks" if "main" in (args.langtoks or {}) else "--decoder-langtok"
        raise UserError(
            f"--eval-bleu does not work with {option} --lang-tok-replacing-bos-eos: a validation batch "
            "holds several target languages, but fairseq's search begins all its sentences with the same token"
        )
    parse_generation_options(args.eval_bleu_args)
    if args.fixed_dictionary is None:
        folder = Path(args.data.split(":")[0])
        for side, dictionary in enumerate((args.source_dict, args.target_dict)):
            for language in sorted({pair.split("-")[side] for pair in asked_for or trained}):
                if dictionary is None and not (folder / f"dict.{language}.txt").is_file():
                    raise UserError(f"{folder} has neither dict.txt nor dict.{language}.txt")


def check_training_data(args: argparse.Namespace) -> None:
    """Check the options that say how the text to train on is read; a model is used without it.

    Raises:
        UserError: names the option that is wrong.
    """
    _check_further_data(args)
    _check_shared_datasets(args)
    folders = [args.data, *(args.extra_data or {}).values()]
    is_virtual = args.virtual_epoch_size is not None and args.virtual_data_size is None
    if is_virtual and any(len(split_paths(str(paths))) > 1 for paths in folders):
        raise UserError(
            "--virtual-epoch-size with several data folders needs --virtual-data-size: a resumed training could not "
            "tell in which of them it stopped"
        )


def _check_further_data(args: argparse.Namespace) -> None:
    """Check that each kind of further data has a folder and directions: fairseq reads nothing of it otherwise."""
    folders, directions = args.extra_data or {}, args.extra_lang_pairs or {}
    for kind in (*folders, *directions):
        if kind not in folders or kind not in directions:
            given, missing = ("data", "lang-pairs") if kind in folders else ("lang-pairs", "data")
            raise UserError(f"--extra-{given} names {kind!r}, but --extra-{missing} does not: further data needs both")
        if kind == "main" or "mono_" in str(kind):
            what = "the data folder's own name" if kind == "main" else "text of one language, which cannot be used yet"
            raise UserError(f"--extra-data: {kind!r} is {what}; use names such as 'mined'")


def _check_shared_datasets(args: argparse.Namespace) -> None:
    """Check that the sources of a direction can be the targets of its reverse as they are, and the other way round:
    fairseq shares them truncated, and with their language tokens.
    """
    if not args.enable_reservsed_directions_shared_datasets:
        return
    option = as_typed("enable_reservsed_directions_shared_datasets")
    if args.truncate_source:
        raise UserError(f"{option} does not work with --truncate-source: it would truncate the reverse's targets")
    if args.lang_tok_replacing_bos_eos:  # these tokens are put in later
        return
    for kind, (source, target) in language_tokens(args).items():
        if source != (None if target is None else target.replace("tgt", "src", 1)):
            given = f"--langtoks {{{kind!r}: ('src', 'tgt')}}"
            needed = given if kind in (args.langtoks or {}) else "--encoder-langtok src --decoder-langtok"
            raise UserError(
                f"{option} would give the reverse direction the wrong language tokens: use {needed}, or no tokens"
            )


def check_best_metric(
    name: str, logged: Collection[str] | None, scored: bool, directions: Sequence[str], *, maximize: bool
) -> None:
    """Refuse a ``--best-checkpoint-metric`` that no validation will have, or of which the worst would be kept.

    Args:
        name: of the metric, such as "loss", "bleu" or "chrf_en-de".
        logged: names of what the criterion logs; None if nobody knows them, and any name may be one.
        scored: whether validations translate (``--eval-bleu``).
        directions: those that are validated.
        maximize: whether more is taken to be better (``--maximize-best-checkpoint-metric``).

    Raises:
        UserError: names it, and what there is, or what is missing.
    """
    kind, _, direction = name.partition("_")
    if kind in METRICS and not scored:
        raise UserError(f"--best-checkpoint-metric {name} needs --eval-bleu (task.eval_bleu=true in a recipe)")
    if kind in METRICS and direction and direction not in directions:
        raise UserError(
            f"--best-checkpoint-metric {name}: {direction} is not one of the directions {', '.join(directions)}"
        )
    if logged is not None:
        _check_is_logged(name, logged, scored, directions)
    if maximize and name in LESS_IS_BETTER:
        raise UserError(
            f"--best-checkpoint-metric {name}: less is better, so --maximize-best-checkpoint-metric must be left out"
        )
    if not maximize and (kind in METRICS or name == "accuracy"):
        raise UserError(
            f"--best-checkpoint-metric {name}: more is better, so --maximize-best-checkpoint-metric must be set "
            "(checkpoint.maximize_best_checkpoint_metric=true in a recipe)"
        )


def _check_is_logged(name: str, logged: Collection[str], scored: bool, directions: Sequence[str]) -> None:
    scores = [*METRICS, *(f"{metric}_{direction}" for metric in METRICS for direction in directions)] if scored else []
    known = {*logged, *OF_EVERY_VALIDATION, *scores}
    if name not in known:
        near = difflib.get_close_matches(name.lower(), sorted(known), n=1)
        hint = f" (is it {near[0]}?)" if near else ""
        # Not those of each layer ("encoder.1_entropy") and direction ("bleu_en-de").
        offered = ", ".join(sorted(metric for metric in known if "." not in metric and "-" not in metric))
        raise UserError(
            f"--best-checkpoint-metric {name}: no validation has it{hint}; there are {offered}, and more with "
            "--eval-bleu and --report-accuracy"
        )
