"""Split deduplicated pairs into training, validation and test text: ``<output>/{train,valid,test}.en-de.{en,de}``.

A test set with the same sentences in many languages is written as ``<output>/test.de`` too: any two of them are a test.

No sentence of the evaluation sets, and no near-duplicate of one, stays in training, on either side and in any language.
In text with the same sentence in many languages a split for each language by itself would leak the test through the
others.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, run_program
from data_prep.evalsets import linked_folders, read_held_out
from data_prep.files import stable_hash
from data_prep.options import add_common_options, refuse_without_effect, set_up_logging
from data_prep.pairs import pairs_in, read_rows, split_pair
from data_prep.shingles import HeldOut, tokens
from data_prep.steps import Unit, add_counts, in_processes
from data_prep.text_files import Pair, read_multi_way, read_set, write_lines, write_pairs

logger = logging.getLogger(__name__)
VERSION = 5
DEFAULT_VALID_PAIRS = 500
MAX_VALID_SHARE = 0.1
# A shorter sentence is no test of translation, and its near-duplicates are half the corpus.
MIN_VALID_TOKENS = 4

_held_out = HeldOut()  # in the processes that match sentences: the sentences to keep out


@dataclass(frozen=True)
class SplitOptions:
    """How to split.

    Args:
        evalsets: folders with evaluation sets, to keep out of training.
        valid: folder with ``<name>.<lang>`` or ``valid.en-de.{en,de}`` files to use for validation; None to split some
            off.
        test: the same for testing; None for no test files.
        max_pairs: at most so many training pairs for each pair of languages; 0 for all.
        valid_pairs: how many pairs to split off for validation where there is no set.
        near: keep near-duplicates of held-out sentences out of training, not only equal sentences.
        seed: chooses among pairs.
    """

    evalsets: tuple[Path, ...] = ()
    valid: Path | None = None
    test: Path | None = None
    max_pairs: int = 0
    valid_pairs: int = DEFAULT_VALID_PAIRS
    near: bool = True
    seed: int = 1

    def held_out(self) -> list[Path]:
        """All folders with sentences to keep out of training."""
        return [folder for folder in (*self.evalsets, self.valid, self.test) if folder is not None]


def choose_valid(rows: dict[str, list[Pair]], options: SplitOptions) -> dict[str, list[Pair]]:
    """Choose validation pairs; a sentence that is in many languages is chosen for all of them."""
    chosen: dict[str, list[Pair]] = {}
    for pair, pairs in rows.items():
        wanted = max(1, min(options.valid_pairs, int(MAX_VALID_SHARE * len(pairs))))
        long_enough = [p for p in pairs if len(tokens(p[0])) >= MIN_VALID_TOKENS] or pairs
        ranked = sorted(dict(reversed(long_enough)).items(), key=lambda p: (stable_hash(p[0], options.seed), p))
        chosen[pair] = ranked[:wanted]
    return chosen


def _match_all(sentences: list[str]) -> list[str | None]:
    return [_held_out.match(sentence) for sentence in sentences]


def find_held_out(unique: list[str], held_out: HeldOut, jobs: int) -> dict[str, str]:
    """``sentence -> "exact" or "near"`` for every one of the different sentences that is held out."""
    global _held_out
    _held_out = held_out  # the processes are forked, and find it there
    size = 20_000
    blocks = [unique[i : i + size] for i in range(0, len(unique), size)]
    found = [match for block in in_processes(_match_all, blocks, jobs) for match in block]
    _held_out = HeldOut()
    return {text: match for text, match in zip(unique, found) if match}


def keep_out(pairs: list[Pair], found: dict[str, str], counts: dict[str, int], text: str = "evaluation") -> list[Pair]:
    """The pairs with neither side held out; the others are counted by kind, side and the text that they are like."""
    kept = []
    for pair in pairs:
        if pair[0] in found:
            add_counts(counts, {f"{found[pair[0]]}_source_in_{text}": 1})
        elif pair[1] in found:
            add_counts(counts, {f"{found[pair[1]]}_target_in_{text}": 1})
        else:
            kept.append(pair)
    return kept


def limit_pairs(name: str, pairs: list[Pair], options: SplitOptions, counts: dict[str, int]) -> list[Pair]:
    """At most ``max_pairs`` pairs, chosen by hash, in their old order; each language gets other English sentences."""
    if not options.max_pairs or len(pairs) <= options.max_pairs:
        return pairs
    ranked = sorted(range(len(pairs)), key=lambda i: stable_hash(f"{name}\t{pairs[i][0]}", options.seed))
    counts["over_max_pairs"] = len(pairs) - options.max_pairs
    return [pairs[i] for i in sorted(ranked[: options.max_pairs])]


def write_multi_way(folder: Path, test: Path, languages: set[str]) -> dict[str, int]:
    """Write ``test.<lang>`` of a multi-way test set; returns how many of its lines are not in all of the languages."""
    counts: dict[str, int] = {}
    for language, lines in read_multi_way(test, languages, counts).items():
        write_lines(folder / f"test.{language}", lines)
    return {f"test_{kind}": number for kind, number in counts.items()}


def split(unique: Path, output: Path, pairs: list[str], options: SplitOptions, jobs: int) -> dict[str, Any]:
    """Split the files ``<pair>.tsv`` of a folder."""
    paths = [unique / f"{pair}.tsv" for pair in pairs]
    for path in paths:
        if not path.is_file():
            raise DataError(f"no such file: {path}")
    folders = options.held_out()
    recorded = {k: v for k, v in vars(options).items() if k not in {"evalsets", "valid", "test"}}
    recorded["sets"] = {"evalsets": [folder.name for folder in options.evalsets]} | {
        name: folder.name for name, folder in (("valid", options.valid), ("test", options.test)) if folder is not None
    }
    unit = Unit("split", VERSION, output, {"pairs": pairs, **recorded}, [*paths, *folders, *linked_folders(folders)])
    return unit.make(lambda temporary: _split(paths, temporary, pairs, options, jobs))


def _split(paths: list[Path], output: Path, pairs: list[str], options: SplitOptions, jobs: int) -> dict[str, Any]:
    output.mkdir(parents=True)
    by_pair: dict[str, dict[str, int]] = {pair: {} for pair in pairs}
    rows = {pair: [(r[0], r[1]) for r in read_rows(path, fields=2)] for pair, path in zip(pairs, paths)}
    total: dict[str, int] = {}
    sets: dict[str, dict[str, list[Pair]]] = {"valid": {}, "test": {}}
    for name, folder in (("valid", options.valid), ("test", options.test)):
        if folder is None:
            continue
        skipped: dict[str, dict[str, int]] = {}
        sets[name] = read_set(folder, pairs, skipped)
        for pair, counts in skipped.items():
            add_counts(by_pair.get(pair, total), {f"{name}_{kind}": number for kind, number in counts.items()})

    if options.test is not None:
        add_counts(total, write_multi_way(output, options.test, {code for pair in pairs for code in split_pair(pair)}))

    unique = sorted({text for of_pair in rows.values() for row in of_pair for text in row})
    held_out = HeldOut(read_held_out(options.held_out()), near=options.near)
    in_evaluation = find_held_out(unique, held_out, jobs) if options.held_out() else {}
    left = {pair: keep_out(rows[pair], in_evaluation, by_pair[pair]) for pair in pairs}
    if without := {pair: left[pair] for pair in pairs if pair not in sets["valid"]}:
        chosen = choose_valid(without, options)
        sets["valid"] |= chosen
        held_out = HeldOut((text for of_pair in chosen.values() for row in of_pair for text in row), near=options.near)
        in_valid = find_held_out([text for text in unique if text not in in_evaluation], held_out, jobs)
        for pair in pairs:
            taken = set(chosen.get(pair, ()))
            rest = [row for row in left[pair] if row not in taken]
            left[pair] = keep_out(rest, in_valid, by_pair[pair], "validation")
    for name, of_set in sets.items():
        for pair, set_rows in of_set.items():
            if set_rows:
                write_pairs(output, name, pair, set_rows)
                add_counts(by_pair.get(pair, total), {name: len(set_rows)})
    for pair in pairs:
        counts = by_pair[pair]
        counts["read"] = len(rows[pair])
        train = limit_pairs(pair, left[pair], options, counts)
        if not train:
            raise DataError(f"no training pairs are left for {pair}: {counts}")
        write_pairs(output, "train", pair, train)
        counts["train"] = len(train)
        counts["source_words"] = sum(p[0].count(" ") + 1 for p in train)
        add_counts(total, counts)
    lengths = Counter(min(50, p[0].count(" ") + 1) for pair in pairs for p in rows[pair])
    return {"counts": total, "pairs": by_pair, "words_per_source": dict(sorted(lengths.items()))}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.split", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--input", type=Path, required=True, help="folder of <pair>.tsv files, made by data_prep.deduplicate"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write text files to")
    parser.add_argument("--pairs", help="only these, comma separated: en-de,en-ru (default: all of --sets or --input)")
    parser.add_argument(
        "--evalsets",
        type=Path,
        nargs="*",
        action="extend",
        default=[],
        help="folders of evaluation sets to keep out of training",
    )
    parser.add_argument("--valid", type=Path, help="folder of the validation set (default: split some pairs off)")
    parser.add_argument("--test", type=Path, help="folder of the test set (default: none)")
    parser.add_argument(
        "--sets", type=Path,
        help="folder made by data_prep.own_text: the pairs of its folder train; valid, test and held_out, if any",
    )  # fmt: skip
    parser.add_argument(
        "--held-out-rule", choices=["near", "exact"], default="near",
        help="keep near-duplicates of held-out sentences out of training, or only equal sentences (default: near)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pairs", type=int, default=0, help="most training pairs for a language pair (default 0: all)"
    )
    parser.add_argument(
        "--valid-pairs", type=int, default=DEFAULT_VALID_PAIRS, help="how many to split off (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="chooses among pairs (default: 1)")
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    if args.max_pairs < 0 or args.valid_pairs < 1:
        raise DataError(
            f"--max-pairs must be at least 0 and --valid-pairs at least 1, but are {args.max_pairs} and "
            f"{args.valid_pairs}"
        )
    if args.sets is not None:
        refuse_without_effect(args, "with --sets, which has its own", "--valid", "--test")
        args.valid, args.test = (f if f.is_dir() else None for f in (args.sets / "valid", args.sets / "test"))
        args.evalsets = [*args.evalsets, *filter(Path.is_dir, [args.sets / "held_out"])]
    for folder in (args.valid, args.test):
        if folder is not None and not folder.is_dir():
            raise DataError(f"no such folder: {folder}")
    options = SplitOptions(
        tuple(args.evalsets),
        args.valid,
        args.test,
        args.max_pairs,
        args.valid_pairs,
        args.held_out_rule == "near",
        args.seed,
    )
    pairs = args.pairs.split(",") if args.pairs else pairs_in(args.sets / "train" if args.sets else args.input)
    print(describe(split(args.input, args.output, pairs, options, args.jobs)))


def describe(stats: dict[str, Any]) -> str:
    """One line about a run."""
    counts = stats["counts"]
    left_out = ("_in_evaluation", "_in_validation", "_not_in_all_languages", "over_max_pairs")
    rest = ", ".join(f"{kind} {number:,}" for kind, number in counts.items() if kind.endswith(left_out))
    return (
        f"split: {counts['train']:,} training pairs, {counts.get('valid', 0):,} for validation, "
        f"{counts.get('test', 0):,} for testing; left out: {rest or 'none'}"
    )


if __name__ == "__main__":
    run_program(main, "data_prep.split")
