"""A server on this machine that speaks S3, for the tests of stores in an object storage."""

import logging
import os
import re
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest

from featstore.places import Url
from featstore.store import locks
from featstore.store.remote import RemoteObjects

_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# Known before the server starts, and to whoever imports this in a process that a test starts: the
# process from which those are forked may be older than the server, and they have its environment.
_OWN = f"FEATSTORE_TEST_S3_PORT_{os.environ.get('PYTEST_XDIST_WORKER', '')}"
PORT = int(os.environ.setdefault(_OWN, str(_free_port())))
os.environ.update(_SETTINGS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{PORT}")


# What signs of life are put at.
_OF_A_LEASE = re.compile(r"\.lock/(gate|[0-9a-f]{32})$")

# The key of processes whose requests a test counts, holds back or loses.
OTHER = "ANOTHERKEY"


def as_other() -> dict[str, str]:
    """The environment of a process that asks under that key."""
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**found, "AWS_ACCESS_KEY_ID": OTHER}


class Network:
    """What lies before the server; requests under the key `OTHER` meet there what a test wants.

    Attributes:
        asked: what they asked for, as "COPY /bucket/key".
        meets: called with each, after it was noted; whether it arrives. Where this waits, the
            request does.
    """

    def __init__(self):
        self.app, self._lock = None, threading.Lock()
        self.calm()

    def calm(self) -> None:
        """Let everything pass, and forget what was asked."""
        self.asked, self.meets = [], lambda asked: True

    def __call__(self, environ, start):
        query = environ.get("QUERY_STRING", "")
        if OTHER in environ.get("HTTP_AUTHORIZATION", "") + query:
            copies = "HTTP_X_AMZ_COPY_SOURCE" in environ
            asked = f"{'COPY' if copies else environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            with self._lock:
                self.asked.append(asked)
            if not self.meets(asked):
                start("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
        if _expired(query):
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start)


class HeldBack:
    """From the `number`th request on that a pattern is found in, all wait until they may pass.

    Attributes:
        begun: set when the first waits.
    """

    def __init__(self, network: Network, pattern: str, number: int = 0):
        self._pattern, self._before, self._lock = re.compile(pattern), number, threading.Lock()
        self.begun, self._signs_pass, self._all_pass = (threading.Event() for _ in range(3))
        self._sign_waits = threading.Event()
        network.meets = self._meets

    def _meets(self, asked: str) -> bool:
        with self._lock:
            if not self.begun.is_set() and self._pattern.search(asked):
                if not self._before:
                    self.begun.set()
                self._before -= 1
        if self.begun.is_set():
            sign = _OF_A_LEASE.search(asked)
            if sign:
                self._sign_waits.set()
            (self._signs_pass if sign else self._all_pass).wait(60)
        return True

    def waits(self, seconds: float = 60.0) -> bool:
        """Return whether a request waits by then, and a sign of life."""
        return self.begun.wait(seconds) and self._sign_waits.wait(seconds)

    def let_pass(self) -> None:
        """Let signs of life arrive, their answers too, and then all else."""
        self._signs_pass.set()
        time.sleep(0.5)
        self._all_pass.set()


def _expired(query: str) -> bool:
    """Return whether a request was signed for a time that is over, which moto does not look at."""
    said = {name: values[0] for name, values in parse_qs(query).items()}
    if "X-Amz-Expires" in said:
        begun = datetime.strptime(said["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return time.time() > begun.timestamp() + float(said["X-Amz-Expires"])
    return "Signature" in said and time.time() > float(said["Expires"])


NETWORK = Network()


@pytest.fixture(name="network")
def calm_network():
    """The network before the server, which is calm before and after the test."""
    NETWORK.calm()
    yield NETWORK
    NETWORK.calm()


@pytest.fixture(scope="session", name="s3")
def s3_server():
    """The URL of a bucket on a server of this machine, reached as any other by the environment."""
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", PORT, verbose=False)
    server.start()
    NETWORK.app, server._server.app = server._server.app, NETWORK
    fsspec.filesystem("s3").mkdir("stores")
    yield Url("s3://stores")
    server.stop()


@pytest.fixture
def quick_leases(request, monkeypatch):
    """Leases that lapse in three seconds, or as many as the test's parameter says."""
    lapse = getattr(request, "param", 3.0)
    monkeypatch.setattr(locks, "BEAT", lapse / 10)
    monkeypatch.setattr(locks, "LAPSE", lapse)


@pytest.fixture(name="memory")
def fresh_memory():
    """A place in the memory of this process, fresh for each test."""
    return Url(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(params=["memory", "s3"], name="bucket")
def fresh_bucket(request):
    """A place for stores that is not of this machine, fresh for each test."""
    if request.param == "s3":
        return request.getfixturevalue("s3") / uuid.uuid4().hex
    return Url(f"memory://{uuid.uuid4().hex}")


def everything(url: Url) -> dict[str, bytes]:
    """All objects below a URL."""
    objects = RemoteObjects(url)
    return {key: objects.get(key) for key in sorted(objects.all_keys())}
