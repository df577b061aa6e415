"""The exceptions for what a user can cause, or can do something about, and what their messages are made of."""


class UserError(ValueError):
    """A mistake in an option, a file or a language, described in one line that names it, the rule and the value found.

    The commands print it without a traceback and exit with ``exit_code``: 2, or 1 for a failure of the machine.
    """

    exit_code = 2


class CheckpointDamaged(UserError):
    """A checkpoint is not what was written, or not all of it is there."""


class NotWritten(UserError):
    """A checkpoint could not be written, for want of room or rights."""

    exit_code = 1


def as_typed(option: str) -> str:
    """Return an option as the user types it: ``max_update`` is ``--max-update``."""
    return f"--{option.replace('_', '-')}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: torch's go on for many."""
    return str(error).strip().partition("\n")[0]


def what_does_not_fit(error: BaseException) -> str:
    """Return what an error of ``load_state_dict`` says first, below the line that names the class of the model only."""
    first, _, others = str(error).strip().partition("\n")
    return (others.strip().partition("\n")[0] if first.endswith(":") and others else first).strip()
