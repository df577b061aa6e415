"""Errors a user can cause, and how a command-line program ends on one."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable


class DataError(ValueError):
    """Wrong input or options: the message names the file, line, option or language, the rule, and the value found."""


def run_program(main: Callable[[], None], program: str) -> None:
    """Call ``main``; a :class:`DataError` becomes one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be anything
    try:
        main()
    except DataError as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            f"{program}: interrupted; finished outputs are kept, run the same command again to go on", file=sys.stderr
        )
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(141) from None
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        print(f"{program}: error: {name}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
