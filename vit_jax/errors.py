"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in a config, a flag, a file or a data set.

    Its message is one line that says what is wrong, where, and what to do. The commands print
    that line without a traceback and exit with status 2.
    """
