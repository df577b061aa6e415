"""Turn text into fairseq's binary data, with one joint dictionary, in one run.

Writes ``<output>/{train,valid,test}.en-de.{en,de}.{bin,idx}``, ``dict.txt`` and its copies ``dict.<lang>.txt``,
``spm.model``, ``lang_list.txt`` and ``lang_pairs.txt``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from data_prep.errors import DataError, run_program
from data_prep.indexed import write_indexed
from data_prep.lines import check_equal_length, read_clean_lines
from data_prep.options import add_common_options, set_up_logging
from data_prep.pairs import pair_name, split_pair
from data_prep.recipe import PIVOT
from data_prep.steps import Unit, in_processes, stats_path
from data_prep.text_files import SETS, parse_name

VERSION = 2
# fairseq's own symbols <s>, <pad>, </s>, <unk> come before the pieces.
FAIRSEQ_SPECIALS = 4
FAIRSEQ_EOS, FAIRSEQ_UNK = 2, 3

_processors: dict[str, sentencepiece.SentencePieceProcessor] = {}


def load_model(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Load a SentencePiece model, once in each process."""
    name = str(path)
    if name not in _processors:
        if not path.is_file():
            raise DataError(f"no such file: {path}")
        try:
            _processors[name] = sentencepiece.SentencePieceProcessor(model_file=name)
        except (RuntimeError, OSError):
            raise DataError(f"{path}: not a SentencePiece model") from None
    return _processors[name]


def dictionary_pieces(model: sentencepiece.SentencePieceProcessor) -> list[str]:
    """The pieces of ``dict.txt`` in order: all of the model, bytes too, but for ``<unk>``, ``<s>``, ``</s>``."""
    ids = (i for i in range(model.get_piece_size()) if not (model.is_control(i) or model.is_unknown(i)))
    return [model.id_to_piece(i) for i in ids]


def fairseq_ids(model: sentencepiece.SentencePieceProcessor) -> npt.NDArray[np.int64]:
    """Fairseq's id of every piece of the model, ``(pieces of the model,)``."""
    table = np.full(model.get_piece_size(), FAIRSEQ_UNK, dtype=np.int64)
    rest = [i for i in range(len(table)) if not (model.is_control(i) or model.is_unknown(i))]
    table[rest] = np.arange(len(rest)) + FAIRSEQ_SPECIALS
    return table


def _binarize_file(job: tuple[Path, Path, Path]) -> dict[str, Any]:
    text, prefix, model_path = job
    model = load_model(model_path)
    encoded = model.encode(list(read_clean_lines(text)), out_type=int, num_threads=1)
    table = np.append(fairseq_ids(model), FAIRSEQ_EOS)
    end = len(table) - 1  # stands in for the end mark until the ids are translated
    sizes = np.fromiter((len(ids) + 1 for ids in encoded), dtype=np.int32, count=len(encoded))
    flat = np.fromiter(chain.from_iterable([*ids, end] for ids in encoded), dtype=np.int64, count=int(sizes.sum()))
    tokens = table[flat]
    vocab_size = FAIRSEQ_SPECIALS + model.get_piece_size()
    write_indexed(prefix, tokens, sizes, vocab_size)
    return {
        "sentences": len(sizes),
        "tokens": int(sizes.sum()),
        "unknown": int((tokens == FAIRSEQ_UNK).sum()),
        "longest": int(sizes.max(initial=0)),
        "uses": np.bincount(tokens, minlength=vocab_size),
    }


