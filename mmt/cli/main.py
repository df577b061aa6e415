"""The ``mmt`` command: find the verb's module, parse its options, run it, and say in one line what a user did wrong.

A verb is a module of this package with ``add_arguments(parser)`` and ``run(args) -> exit code``, and an entry in
``VERBS``. Only the module of the chosen verb is imported.
"""

import argparse
import contextlib
import difflib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import mmt
from mmt.errors import UserError, first_line

VERBS = {
    "train": "train a recipe; with --dry-run print the fairseq-train command only",
    "translate": "translate stdin, or a file, into one or several languages",
    "evaluate": "score a model in all its directions: BLEU, chrF++, averages, baselines",
    "compare": "compare two evaluations: differences with paired-bootstrap intervals",
    "consolidate": "make one file, fairseq's .pt or .safetensors, of a checkpoint that several processes have written",
    "plan": "plan a training: which meshes fit a cluster, memory, time, the largest model",
    "doctor": "show what is installed, what this machine can do, and how to mend what is missing",
}
EXIT_FAILURE = 1


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the option, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(UserError.exit_code, f"{self.prog}: error: {message} (options: {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mmt`` with ``arguments`` (default: those of the process) and return its exit code.

    0 is success, 1 a failure of the machine (such as a full disk), 2 a mistake in options, files or languages, 130
    Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no arrow gets a question mark
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"mmt: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has gone, as in "mmt translate ... | head -1"
        _give_up_stdout()
        return 128 + signal.SIGPIPE
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(f"mmt: error: out of memory: {first_line(error) or type(error).__name__}", file=sys.stderr)
        return EXIT_FAILURE
    except OSError as error:
        _give_up_stdout()
        where = f": {error.filename}" if error.filename else ""
        print(f"mmt: error: {error.strerror or error}{where}", file=sys.stderr)
        return EXIT_FAILURE


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is Python's, the GPU's (torch.OutOfMemoryError), or that of torch on a CPU."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _give_up_stdout() -> None:
    """Throw away what is still to be written: Python would fail again when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # not a file, as in some tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    # fairseq sends its progress of loading to the root logger at level INFO; mmt's own messages are not logged.
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    if arguments and arguments[0] in VERBS:
        verb = arguments[0]
        if mmt.import_error is not None and verb != "doctor":
            reason = f"{type(mmt.import_error).__name__}: {mmt.import_error}"
            raise UserError(f"the plugin cannot be loaded ({reason}); mmt doctor says what is missing")
        module = importlib.import_module(f"mmt.cli.{verb}")
        parser = OneLineParser(prog=f"mmt {verb}", description=VERBS[verb])
        module.add_arguments(parser)
        return module.run(parser.parse_intermixed_args(arguments[1:]))  # options may stand before overrides
    if arguments and not arguments[0].startswith("-"):
        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; verbs are {', '.join(VERBS)}"
        raise UserError(f"unknown verb {arguments[0]!r}{hint}")
    width = max(map(len, VERBS))
    parser = OneLineParser(
        prog="mmt",
        usage="mmt VERB [options]",
        description="Multilingual translation models made of Mixture-of-Experts transformers.",
        epilog="verbs:\n"
        + "\n".join(f"  {verb:{width}}  {text}" for verb, text in VERBS.items())
        + "\n\nmmt VERB --help shows the options of a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mmt {mmt.__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
