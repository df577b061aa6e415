"""``mmt evaluate``: scores of all directions of a model, resumable, with averages and baselines."""

import argparse
import contextlib
import functools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from mmt.cli.decoding_arguments import add_decoding_arguments, add_model_arguments, decoding_options, translator_from
from mmt.errors import UserError
from mmt.evaluation.baselines import Baselines
from mmt.evaluation.directions import DEFAULT_TIERS, KEYWORDS, read_tiers_of, split
from mmt.evaluation.evaluate import Job, default_text_folder, evaluate, plan, score_baselines
from mmt.evaluation.results import SUMMARY, Record, ResultsFolder
from mmt.evaluation.scores import Scores
from mmt.evaluation.tables import average_table, averages, direction_table, signature_lines
from mmt.evaluation.test_sets import TestSet, find_test_set
from mmt.files import check_folder, sha256_of_file, write_text
from mmt.inference.loading import find_checkpoint
from mmt.inference.translator import Translator
from mmt.sacrebleu_metrics import METRICS, tokenizer_for_language
from mmt.sharing import first_process_first, rank_and_world_size
from mmt.tasks.vocabulary_files import SENTENCEPIECE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``mmt evaluate``."""
    parser.add_argument("model_folder", nargs="?", metavar="MODEL", help="the same as --model")
    add_model_arguments(parser, required=False)
    parser.add_argument(
        "--test-set",
        action="append",
        metavar="[NAME=]FOLDER",
        help="folder with line-aligned files test.LANG, or test.XX-YY.LANG; FOLDER/PREFIX for files that are not "
        "called test; may be given several times (default: the folder text beside the model's data folder)",
    )
    parser.add_argument(
        "--directions",
        default="trained",
        metavar="LIST",
        help=f"comma-separated: en-de, de-en, ..., or {', '.join(KEYWORDS)} (default: trained)",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="where results go, and go on (default: results in the model's folder)"
    )
    parser.add_argument("--restart", action="store_true", help="throw away the results that are in --output")
    parser.add_argument(
        "--max-segments", type=int, metavar="N", help="score the first N segments of each direction only"
    )
    parser.add_argument(
        "--tiers", metavar="FILE", help=f"table with columns code and tier (default: {DEFAULT_TIERS}, if there)"
    )
    parser.add_argument(
        "--train-text",
        metavar="FOLDER",
        help="folder with train.en-xx.{en,xx}, for the nearest-sentence baseline (default: the folder text beside the "
        "model's data folder)",
    )
    parser.add_argument(
        "--baselines",
        metavar="FILE",
        help="keep the baselines' scores in this file, which other evaluations may share (default: in --output)",
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave the baselines out")
    parser.add_argument("--progress", action="store_true", help="show progress on stderr even if it is not a terminal")
    add_decoding_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score, then print the tables.

    Raises:
        UserError: for a wrong option, model, language or test set.
    """
    if (args.model is None) == (args.model_folder is None):
        raise UserError("name one model: mmt evaluate MODEL, or --model MODEL")
    args.model = args.model or args.model_folder
    if args.max_segments is not None and args.max_segments < 1:
        raise UserError(f"--max-segments must be at least 1, but is {args.max_segments}")
    checkpoint = find_checkpoint(args.model)
    args.model = str(checkpoint)  # the one whose hash is recorded, even if a training writes a better one meanwhile
    output = Path(args.output) if args.output else checkpoint.parent / "results"
    checkpoint_sha256 = sha256_of_file(checkpoint)
    translator = translator_from(args, too_long="truncate")
    if sha256_of_file(checkpoint) != checkpoint_sha256:
        raise UserError(f"--model {checkpoint}: it was replaced while it was read, as by a running training; try again")
    if translator.needs_pieces:
        raise UserError(
            f"--model {args.model}: its dictionary has pieces of words, but there is no {SENTENCEPIECE} in "
            f"{translator.vocabulary}; put it there, or, for pieces of subword-nmt, use fairseq-generate with "
            "--remove-bpe and --scoring sacrebleu"
        )
    test_sets = _test_sets(args.test_set, translator)
    jobs = plan(
        test_sets,
        args.directions,
        languages=translator.languages,
        trained=translator.trained_directions,
        max_segments=args.max_segments,
    )
    for job in jobs:
        translator.check_direction(*split(job.direction), f"--directions {args.directions}")
    tiers = read_tiers_of(args.tiers, translator.languages)
    baselines = None if args.no_baselines else _baselines(args, output, translator)
    rank, _ = rank_and_world_size()
    identity = _identity(checkpoint_sha256, translator.vocabulary, args)
    locations = {test_set.name: os.path.abspath(test_set.location) for test_set in test_sets}
    with first_process_first():
        if rank == 0:
            results = ResultsFolder.open_for_writing(output, identity, locations, restart=args.restart)
        else:
            results = ResultsFolder.join(output, identity)
    show_progress = rank == 0 and (args.progress or sys.stderr.isatty())
    with contextlib.closing(results):
        # First: what is wrong with the training text is said before hours of work, not after.
        scores = {} if baselines is None or rank > 0 else _score_baselines(jobs, baselines, show_progress=show_progress)
        records = _score_model(jobs, translator, results, show_progress=show_progress)
        if rank > 0:
            return 0  # the first process reports
        _report(output, records, scores, tiers, missing_baselines=not args.no_baselines)
    for test_set in test_sets:
        _tell_missing_languages(test_set, translator.languages)
    _tell_fallback_tokenizers(jobs)
    print(f"\nResults, one line for each direction, and hypotheses: {output}")
    return 0


