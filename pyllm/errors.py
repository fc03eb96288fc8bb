"""The one exception users are meant to see."""


class PyllmError(Exception):
    """Something the user can act on: a bad file, a bad value, not enough memory.

    The message names the place, what was expected and what came; the command line prints it, no traceback.
    """
