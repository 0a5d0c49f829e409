"""What can go wrong in a study: one base class, and each message names its remedy."""


class StudyError(Exception):
    """Base of every error that `studies` raises on purpose; its text is one line for a person."""


class UsageError(StudyError):
    """A study file, or an argument, says what cannot be (exit status 2 on the command line)."""


class PartMissing(StudyError):
    """A part of a study needs another one that is not there."""
