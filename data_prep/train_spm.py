"""Train one SentencePiece model on all languages together: ``<output>/spm.model`` and ``<output>/spm.vocab``.

The sample is balanced: language l gets a share proportional to n_l ** (1 / temperature), so that small languages get
pieces too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
from pathlib import Path
from typing import Any

import sentencepiece

from data_prep.errors import DataError, run_program
from data_prep.lines import MAX_LINE_CHARACTERS, read_clean_lines
from data_prep.normalise import sentencepiece_rules
from data_prep.options import add_common_options, set_up_logging
from data_prep.steps import Unit

VERSION = 3
BYTE_PIECES = 256
CONTROL_PIECES = 3
DEFAULT_SAMPLE_LINES = 450_000
# SentencePiece leaves out longer lines without a word, and its own limit is 4,192.
MAX_LINE_BYTES = 4 * MAX_LINE_CHARACTERS
# Not --jobs: the number is recorded in the model, which has to be the same on every machine.
THREADS = 2


def check_vocab_size(vocab_size: int) -> int:
    """Return ``vocab_size`` if it has room for the pieces that every model has."""
    least = BYTE_PIECES + CONTROL_PIECES + 1
    if not least < vocab_size < 2**31:
        raise DataError(
            f"--vocab-size must be more than {least} (256 bytes and 3 special pieces) and below {2**31}, but is "
            f"{vocab_size}"
        )
    return vocab_size


def check_seed(seed: int) -> int:
    """Return ``seed`` if SentencePiece can take it."""
    if not 0 <= seed < 2**32:
        raise DataError(f"--seed must be at least 0 and below {2**32}, but is {seed}")
    return seed


def train_files(text: Path) -> dict[str, list[Path]]:
    """The training files of every language: ``{"de": [.../train.en-de.de], ...}``."""
    files: dict[str, list[Path]] = {}
    # Wider than text_files.parse_name: to verify_split train.news.en-de.en is text too, with its further dot.
    for path in sorted(text.glob("train.*-*.*")):
        files.setdefault(path.name.rpartition(".")[2], []).append(path)
    if not files:
        raise DataError(f"no files train.<pair>.<language> in {text}")
    return files


def share_lines(available: dict[str, int], wanted: int, temperature: float) -> dict[str, int]:
    """How many of ``wanted`` lines each language gets; what one language lacks, the others get."""
    shares = {lang: 0 for lang in available}
    open_langs = {lang for lang, lines in available.items() if lines}
    left = min(wanted, sum(available.values()))
    while left > 0 and open_langs:
        weights = {lang: available[lang] ** (1 / temperature) for lang in open_langs}
        total = sum(weights.values())
        for lang in sorted(open_langs):
            shares[lang] = min(available[lang], shares[lang] + max(1, int(left * weights[lang] / total)))
        open_langs = {lang for lang in open_langs if shares[lang] < available[lang]}
        left = min(wanted, sum(available.values())) - sum(shares.values())
    return shares


def sample_lines(files: dict[str, list[Path]], wanted: int, temperature: float, seed: int) -> dict[str, list[str]]:
    """Draw different lines of every language."""
    lines: dict[str, list[str]] = {}
    for language, paths in files.items():
        unique: dict[str, None] = {}
        for path in paths:
            unique.update(dict.fromkeys(read_clean_lines(path)))
        lines[language] = list(unique)
    shares = share_lines({lang: len(of_lang) for lang, of_lang in lines.items()}, wanted, temperature)
    rng = random.Random(seed)
    return {lang: rng.sample(of_lang, shares[lang]) for lang, of_lang in sorted(lines.items())}


def train_spm(
    text: Path,
    output: Path,
    vocab_size: int,
    model_type: str = "bpe",
    temperature: float = 5.0,
    sample: int = DEFAULT_SAMPLE_LINES,
    coverage: float = 0.9999,
    seed: int = 1,
) -> dict[str, Any]:
    """Train the model on the training files of a folder."""
    check_vocab_size(vocab_size)
    check_seed(seed)
    if temperature < 1:
        raise DataError(f"--temperature must be at least 1, but is {temperature:g}")
    if not 0.98 <= coverage <= 1:  # SentencePiece's own limits
        raise DataError(f"--character-coverage must be at least 0.98 and at most 1, but is {coverage:g}")
    if sample < 1:
        raise DataError(f"--sample-lines must be at least 1, but is {sample}")
    options = {
        "vocab_size": vocab_size, "model_type": model_type, "temperature": temperature, "sample_lines": sample,
        "character_coverage": coverage, "seed": seed,
    }  # fmt: skip
    unit = Unit("train_spm", VERSION, output, options, [text])

    def work(temporary: Path) -> dict[str, Any]:
        temporary.mkdir(parents=True)
        sampled = sample_lines(train_files(text), sample, temperature, seed)
        _train(sampled, temporary, vocab_size, model_type, coverage, seed)
        return {"lines": {lang: len(lines) for lang, lines in sampled.items()}}

    return unit.make(work)


def _train(
    sampled: dict[str, list[str]], folder: Path, vocab_size: int, model_type: str, coverage: float, seed: int
) -> None:
    rules = "rules.tsv"
    (folder / rules).write_text(sentencepiece_rules(), encoding="utf-8")
    sentencepiece.set_random_generator_seed(seed)
    model = io.BytesIO()
    try:
        # The model records the path of the rules as it is given: without a folder it is the same on every machine.
        with contextlib.chdir(folder):
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(line for lines in sampled.values() for line in lines),
                model_writer=model,
                vocab_size=vocab_size,
                model_type=model_type,
                character_coverage=coverage,
                byte_fallback=True,
                normalization_rule_tsv=rules,
                split_digits=True,  # numbers are copied digit by digit, in every language alike
                shuffle_input_sentence=False,
                input_sentence_size=0,
                max_sentence_length=MAX_LINE_BYTES,
                num_threads=THREADS,
                minloglevel=2,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
            )
    except RuntimeError as error:
        raise DataError(_explain(str(error), vocab_size, sum(map(len, sampled.values())))) from None
    (folder / rules).unlink()
    (folder / "spm.model").write_bytes(model.getvalue())
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = ((trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.get_piece_size()))
    (folder / "spm.vocab").write_text("".join(f"{piece}\t{score:g}\n" for piece, score in pieces), encoding="utf-8")


def _explain(message: str, vocab_size: int, lines: int) -> str:
    if found := re.search(r"value <= (\d+)", message):
        return (
            f"--vocab-size {vocab_size} is too big for this text: {lines:,} lines give at most {found[1]} pieces; "
            "give a smaller --vocab-size or more text"
        )
    if re.search(r"required_chars|smaller than|too small|[Vv]ocabulary size", message):
        return (
            f"--vocab-size {vocab_size} does not fit this text ({lines:,} lines): {message.strip().splitlines()[-1]}; "
            "if it has more different characters than that, give a bigger --vocab-size"
        )
    return f"SentencePiece could not be trained: {message.strip().splitlines()[-1]}"


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.train_spm", description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="folder of train.<pair>.<language> files")
    parser.add_argument("--output", type=Path, required=True, help="folder to write spm.model and spm.vocab to")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="number of pieces (default: %(default)s)")
    parser.add_argument("--model-type", choices=["bpe", "unigram"], default="bpe", help="default: bpe")
    parser.add_argument(
        "--temperature", type=float, default=5.0, help="1 samples in proportion, more is flatter (default: 5)"
    )
    parser.add_argument(
        "--sample-lines", type=int, default=DEFAULT_SAMPLE_LINES, help="lines to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--character-coverage", type=float, default=0.9999,
        help="share of characters that get pieces; the rest is spelt in bytes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: 1)")
    add_common_options(parser, jobs=False)
    args = parser.parse_args()
    set_up_logging(args)
    stats = train_spm(
        args.input, args.output, args.vocab_size, args.model_type, args.temperature, args.sample_lines,
        args.character_coverage, args.seed,
    )  # fmt: skip
    print(
        f"train_spm: {args.vocab_size:,} pieces from {sum(stats['lines'].values()):,} lines of "
        f"{len(stats['lines'])} languages"
    )


if __name__ == "__main__":
    run_program(main, "data_prep.train_spm")
