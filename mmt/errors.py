"""The one exception for what a user can cause."""


class UserError(ValueError):
    """A mistake in an option, a file or a language, described in one line that names it, the rule and the value found.

    The commands print it without a traceback and exit with code 2.
    """
