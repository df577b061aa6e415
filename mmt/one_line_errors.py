"""A user's mistake as one line, in fairseq's own commands too."""

import os
import sys
from types import TracebackType

from torch.multiprocessing import ProcessRaisedException

from mmt.distributed.background import wait_at_most
from mmt.errors import UserError

SAVING_SECONDS = 60.0  # for which an error waits while a checkpoint is being written
# What fairseq says well, but as an AssertionError, and before anything of ours is asked.
SAID_BY_FAIRSEQ = ("Must specify batch size either with --max-tokens or --batch-size",)


def install_one_line_errors() -> None:
    """Show a ``UserError`` as one line on stderr with its exit code in fairseq's own commands, without a traceback."""
    previous = sys.excepthook
    if hasattr(previous, "wrapped_by_mmt"):
        return
    # Otherwise Hydra (fairseq-hydra-train) prints a traceback of its own, and the hook is never called.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        user_error = as_user_error(error)
        if user_error is None:
            previous(kind, error, traceback)
            return
        sys.stdout.flush()
        # Not sys.stderr, whose text torch.distributed collects while a hook runs, to show it afterwards.
        if sys.__stderr__ is not None:
            sys.__stderr__.write(f"mmt: error: {user_error}\n")  # in one piece: other processes write there too
            sys.__stderr__.flush()
        wait_at_most(SAVING_SECONDS)
        # An exception hook cannot choose the exit code otherwise; nothing is left to clean up at this point.
        os._exit(user_error.exit_code)

    show.wrapped_by_mmt = True  # type: ignore[attr-defined]
    sys.excepthook = show


def as_user_error(error: BaseException) -> UserError | None:
    """Return an error as one of a user's; None if it is none."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, AssertionError) and str(error) in SAID_BY_FAIRSEQ:
        return UserError(str(error))
    if isinstance(error, ProcessRaisedException):
        return _of_started_process(error)
    return None


def _of_started_process(error: ProcessRaisedException) -> UserError | None:
    """Return the user's error that ended a process which fairseq had started, one for each GPU.

    All that is left of it is its traceback, whose last line is "module.Class: message".
    """
    name, _, message = str(error).rstrip().rpartition("\n")[2].partition(": ")
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    return found(message) if isinstance(found, type) and issubclass(found, UserError) else None
