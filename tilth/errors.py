"""What a user may be told: one class for each kind of mistake.

Every message names what is wrong, where, and what to do about it, on one line. The command line prints it and leaves
with the class's exit code: 2 for a request that cannot be carried out, 1 for work that failed.
"""


class TilthError(Exception):
    """Something a user can act on; anything else that escapes is a fault of ours and keeps its traceback."""

    exit_code = 1


class UsageError(TilthError):
    """The request itself is wrong: nothing was started."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe with an unknown key, a value of the wrong type, or a label that does not exist."""


class InputError(UsageError):
    """An input that is missing, empty, unreadable or of no known kind."""


class DirectoryConflict(UsageError):
    """The output directory belongs to another run, or to none of ours."""


class ModelError(UsageError):
    """A model or list file that is missing or is not one."""


class StorageError(TilthError):
    """A file could not be written or read back: no space, no permission, no such bucket."""


class NoSpaceLeft(StorageError):
    """A full disk: nothing else that is tried now would fare better."""


class UnitsFailed(TilthError):
    """Some units of work failed every attempt; everything else was done and stays done."""


class Stopped(BaseException):
    """SIGINT or SIGTERM: what is done stays done. No mistake, and not to be taken for one by `except Exception`."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.exit_code = 128 + number
