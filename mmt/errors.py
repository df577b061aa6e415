"""The exceptions for what a user can cause, or can do something about."""


class UserError(ValueError):
    """A mistake in an option, a file or a language, described in one line that names it, the rule and the value found.

    The commands print it without a traceback and exit with code 2.
    """


class CheckpointDamaged(UserError):
    """A checkpoint is not what was written, or not all of it is there."""
