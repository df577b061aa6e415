"""Make the sample corpus ``sample/chromium.tsv.xz`` anew, from the training text of preset ``chromium``.

One line for each English sentence, one column for each language; an empty field where a language lacks the sentence.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

from data_prep.binarize import aligned_files, language_list
from data_prep.errors import DataError, run_program
from data_prep.files import replacing, sha256_of
from data_prep.pairs import split_pair
from data_prep.recipe import PIVOT


def make_sample(text: Path, output: Path) -> tuple[int, int]:
    """Write the table and its hash; returns the numbers of sentences and languages."""
    table: dict[str, dict[str, str]] = {}
    pairs = [(pair, files) for (split, pair), files in aligned_files(text).items() if split == "train"]
    for pair, files in pairs:
        source, target = split_pair(pair)
        if source != PIVOT:
            raise DataError(f"{text}: every pair must be with {PIVOT}, but there is {pair}")
        lines = (files[lang].read_text(encoding="utf-8").splitlines() for lang in (source, target))
        for english, translation in zip(*lines, strict=True):
            table.setdefault(english, {PIVOT: english})[target] = translation
    languages = language_list([pair for pair, _ in pairs])
    rows = ["\t".join(languages)] + ["\t".join(row.get(c, "") for c in languages) for _, row in sorted(table.items())]
    with replacing(output) as temporary:
        # A large dictionary finds the English words inside the translations of the same line and its neighbours.
        temporary.write_bytes(lzma.compress(("\n".join(rows) + "\n").encode(), preset=9 | lzma.PRESET_EXTREME))
    with replacing(output.with_name(f"{output.name}.sha256")) as temporary:
        temporary.write_text(f"{sha256_of(output)}  {output.name}\n")
    return len(table), len(languages)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.make_sample", description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="folder of train.en-xx.{en,xx} files")
    parser.add_argument("--output", type=Path, required=True, help="the table to write, .tsv.xz")
    args = parser.parse_args()
    sentences, languages = make_sample(args.input, args.output)
    print(
        f"{args.output}: {sentences:,} sentences in up to {languages} languages, {args.output.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    run_program(main, "data_prep.make_sample")