def _identity(checkpoint_sha256: str, vocabulary: Path, args: argparse.Namespace) -> Record:
    """Return what scores depend on, beside the text. The size of a batch and the device change rounding only."""
    search = asdict(decoding_options(args, too_long="truncate"))
    spm = vocabulary / SENTENCEPIECE
    del search["max_tokens"]
    return {
        "checkpoint_sha256": checkpoint_sha256,
        "spm_sha256": sha256_of_file(spm) if spm.is_file() else None,  # text may be in words
        **search,
        "max_segments": args.max_segments,
    }


def _test_sets(arguments: Sequence[str] | None, translator: Translator) -> list[TestSet]:
    if not arguments:
        text = default_text_folder(translator.data)
        if text is None:
            raise UserError(
                f"--test-set is needed: beside the model's data folder {translator.data} there is no folder text"
            )
        arguments = [str(text)]
    test_sets = [find_test_set(argument, translator.languages) for argument in arguments]
    names = [test_set.name for test_set in test_sets]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"--test-set: two test sets are called {repeated}; name them with --test-set NAME=FOLDER")
    return test_sets


def _baselines(args: argparse.Namespace, output: Path, translator: Translator) -> Baselines:
    if args.train_text is not None:
        train_text: Path | None = Path(args.train_text)
    else:
        train_text = default_text_folder(translator.data)
        if train_text is not None and not any(train_text.glob("train.*-*.*")):
            train_text = None
    cache = Path(args.baselines) if args.baselines else output / "baselines.json"
    if args.baselines:
        check_folder(f"--baselines {args.baselines}", cache.parent)
    return Baselines(cache, train_text)


def _score_model(
    jobs: Sequence[Job], translator: Translator, results: ResultsFolder, *, show_progress: bool
) -> list[Record]:
    total = sum(len(job.sources) for job in jobs)
    with tqdm(total=total, unit=" segments", disable=not show_progress, file=sys.stderr, mininterval=0.5) as progress:

        def on_direction(job: Job, finished: bool) -> None:
            progress.set_description(f"{job.test_set} {job.direction}")
            if finished:
                progress.update(len(job.sources))

        return evaluate(jobs, translator, results, on_direction=on_direction, on_batch=progress.update)


def _score_baselines(
    jobs: Sequence[Job], baselines: Baselines, *, show_progress: bool
) -> dict[str, dict[tuple[str, str], Scores]]:
    with tqdm(
        total=len(jobs), unit=" directions", desc="baselines", disable=not show_progress, file=sys.stderr
    ) as progress:
        return score_baselines(jobs, baselines, functools.partial(progress.update, 1))


def _report(
    output: Path,
    records: Sequence[Record],
    baseline_scores: dict[str, dict[tuple[str, str], Scores]],
    tiers: dict[str, str],
    *,
    missing_baselines: bool,
) -> None:
    """Print the tables of each test set, and write their averages."""
    summary = {}
    for name in dict.fromkeys(record["test_set"] for record in records):
        chosen = [record for record in records if record["test_set"] == name]
        directions = [record["direction"] for record in chosen]
        systems = {"model": {record["direction"]: {metric: record[metric] for metric in METRICS} for record in chosen}}
        for system, by_job in baseline_scores.items():
            systems[system] = {
                direction: {metric: getattr(by_job[name, direction], metric) for metric in METRICS}
                for direction in directions
                if (name, direction) in by_job
            }
        print(f"\nTest set {name}\n\n{direction_table(chosen, systems, tiers)}")
        print(f"\n{average_table(systems, directions, tiers)}\n")
        print("\n".join(signature_lines(chosen)))
        if too_long := {record["direction"]: n for record in chosen if (n := record["too_long_sources"])}:
            counted = ", ".join(f"{direction} {number}" for direction, number in too_long.items())
            print(f"Sources with more pieces than the model takes, cut: {counted}")
        without = [direction for system in systems.values() for direction in directions if direction not in system]
        if without and missing_baselines:
            print(
                "No nearest training sentence, since there is no training text of both languages: "
                f"{', '.join(dict.fromkeys(without))}"
            )
        summary[name] = averages(systems, directions, tiers)
    write_text(output / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def _tell_missing_languages(test_set: TestSet, languages: Sequence[str]) -> None:
    missing = [language for language in languages if language not in test_set.languages()]
    if missing:
        print(f"Test set {test_set.name} has no text in {', '.join(missing)}: directions with them are not scored.")


def _tell_fallback_tokenizers(jobs: Sequence[Job]) -> None:
    targets = {split(job.direction)[1] for job in jobs}
    for language in ("ja", "ko"):
        if language in targets and tokenizer_for_language(language) == "char":
            print(
                f"BLEU into {language} is over characters, since MeCab is missing: pip install 'sacrebleu[{language}]'"
            )
