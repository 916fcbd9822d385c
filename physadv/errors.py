"""The one exception a user is meant to see."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong and what to do. The command line prints it and exits 2."""
