"""Notes of how results were made: what they hold, and what they must not hold."""

import json
import os

import pytest

from featstore.report import provenance


def test_a_note_says_command_versions_machine_and_stores(tiny_store, tmp_path):
    results = tmp_path / "results.csv"
    path = provenance.write(results, [tiny_store], ["/env/bin/featstore", "probe", "a b.zarr"])
    assert path == tmp_path / "results.csv.provenance.json"
    note = provenance.read(results)
    assert note["command"] == "featstore probe 'a b.zarr'"
    assert note["versions"]["featstore"]
    assert note["machine"]["cores"] == os.cpu_count()
    (store,) = note["stores"]
    assert store["digest"] == tiny_store.spec.digest()
    assert store["spec"]["splits"][0]["fingerprint"] == "train-of-clusters"
    assert store["path"] == str(tiny_store.path)


def test_a_run_as_a_module_is_written_as_a_person_types_it(tmp_path):
    provenance.write(tmp_path / "r.csv", (), ["/env/featstore/__main__.py", "probe"])
    assert provenance.read(tmp_path / "r.csv")["command"] == "featstore probe"
    provenance.write(tmp_path / "r.csv")
    assert provenance.read(tmp_path / "r.csv")["command"] is None


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("s3://AKIA:pass@host/b/x.zarr", "s3://host/b/x.zarr"),
        ("s3://AKIA:p@ss:word@host/x", "s3://host/x"),
        ("s3://token@host", "s3://host"),
        (
            "simplecache::https://me:pw@host/x?X-Amz-Signature=abc&y=1",
            "simplecache::https://host/x",
        ),
        ("wds:https://me:pw@host/{0..9}.tar", "wds:https://host/{0..9}.tar"),
        ("--store=s3://u:p@h/a,s3://v:q@h/b", "--store=s3://h/a,s3://h/b"),
        ("hf:name@revision", "hf:name@revision"),
        ("/data/me@home/x?.zarr", "/data/me@home/x?.zarr"),
        ("s3://bucket/a@b.zarr", "s3://bucket/a@b.zarr"),
    ],
)
def test_urls_lose_their_secrets_and_nothing_else_changes(secret, shown, tmp_path):
    assert provenance.public(secret) == shown
    path = provenance.write(tmp_path / "r.csv", (), ["featstore", "probe", secret])
    assert json.loads(path.read_text())["command"].split(" ", 2)[2].strip("'") == shown


def test_a_note_that_is_damaged_is_as_good_as_none(tmp_path):
    results = tmp_path / "r.csv"
    assert provenance.read(results) is None
    for text in ("{", "[]", '{"format": 99}', "\x00"):
        provenance.beside(results).write_text(text)
        assert provenance.read(results) is None


def test_a_note_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = provenance.write(tmp_path / "r.csv", (), ["featstore", "probe"])
    before = path.read_bytes()
    monkeypatch.setattr(provenance, "versions", lambda: {"numpy": object()})
    with pytest.raises(TypeError):
        provenance.write(tmp_path / "r.csv")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if "provenance" in file.name] == [path.name]
