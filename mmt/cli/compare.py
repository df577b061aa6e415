"""``mmt compare``: two folders of results, direction by direction, with paired-bootstrap intervals."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from mmt.errors import UserError
from mmt.evaluation.bootstrap import NUM_SAMPLES, SEED, Difference, PairedSamples, differences, paired_samples
from mmt.evaluation.directions import read_tiers_of, split
from mmt.evaluation.results import Record, ResultsFolder
from mmt.evaluation.tables import groups
from mmt.evaluation.test_sets import find_test_set, name_and_location
from mmt.files import check_folder, sha256_of_lines, write_text
from mmt.sacrebleu_metrics import METRIC_NAMES, METRICS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``mmt compare``."""
    parser.add_argument("a", metavar="A", help="--output folder of one mmt evaluate, the baseline")
    parser.add_argument("b", metavar="B", help="--output folder of another one")
    parser.add_argument(
        "--test-set",
        action="append",
        metavar="[NAME=]FOLDER",
        help="compare on this test set (default: all that both have)",
    )
    parser.add_argument(
        "--samples", type=int, default=NUM_SAMPLES, metavar="N", help="random draws of segments (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help="of the random draws (default: %(default)s, sacreBLEU's)"
    )
    parser.add_argument("--tiers", metavar="FILE", help="table with columns code and tier, as for mmt evaluate")
    parser.add_argument("--output", metavar="FILE", help="write the differences to this file, one JSON line each")
    parser.add_argument("--progress", action="store_true", help="show progress on stderr even if it is not a terminal")


def run(args: argparse.Namespace) -> int:
    """Compare on each test set, and print a table for each.

    Raises:
        UserError: if the two evaluations cannot be compared.
    """
    if args.samples < 40:
        raise UserError(f"--samples must be at least 40 for a 95% interval, but is {args.samples}")
    if args.seed < 0:
        raise UserError(f"--seed must be at least 0, but is {args.seed}")
    if args.output:
        check_folder(f"--output {args.output}", Path(args.output).parent)
    a, b = ResultsFolder.open_for_reading(args.a), ResultsFolder.open_for_reading(args.b)
    shared = [key for key in a.records if key in b.records]
    locations = _locations(args.test_set, a, [name for name, _ in shared])
    lines: list[Record] = []
    for name, location in locations.items():
        directions = [direction for test_set, direction in shared if test_set == name]
        if not directions:
            raise UserError(f"{args.a} and {args.b} have no direction of test set {name} in common")
        samples = _samples(a, b, name, location, directions, args)
        members = groups(
            directions,
            read_tiers_of(args.tiers, {language for direction in directions for language in split(direction)}),
        )
        by_metric = {metric: differences(samples[metric], members) for metric in METRICS}
        print(f"\nTest set {name}: A = {args.a}, B = {args.b}\n\n{_table(by_metric, directions, members)}")
        _tell_left_out(a, b, name)
        for metric, found in by_metric.items():
            for of, difference in found.items():
                kind = "direction" if of in directions else "group"
                lines.append(
                    {"test_set": name, kind: of, "metric": metric, "delta": difference.delta, **asdict(difference)}
                )
    print(
        f"\nPaired bootstrap: {args.samples} draws of segments, the same for all directions of a test set; "
        f"seed {args.seed}. p: two-sided."
    )
    if args.output:
        write_text(Path(args.output), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return 0


def _locations(arguments: Sequence[str] | None, a: ResultsFolder, names: Sequence[str]) -> dict[str, str]:
    """Return where each test set to compare on is."""
    known = {name: a.run["test_sets"][name] for name in dict.fromkeys(names)}
    if not arguments:
        if not known:
            raise UserError("the two evaluations have no direction in common")
        return known
    locations = {}
    for argument in arguments:
        if argument in known:
            locations[argument] = known[argument]
        else:
            name, location = name_and_location(argument)
            locations[name or find_test_set(argument, _languages(a)).name] = location
    return locations


def _languages(results: ResultsFolder) -> list[str]:
    return sorted({language for _, direction in results.records for language in split(direction)})


def _samples(
    a: ResultsFolder, b: ResultsFolder, name: str, location: str, directions: Sequence[str], args: argparse.Namespace
) -> dict[str, dict[str, PairedSamples]]:
    """Return the bootstrap samples by metric and direction."""
    try:
        test_set = find_test_set(location, _languages(a))
    except UserError as error:
        raise UserError(f"{error}; give the place of test set {name} with --test-set {name}=FOLDER") from error
    found: dict[str, dict[str, PairedSamples]] = {metric: {} for metric in METRICS}
    for direction in tqdm(
        directions, unit=" directions", disable=not (args.progress or sys.stderr.isatty()), file=sys.stderr
    ):
        source, target = split(direction)
        records = a.records[name, direction], b.records[name, direction]
        sources, references = test_set.read(source, target)
        for folder, record in zip((a, b), records, strict=True):
            found_sha256 = [sha256_of_lines(lines[: record["segments"]]) for lines in (sources, references)]
            if found_sha256 != [record["source_sha256"], record["reference_sha256"]]:
                raise UserError(f"{folder.path}: {direction} was scored on another text than {test_set.location}")
        if records[0]["segments"] != records[1]["segments"]:
            raise UserError(
                f"{direction}: {a.path} has {records[0]['segments']} segments, "
                f"but {b.path} has {records[1]['segments']}"
            )
        references = references[: records[0]["segments"]]
        hypotheses = [folder.read_hypotheses(name, direction) for folder in (a, b)]
        for folder, lines in zip((a, b), hypotheses, strict=True):
            if len(lines) != len(references):
                path = folder.hypotheses_path(name, direction)
                raise UserError(f"{path} has {len(lines)} lines, but the test set has {len(references)} segments")
        for metric in METRICS:
            found[metric][direction] = paired_samples(
                metric, hypotheses[0], hypotheses[1], references, target, num_samples=args.samples, seed=args.seed
            )
    return found


def _table(
    by_metric: Mapping[str, Mapping[str, Difference]], directions: Sequence[str], members: Mapping[str, Sequence[str]]
) -> str:
    header = ["direction"]
    for metric in reversed(METRICS):
        header += [f"{METRIC_NAMES[metric]} A", "B", "B - A", "95% interval", "p"]
    rows = []
    for name in [*directions, *members]:
        row = [name if name in directions else f"average of {name} ({len(members[name])})"]
        for metric in reversed(METRICS):
            it = by_metric[metric][name]
            row += [
                f"{it.score_a:.1f}",
                f"{it.score_b:.1f}",
                f"{it.delta:+.1f}",
                f"[{it.low:+.1f}, {it.high:+.1f}]",
                f"{it.p:.3f}",
            ]
        rows.append(row)
    return tabulate(rows, headers=header, colalign=["left"] + ["right"] * (len(header) - 1), disable_numparse=True)


def _tell_left_out(a: ResultsFolder, b: ResultsFolder, name: str) -> None:
    for one, other in ((a, b), (b, a)):
        only = [
            direction
            for test_set, direction in one.records
            if test_set == name and (name, direction) not in other.records
        ]
        if only:
            print(f"Only in {one.path}: {', '.join(only)}")
