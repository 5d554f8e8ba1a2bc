"""The one exception for a user's mistake."""


class InputError(ValueError):
    """Bad input: names the file or argument, what was expected, what came, and what to do.

    Library code raises it; the scripts print it as one line and exit with status 2. It is a `ValueError`,
    so callers of the library need not know it.
    """
