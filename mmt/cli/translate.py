"""``mmt translate``: lines on stdin or in a file, translations on stdout or in files, in order, while the input still
comes.

Several processes share out the target languages: each translates the whole file into those that it claims.
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from mmt.cli.decoding_arguments import add_decoding_arguments, add_model_arguments, translator_from
from mmt.errors import UserError
from mmt.files import check_folder, partial_path, sync_and_replace
from mmt.inference.lines import LineReader
from mmt.inference.translator import TOO_LONG_POLICIES, Translator
from mmt.sharing import Claims, first_process_first, rank_and_world_size
from mmt.tasks.vocabulary_files import SENTENCEPIECE

DEFAULT_SOURCE = "en"

Write = Callable[[Sequence[Sequence[str]]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``mmt translate``."""
    add_model_arguments(parser, required=True)
    parser.add_argument(
        "--from", dest="source", metavar="LANG", help="language of the input (default: en, if the model knows it)"
    )
    parser.add_argument(
        "--to", dest="targets", metavar="LANG[,LANG...]", required=True, help="language, or several, to translate into"
    )
    parser.add_argument("--input", metavar="FILE", help="text to translate (default: stdin)")
    parser.add_argument(
        "--output-prefix",
        metavar="PREFIX",
        help="write PREFIX.LANG for each target language; default: stdout, with several targets one tab-separated "
        "column each, in the order of --to",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=1000,
        metavar="LINES",
        help="lines read and sorted by length before they are translated (default: 1000)",
    )
    parser.add_argument(
        "--too-long",
        choices=TOO_LONG_POLICIES,
        default="skip",
        help="a line with more pieces than the model has positions is skipped (an empty line comes out) or truncated; "
        "both are counted (default: skip)",
    )
    parser.add_argument("--progress", action="store_true", help="show progress on stderr even if it is not a terminal")
    add_decoding_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Translate the input until it ends.

    Raises:
        UserError: for a wrong option, file, model or language.
    """
    if args.window < 1:
        raise UserError(f"--window must be at least 1, but is {args.window}")
    targets = args.targets.split(",")
    repeated = {target for target in targets if targets.count(target) > 1}
    if repeated:
        raise UserError(f"--to names {', '.join(sorted(repeated))} twice")
    rank, world_size = rank_and_world_size()
    _check_files(args, targets, world_size)
    translator = translator_from(args, too_long=args.too_long)
    if translator.needs_pieces and rank == 0:
        print(
            f"mmt translate: there is no {SENTENCEPIECE} in {translator.vocabulary}: text must be cut into the "
            "dictionary's pieces already",
            file=sys.stderr,
        )
    source = _source_language(args.source, translator)
    for target in targets:
        translator.check_language(target, "--to")
        translator.check_direction(source, target, "--to")
    show_progress = rank == 0 and (args.progress or sys.stderr.isatty())
    translate = functools.partial(_translate, args, translator, source, show_progress=show_progress)
    if world_size == 1:
        translate(targets)
        return 0
    for target in _claimed(args.output_prefix, targets):
        # What is wrong in the input is wrong for all languages.
        translate([target], tells_problems=target == targets[0])
    return 0


def _check_files(args: argparse.Namespace, targets: Sequence[str], world_size: int) -> None:
    """Refuse input and output that cannot be, before the model is loaded."""
    given = {"--input FILE": args.input, "--output-prefix PREFIX": args.output_prefix}
    missing = " and ".join(option for option, value in given.items() if value is None)
    if world_size > 1 and missing:
        raise UserError(f"{world_size} processes need {missing}, since they cannot share stdin and stdout")
    _check_input(args.input, world_size)
    if (args.output_prefix or "").endswith("/"):
        raise UserError(f"--output-prefix {args.output_prefix}: a folder; what file names begin with is missing")
    for path in _output_paths(args.output_prefix, targets):
        check_folder(f"--output-prefix {args.output_prefix}", path.parent)
        if args.input is not None and path.resolve() == Path(args.input).resolve():
            raise UserError(f"--output-prefix {args.output_prefix} would write over --input {args.input}")


def _check_input(name: str | None, world_size: int) -> None:
    if name is None:
        if sys.stdin is None:
            raise UserError("stdin is closed; name a file with --input FILE")
        return
    path = Path(name)  # of a file, or of a pipe, as the shell's <(zcat in.gz) is
    if not path.exists():
        raise UserError(f"--input {name}: no such file")
    if path.is_dir():
        raise UserError(f"--input {name}: a folder, not a file")
    if world_size > 1 and not path.is_file():
        raise UserError(f"--input {name}: {world_size} processes need a file, since each reads it from the start")


def _output_paths(prefix: str | None, targets: Sequence[str]) -> list[Path]:
    return [] if prefix is None else [Path(f"{prefix}.{target}") for target in targets]


def _claimed(prefix: str, targets: Sequence[str]) -> Iterator[str]:
    """Yield the languages that this process translates into, while others work on the rest, until all are done."""
    paths = _output_paths(prefix, targets)
    rank, _ = rank_and_world_size()
    with first_process_first():
        if rank == 0:
            for path in paths:  # of an earlier translation: from now on, what is there is done
                path.unlink(missing_ok=True)
    claims = Claims(paths[0].parent)
    by_lock = {f".{path.name}.lock": (target, path) for target, path in zip(targets, paths)}
    for lock in claims.in_turn(by_lock):
        target, path = by_lock[lock]
        if not path.exists():
            yield target
        (claims.folder / lock).unlink(missing_ok=True)  # the language is done, and nobody needs it any more


def _translate(
    args: argparse.Namespace,
    translator: Translator,
    source: str,
    targets: Sequence[str],
    *,
    show_progress: bool,
    tells_problems: bool = True,
) -> None:
    """Translate the whole input into some languages, and tell what is wrong in it."""
    with Path(args.input).open("rb") if args.input else contextlib.nullcontext(sys.stdin.buffer) as stream:
        reader = LineReader(stream, window=args.window)
        try:
            with _output(args.output_prefix, targets) as write:
                _translate_all(reader, translator, source, targets, write, show_progress=show_progress)
        finally:
            for message in reader.report.messages() if tells_problems else ():
                sys.stderr.write(f"mmt translate: {message}\n")  # in one piece: other processes write there too


def _source_language(source: str | None, translator: Translator) -> str:
    if source is None and DEFAULT_SOURCE not in translator.languages:
        raise UserError(f"--from is needed; the model knows {', '.join(translator.languages)}")
    source = source or DEFAULT_SOURCE
    translator.check_language(source, "--from")
    return source


def _translate_all(
    reader: LineReader,
    translator: Translator,
    source: str,
    targets: Sequence[str],
    write: Write,
    *,
    show_progress: bool,
) -> None:
    policy = "skipped" if translator.options.too_long == "skip" else "truncated"
    done = 0
    unit = " lines" if len(targets) == 1 else " translations"
    name = f"{source}-{','.join(targets)}"
    with tqdm(unit=unit, desc=name, disable=not show_progress, file=sys.stderr, mininterval=0.5) as progress:
        for lines in reader.windows():
            columns = []
            for target in targets:
                translations = translator.translate_window(lines, source, target, on_batch=progress.update)
                columns.append([translation.text for translation in translations])
            for i, translation in enumerate(translations):  # whether a line is too long does not depend on the target
                if translation.too_long:
                    reader.report.add(
                        f"more than the {translator.max_pieces} pieces that the model takes, {policy}", done + i + 1
                    )
            write(columns)
            done += len(lines)


@contextlib.contextmanager
def _output(prefix: str | None, targets: Sequence[str]) -> Iterator[Write]:
    """Yield a function that writes one window's columns; files get their final names when everything is translated."""
    if prefix is None:
        yield _write_to_stdout
        return
    paths = _output_paths(prefix, targets)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(partial_path(path).open("w", encoding="utf-8", newline="\n")) for path in paths]

        def write(columns: Sequence[Sequence[str]]) -> None:
            for file, column in zip(files, columns, strict=True):
                file.writelines(f"{line}\n" for line in column)
                file.flush()

        try:
            yield write
        except BaseException:
            for path in paths:
                partial_path(path).unlink(missing_ok=True)
            raise
    for path in paths:
        sync_and_replace(partial_path(path), path)


def _write_to_stdout(columns: Sequence[Sequence[str]]) -> None:
    if len(columns) > 1:
        columns = [[line.replace("\t", " ") for line in column] for column in columns]
    text = "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))
    sys.stdout.buffer.write(text.encode("utf-8", errors="replace"))
    sys.stdout.buffer.flush()