def aligned_files(folder: Path) -> dict[tuple[str, str], dict[str, Path]]:
    """``{("train", "en-de"): {"en": path, "de": path}}``; a :class:`DataError` names what is missing or unequal."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for path in sorted(folder.glob("*.*-*.*")):
        name = parse_name(path.name)
        # A further hyphen is part of a code, which fairseq could not take.
        if name is None or name.set not in SETS or "-" in name.source + name.target:
            continue
        pair = pair_name(name.source, name.target)
        if name.language not in (name.source, name.target):
            raise DataError(f"{path}: its language {name.language!r} is not in its pair {pair}")
        found.setdefault((name.set, pair), {})[name.language] = path
    if not any(split == "train" for split, _ in found):
        raise DataError(f"no files train.<pair>.<language> in {folder}")
    for (split, pair), files in found.items():
        source, target = split_pair(pair)
        for language in (source, target):
            if language not in files:
                raise DataError(f"no such file: {folder / f'{split}.{pair}.{language}'}")
        if check_equal_length(files[source], files[target]) == 0:
            raise DataError(f"{files[source]}: the file is empty")
    return found


def language_list(pairs: list[str]) -> list[str]:
    """English first, then the others sorted: the fixed order in which language tokens join the dictionary."""
    languages = {language for pair in pairs for language in split_pair(pair)}
    return ([PIVOT] if PIVOT in languages else []) + sorted(languages - {PIVOT})


def binarize(text: Path, spm_model: Path, output: Path, jobs: int) -> dict[str, Any]:
    """Binarize all training, validation and test files of a folder."""
    # A model that train_spm made stands for what that was made of, any other for itself.
    is_made_here = stats_path(spm_model.parent).is_file()
    unit = Unit("binarize", VERSION, output, {}, [text, spm_model.parent if is_made_here else spm_model])
    return unit.make(lambda temporary: _binarize(text, spm_model, temporary, jobs))


def _link(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, name)


def _binarize(text: Path, spm_model: Path, output: Path, jobs: int) -> dict[str, Any]:
    files = aligned_files(text)
    model = load_model(spm_model)
    output.mkdir(parents=True)
    work = [
        (path, output / f"{split}.{pair}.{language}", spm_model)
        for (split, pair), by_language in files.items()
        for language, path in by_language.items()
    ]
    work.sort(key=lambda job: -job[0].stat().st_size)
    results = in_processes(_binarize_file, work, jobs)

    training = [result["uses"] for job, result in zip(work, results) if job[1].name.startswith("train.")]
    uses = np.sum(training, axis=0)[FAIRSEQ_SPECIALS:]
    pieces = dictionary_pieces(model)
    dictionary = output / "dict.txt"
    dictionary.write_text("".join(f"{p} {n}\n" for p, n in zip(pieces, uses.tolist())), encoding="utf-8")
    pairs = sorted({pair for split, pair in files if split == "train"})
    languages = language_list(pairs)
    for language in languages:
        _link(dictionary, output / f"dict.{language}.txt")
    shutil.copyfile(spm_model, output / "spm.model")
    directions = [d for pair in pairs for d in (pair, pair_name(*reversed(split_pair(pair))))]
    (output / "lang_list.txt").write_text("".join(f"{language}\n" for language in languages), encoding="utf-8")
    (output / "lang_pairs.txt").write_text(",".join(dict.fromkeys(directions)) + "\n", encoding="utf-8")
    by_file = {job[1].name: {k: v for k, v in result.items() if k != "uses"} for job, result in zip(work, results)}
    counts = {
        "dictionary": len(pieces),
        "languages": len(languages),
        "train_pairs": sum(v["sentences"] for k, v in by_file.items() if k.startswith("train.")) // 2,
        "train_tokens": sum(v["tokens"] for k, v in by_file.items() if k.startswith("train.")),
        "unknown": sum(v["unknown"] for v in by_file.values()),
    }
    return {"counts": counts, "by_file": dict(sorted(by_file.items()))}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.binarize", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--input", type=Path, required=True, help="folder of {train,valid,test}.<pair>.<language> files"
    )
    parser.add_argument("--spm-model", type=Path, required=True, help="SentencePiece model")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the binary data to")
    add_common_options(parser)
    args = parser.parse_args()
    set_up_logging(args)
    print(describe(binarize(args.input, args.spm_model, args.output, args.jobs)))


def describe(stats: dict[str, Any]) -> str:
    """One line about a run."""
    counts = stats["counts"]
    return (
        f"binarize: {counts['train_pairs']:,} training pairs, {counts['train_tokens']:,} tokens (both sides), "
        f"{counts['languages']} languages, dictionary of {counts['dictionary']:,} pieces"
    )


if __name__ == "__main__":
    run_program(main, "data_prep.binarize")
