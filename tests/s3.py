"""A server on this machine that speaks S3, for the tests of stores in an object storage."""

import logging
import os
import socket
import uuid

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


@pytest.fixture(scope="session", name="s3")
def s3_server():
    """The URL of a bucket on a server of this machine, reached as any other by the environment."""
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", PORT, verbose=False)
    server.start()
    fsspec.filesystem("s3").mkdir("stores")
    yield Url("s3://stores")
    server.stop()


@pytest.fixture
def quick_leases(request, monkeypatch):
    """Leases that lapse in two seconds, or as many as the test's parameter says."""
    lapse = getattr(request, "param", 2.0)
    monkeypatch.setattr(locks, "BEAT", lapse / 10)
    monkeypatch.setattr(locks, "LAPSE", lapse)


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
