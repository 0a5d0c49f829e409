"""Pushes and pulls that are killed and run again, and hubs that answer what none would."""

import os
import signal
import threading
import time

import pytest
from attack import Command, Record, assert_plain, attempts, instants, no_longer_than, tree
from click.testing import CliRunner
from huggingface_hub import constants
from layer_stores import made
from loopback import no_network  # noqa: F401
from sharing_hub import listed, sharing_hub

import featstore
from featstore import downloads, probe
from featstore.cli import main
from featstore.errors import NotAStore, StoreNotFound
from featstore.testing import filled

# huggingface_hub gives bytes to its HTTP client in a way of old
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def things(tmp_path, small_blocks):
    """Two stores, and results with what lies beside them."""
    folder = tmp_path / "things"
    store = made(folder / "net.zarr", ["low", "high"])
    filled(folder / "net.h5", "hdf5")
    probe.sweep(
        store.tap("train", "low"), store.tap("test", "low"), fractions=0.5, solver="ridge",
        tap="low", out=folder / "r.csv", device="cpu",
    )  # fmt: skip
    return [folder / name for name in ("net.zarr", "net.h5", "r.csv")]


class Killing:
    """Kill a command at a request: before it is answered, in the midst of the answer, or later."""

    def __init__(self, at: int, share: float):
        self._at, self._share, self._count = at, share, 0
        self._lock, self.process = threading.Lock(), None

    def __call__(self, handler) -> bool:
        with self._lock:
            self._count += 1
            if self._count != self._at:
                return False
        if not self._share:
            self.kill()
            return True
        handler.wfile = Cut(handler.wfile, self._share, self.kill)
        return False

    def kill(self) -> None:
        while self.process is None:
            time.sleep(0.001)
        os.kill(self.process.pid, signal.SIGKILL)


class Cut:
    """A file of which a share of each large write arrives; then something happens, and no more."""

    def __init__(self, file, share: float, then):
        self._file, self._share, self._then, self._over = file, share, then, False

    def write(self, data: bytes) -> int:
        if not self._over and len(data) > 200:
            self._file.write(data[: int(self._share * len(data))])
            self._file.flush()
            self._over = True
            self._then()
        elif not self._over:
            self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def __getattr__(self, name):
        return getattr(self._file, name)


def killed(address, held, draw, most, said, *words) -> bool:
    """Run a command that is killed at one of `most` requests, if it gets there."""
    held.asked.clear()
    held.meets = kill = Killing(draw.randint(1, most), draw.choice([0, 0.3, 0.9]))
    kill.process = command(address, said, *words).process
    kill.process.join(60)
    held.meets = lambda handler: False
    assert kill.process.exitcode in (0, -signal.SIGKILL), said.read_text()
    return kill.process.exitcode != 0


def command(address, said, *words) -> Command:
    environment = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_stand_in"}
    return Command(*words, said=said, environment=environment)


def test_pushes_that_are_killed(no_network, things, tmp_path):  # noqa: F811
    """Find all of it shown or nothing, and nothing sent twice."""
    draw, said = instants("push"), tmp_path / "said"
    words = ("push", *things, "--to", "me/mine")
    with sharing_hub() as (address, held), Record("kill: push") as record:
        assert command(address, said, *words).wait() == 0, said.read_text()
        expected, most = dict(held.files), len(held.asked)
        for _ in range(attempts(1, 0.4)):
            held.forget()
            while not killed(address, held, draw, most, said, *words):
                held.forget()
            found = held.files
            assert found in ({}, expected)
            record("all was there" if found else f"{'some' if held.large else 'nothing'} was sent")
            assert command(address, said, *words).wait() == 0, said.read_text()
            assert held.files == expected
            assert len(held.uploads) == len(set(held.uploads)) == len(held.large)


def fetched(out) -> dict[str, bytes]:
    """All that lies in a folder, but for the client's own notes."""
    return {name: data for name, data in tree(out).items() if not name.startswith(".cache")}


