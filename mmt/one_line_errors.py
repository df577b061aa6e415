"""A user's mistake as one line, in fairseq's own commands too."""

import os
import sys
from types import TracebackType

from mmt.distributed.background import wait_at_most
from mmt.errors import UserError

SAVING_SECONDS = 60.0  # for which an error waits while a checkpoint is being written


def install_one_line_errors() -> None:
    """Show a ``UserError`` as one line on stderr with its exit code in fairseq's own commands, without a traceback."""
    previous = sys.excepthook
    if hasattr(previous, "wrapped_by_mmt"):
        return
    # Otherwise Hydra (fairseq-hydra-train) prints a traceback of its own, and the hook is never called.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, UserError):
            previous(kind, error, traceback)
            return
        sys.stdout.flush()
        # Not sys.stderr, whose text torch.distributed collects while a hook runs, to show it afterwards.
        print(f"mmt: error: {error}", file=sys.__stderr__, flush=True)
        wait_at_most(SAVING_SECONDS)
        # An exception hook cannot choose the exit code otherwise; nothing is left to clean up at this point.
        os._exit(error.exit_code)

    show.wrapped_by_mmt = True  # type: ignore[attr-defined]
    sys.excepthook = show
