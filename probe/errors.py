"""What can go wrong in probing: one base class, and each message names its remedy."""


class ProbeError(Exception):
    """Base of every error that `probe` raises on purpose; its text is one line for a person."""


class UsageError(ProbeError):
    """An argument has a value that cannot be used (exit status 2 on the command line)."""


class DataError(ProbeError):
    """The features or labels cannot be probed: non-finite, empty, or without some class."""


class FileError(ProbeError):
    """A file that was to be read is not there, is damaged, or holds something else."""


class MemoryBudgetError(ProbeError):
    """The memory that was granted cannot hold what the computation needs at least."""


class DeviceWarning(UserWarning):
    """A device could not do what was planned for it, and something slower or smaller serves."""


class RowsWarning(UserWarning):
    """Which test rows each probe has right is not known, so that intervals are over seeds alone."""


class ChangedWarning(UserWarning):
    """A file is read that was changed since it was written."""


class SelectionWarning(UserWarning):
    """A penalty is chosen in another way, or by other rows, than one would expect."""


class ProbeFailed(ProbeError):
    """A probe did not reach its solution; raised by `ProbeResult.raise_if_failed`."""
