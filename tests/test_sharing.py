"""Pushing to, and pulling from, a data-set repository of a hub that stands in on this machine."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from layer_stores import made
from loopback import no_network  # noqa: F401
from sharing_hub import sharing_hub

import featstore
from featstore import downloads, probe, sharing
from featstore.cli import main
from featstore.errors import DownloadRefused, StoreDamaged, StoreIncomplete, UsageError

# huggingface_hub gives bytes to its HTTP client in a way of old
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, no_network):  # noqa: F811
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    with sharing_hub() as (address, held):
        monkeypatch.setattr(downloads, "endpoint", lambda: address)
        yield held


@pytest.fixture
def things(tmp_path):
    store = made(tmp_path / "net.zarr", ["low", "high"])
    swept = probe.sweep(
        store.tap("train", "low"), store.tap("test", "low"), fractions=0.5, solver="ridge",
        tap="low", out=tmp_path / "r.csv", device="cpu",
    )  # fmt: skip
    assert len(swept) == 2
    return store, tmp_path / "r.csv"


def test_what_is_pushed_in_one_commit_is_pulled_as_it_was(hub, things, tmp_path):
    store, results = things
    done = sharing.push([store.path, results], "me/mine")
    ((message, files),) = hub.commits
    assert message == "Add net.zarr, r.csv, r.csv.rows.npz, r.csv.sha256"
    assert done.commit == hub.head
    card = files["README.md"].decode()
    assert card.startswith("---\ntags:\n- featstore\n")
    assert "| low | 12 | none |" in card
    assert store.spec.digest() in card
    assert "featstore pull me/mine" in card
    paths = sharing.pull("me/mine", tmp_path / "here")
    assert [path.name for path in paths] == ["net.zarr", "r.csv"]
    there = featstore.open(tmp_path / "here" / "net.zarr")
    assert there.spec == store.spec
    for tap in ("low", "high"):
        assert np.array_equal(there.load("test", tap), store.load("test", tap))
    for name in ("r.csv", "r.csv.rows.npz", "r.csv.sha256"):
        assert (tmp_path / "here" / name).read_bytes() == results.with_name(name).read_bytes()


def test_a_push_that_broke_off_sends_what_is_left_and_commits_once(hub, things):
    store, _ = things
    large = sorted(path for path in store.path.rglob("*") if path.stat().st_size > 1000)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in large if path.is_file()]
    hub.refused = {hashes[-1]}
    with pytest.raises(DownloadRefused, match="the repository me/mine could not be fetched"):
        sharing.push([store.path], "me/mine")
    assert hub.commits == []
    before, hub.refused = list(hub.uploads), set()
    sharing.push([store.path], "me/mine")
    assert len(hub.commits) == 1
    assert sorted(hub.uploads) == sorted(set(hashes))
    assert hashes[-1] in hub.uploads[len(before) :]
    sharing.push([store.path], "me/mine")
    assert sorted(hub.uploads) == sorted(set(hashes))


def test_some_of_it_is_pulled_by_name(hub, things, tmp_path):
    store, results = things
    sharing.push([store.path, results], "me/mine")
    (path,) = sharing.pull("me/mine", tmp_path / "here", names=["r.csv"])
    assert sorted(one.name for one in path.parent.iterdir() if one.name != ".cache") == [
        "r.csv", "r.csv.rows.npz", "r.csv.sha256"
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"me/mine has no 'other.zarr'; it has net.zarr, r.csv"):
        sharing.pull("me/mine", tmp_path / "here", names=["other.zarr"])


def test_a_store_that_arrives_damaged_is_told(hub, things, tmp_path):
    store, _ = things
    sharing.push([store.path], "me/mine")
    name = next(name for name in hub.files if "test/low/c" in name)
    hub.files[name] = hub.files[name][:-1] + bytes([hub.files[name][-1] ^ 1])
    with pytest.raises((featstore.errors.FeatstoreError, StoreDamaged), match="arrived damaged"):
        sharing.pull("me/mine", tmp_path / "here")


def test_records_come_after_rows_and_what_a_killed_pull_left_goes(hub, things, tmp_path):
    sharing.push([things[0].path], "me/mine")
    left = tmp_path / "here" / ".cache" / "huggingface" / "download" / "net.zarr" / "x.1.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    hub.asked.clear()
    sharing.pull("me/mine", tmp_path / "here")
    fetched = [one for one in hub.asked if one.startswith("GET /datasets/me/mine/resolve/")]
    records = ["/commits/" in one for one in fetched]
    assert records == sorted(records)
    assert set(records) == {True, False}
    assert not left.exists()


@pytest.mark.parametrize("name", ["../evil.csv", "net.zarr/../../evil.csv", "/tmp/evil.csv"])
def test_a_hub_that_names_files_elsewhere_writes_none(hub, things, tmp_path, name):
    sharing.push([things[1]], "me/mine")
    hub.files[name] = b"evil"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DownloadRefused, match=r"names .*evil.csv., outside of the folder"):
        sharing.pull("me/mine", tmp_path / "here")
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_pushed(hub, things, tmp_path):
    store, _ = things
    with pytest.raises(UsageError, match="'mine' is no name of a repository"):
        sharing.push([store.path], "mine")
    with pytest.raises(UsageError, match="nothing to push is named"):
        sharing.push([], "me/mine")
    shutil.copytree(store.path, tmp_path / "b" / "net.zarr")
    with pytest.raises(UsageError, match=r"two things would be sent as net.zarr"):
        sharing.push([store.path, tmp_path / "b" / "net.zarr"], "me/mine")
    with store.writer() as writer:
        writer.discard("test", 0)
    with pytest.raises(StoreIncomplete):
        sharing.push([store.path], "me/mine")
    assert hub.commits == []


def test_the_commands(hub, things, tmp_path):
    store, results = things
    runner = CliRunner()
    ran = runner.invoke(main, ["push", str(store.path), str(results), "--to", "me/mine"])
    assert ran.exit_code == 0, ran.output
    assert "sent net.zarr, r.csv" in ran.stderr
    ran = runner.invoke(main, ["pull", "me/mine", "--out", str(tmp_path / "here")])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "here" / "net.zarr").is_dir()
