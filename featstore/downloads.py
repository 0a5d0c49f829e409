"""Downloads that end: each has a time limit, and a refusal says what, whence and what to do."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from featstore.errors import DownloadRefused

# Seconds without a byte after which a server counts as silent.
PATIENCE = 15.0

# Clients whose errors are about the network, whatever their base class.
_CLIENTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib", "urllib3"} | {
    "huggingface_hub"
}


@contextmanager
def downloading(what: str, source: str, remedy: str) -> Iterator[None]:
    """Turn every failure of the network inside into one `DownloadRefused` of these three parts."""
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        # Libraries announce what they fetch on stdout, where only results belong.
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        if not from_network(error):
            raise
        raise DownloadRefused(
            f"{what} could not be fetched from {source}: {_reason(error)}; {remedy}"
        ) from error
    finally:
        socket.setdefaulttimeout(limit)


def from_network(error: BaseException) -> bool:
    """Whether an exception, or one that it stems from, was raised because of the network."""
    while error is not None:
        clients = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
        if clients & _CLIENTS or isinstance(
            error, ConnectionError | TimeoutError | socket.gaierror
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    """The first cause in one line: what a client wraps around it is advice for other programs."""
    while (cause := _cause(error)) is not None:
        error = cause
    return " ".join(str(error).split())[:200] or type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    """What an exception was raised from, or in the handling of, unless that is disowned."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)