def assert_nothing_is_taken_for_whole(out, expected) -> None:
    for name, data in fetched(out).items():
        assert data == expected[name]
    for name in ("net.zarr", "net.h5"):
        try:
            store = featstore.open(out / name)
        except (NotAStore, StoreNotFound):
            continue
        assert store.verify() == []


def test_pulls_that_are_killed(no_network, things, tmp_path):  # noqa: F811
    """Each file is whole or not there, a store lacks what has not come; then all is as it was."""
    draw, said = instants("pull"), tmp_path / "said"
    with sharing_hub() as (address, held), Record("kill: pull") as record:
        push = command(address, said, "push", *things, "--to", "me/mine")
        assert push.wait() == 0, said.read_text()
        expected = {name: data for name, data in held.files.items() if name != "README.md"}
        held.asked.clear()
        whole = command(address, said, "pull", "me/mine", "--out", tmp_path / "whole")
        assert whole.wait() == 0, said.read_text()
        assert fetched(tmp_path / "whole") == expected
        most = len(held.asked)
        for number in range(attempts(1, 0.4)):
            words = ("pull", "me/mine", "--out", out := tmp_path / f"out{number}")
            while not killed(address, held, draw, most, said, *words):
                out = tmp_path / f"{out.name}a"
                words = (*words[:-1], out)
            assert_nothing_is_taken_for_whole(out, expected)
            record(f"{'some' if fetched(out) else 'nothing'} was fetched")
            assert command(address, said, *words).wait() == 0, said.read_text()
            assert fetched(out) == expected
            assert not [name for name in tree(out) if name.endswith(".incomplete")]


# Answers that no hub gives.

NAMES = (
    "../evil", "net.zarr/../../evil", "/evil", "net.zarr/./evil", "a//evil", "..", ".", "", "/",
    ".cache/huggingface/download/evil.metadata", "nul\0", "n" * 300, "net.zarr", "r.csv/evil",
    "..\\evil", "~/evil", "net.zarr/zarr.json/evil",
)  # fmt: skip
BODIES = (
    b"<!doctype html><html><title>Please log in</title></html>", b"", b"null", b"[]", b"{}", b"7",
    b'{"sha": 7, "siblings": {}}', b'[{"type": "file"}]', b'[{"type": "file", "path": 7}]',
    b"[" * 100_000, b"\xff\xfe", b'{"sha": "../../evil"}', b'[[{"path": null}]]',
    b'[{"type": "file", "path": "r.csv", "size": -1, "oid": null, "lfs": {}}]',
)  # fmt: skip


def hostile(kind: str, draw, held):
    """Return what answers a request as no hub does; each returns whether it has answered."""
    at, count = draw.randint(1, len(held.asked)), iter(range(1, 1_000_000))

    def body(handler) -> bool:
        if next(count) != at:
            return False
        handler.reply(draw.choice(BODIES), 200, [("ETag", '"e"'), ("X-Repo-Commit", held.head)])
        return True

    def redirects(handler) -> bool:
        if next(count) < at:
            return False
        where = draw.choice([handler.path, f"{handler.path}x", "http://127.0.0.1:1/", "//[", ""])
        handler.reply(b"", draw.choice([301, 302, 307]), [("Location", where)])
        return True

    def status(handler) -> bool:
        if next(count) != at:
            return False
        handler.reply(b"<html>no</html>", draw.choice([400, 401, 403, 404, 410, 418, 451]))
        return True

    def cuts(handler) -> bool:
        if next(count) >= at:
            handler.wfile = Cut(handler.wfile, 0.5, lambda: None)
        return False

    def bytes_(handler) -> bool:
        if "/resolve/" not in handler.path or handler.command != "GET" or next(count) != 1:
            return False
        data = held.files[handler.path.partition("/resolve/")[2].partition("/")[2]]
        turned = data[:-1] + bytes([data[-1] ^ 1]) if data else b"x"
        data = draw.choice([turned, data + b"x", data[:-1], b""])
        handler.reply(data, 200, [("ETag", '"e"'), ("X-Repo-Commit", held.head)])
        return True

    def headers(handler) -> bool:
        if "/resolve/" not in handler.path or next(count) < at:
            return False
        said = draw.choice([
            [], [("ETag", "")], [("ETag", '"../../../evil"'), ("X-Repo-Commit", held.head)],
            [("ETag", '"e"'), ("X-Repo-Commit", "../../evil")],
            [("ETag", '"e"'), ("X-Repo-Commit", held.head), ("X-Linked-Size", "9")],
            [("ETag", '"e"'), ("X-Repo-Commit", held.head), ("X-Linked-Size", "many")],
            [("ETag", '"e"'), ("X-Repo-Commit", held.head), ("Content-Length", "99999999")],
            [("ETag", '"e"'), ("X-Repo-Commit", held.head), ("Content-Encoding", "gzip")],
        ])  # fmt: skip
        handler.reply(b"bytes", 200, said)
        return True

    def listing(handler) -> bool:
        if "/tree/" not in handler.path:
            return False
        files = [listed(name, data) for name, data in held.files.items()]
        changed = draw.choice(files)
        match draw.randrange(4):
            case 0:
                files += [listed(draw.choice(NAMES), b"evil")]
            case 1:
                changed["size"] += draw.choice([1, -1, 10**15])
            case 2:
                changed.pop("lfs", None)
                changed["oid"] = "0" * 40
            case 3:
                changed["lfs"] = {"oid": "0" * 64, "size": changed["size"], "pointerSize": 1}
        handler.reply(files)
        return True

    return {
        "body": body, "redirects": redirects, "status": status, "cuts": cuts, "bytes": bytes_,
        "headers": headers, "listing": listing,
    }[kind]  # fmt: skip


KINDS = ("listing", "headers", "bytes", "cuts", "body", "redirects", "status")


def test_no_answer_of_a_hub_is_believed_or_a_traceback(no_network, things, tmp_path, monkeypatch):  # noqa: F811
    """All that was pulled is as it was pushed, or one line says why not; nothing lies elsewhere."""
    draw = instants("hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    # the client waits before it tries again
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    runner = CliRunner()
    push = ["push", *map(str, things), "--to", "me/mine"]
    with sharing_hub() as (address, held), Record("hostile answers of a hub") as record:
        monkeypatch.setattr(downloads, "endpoint", lambda: address)
        ran = runner.invoke(main, push)
        assert ran.exit_code == 0, ran.output
        expected = {name: data for name, data in held.files.items() if name != "README.md"}
        pushing = list(held.asked)
        held.asked.clear()
        assert runner.invoke(main, ["pull", "me/mine", "--out", str(tmp_path / "o")]).exit_code == 0
        pulling = list(held.asked)
        outside = {name: data for name, data in tree(tmp_path).items() if name[0] != "o"}
        for number in range(attempts(len(KINDS) + 1, 1)):
            kind, out = KINDS[number % len(KINDS)], tmp_path / f"o{number}"
            pushed = number >= len(KINDS) and draw.random() < 0.3
            held.asked[:] = pushing if pushed else pulling
            held.meets = hostile(kind, draw, held)
            with no_longer_than(60):
                ran = runner.invoke(
                    main, push if pushed else ["pull", "me/mine", "--out", str(out)]
                )
            held.meets = lambda handler: False
            assert not ran.exit_code or "Error: " in ran.output, (kind, ran.output, ran.exc_info)
            assert_plain(ran.exit_code, ran.output)
            assert {n: data for n, data in tree(tmp_path).items() if n[0] != "o"} == outside
            if pushed:
                assert {k: v for k, v in held.files.items() if k != "README.md"} == expected
            elif ran.exit_code == 0:
                found = fetched(out)
                assert {name: found.get(name) for name in expected} == expected
            does = "push" if pushed else "pull"
            record(f"{does}, {kind}: {'told' if ran.exit_code else 'of no consequence'}")
