"""Disks without room: one line that says so, what was there stays, and it goes on with room."""

import os
import subprocess

import pytest
from attack import (
    Record,
    arrays,
    assert_plain,
    attempts,
    contents,
    instants,
    run,
    tree,
)
from test_attack_kills import EXPORT, importing, readable

import featstore

pytestmark = [pytest.mark.usefixtures("small_blocks"), pytest.mark.long]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two stores of the same rows."""
    folder = tmp_path_factory.mktemp("sources")
    for name, format, seed in (("a.zarr", "zarr", 0), ("b.h5", "hdf5", 1)):
        files = arrays(folder / name.partition(".")[0], seed=seed)
        made = importing(folder / name, files, "--format", format)
        assert_plain(*run(*made, said=folder / "said"))
    (folder / "said").unlink()
    return folder


MAKING = {
    "import zarr": ("c.zarr", lambda s, out: importing(out, arrays(s / "a"))),
    "import hdf5": ("c.h5", lambda s, out: importing(out, arrays(s / "a"), "--format", "hdf5")),
    "convert": ("c.h5", lambda s, out: ("convert", s / "a.zarr", out, "--overwrite")),
    "convert zstd": (
        "c.zarr", lambda s, out: ("convert", s / "b.h5", out, "--codec", "zstd", "--overwrite"),
    ),
    "merge": (
        "c.h5",
        lambda s, out: (
            "merge", s / "a.zarr", s / "b.h5", "--names", "x,y", "--out", out, "--overwrite",
        ),
    ),
    "export npz": (
        "c.npz", lambda s, out: ("export", s / "a.zarr", *EXPORT, out, "--overwrite"),
    ),
    "export parquet": (
        "c.parquet", lambda s, out: ("export", s / "a.zarr", *EXPORT, out, "--overwrite"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKING)
def test_files_that_may_not_grow(sources, tmp_path, name):
    """A limit on the size of each file, which is met wherever something is written."""
    draw = instants(f"limit {name}")
    before = tree(sources)
    file, made = MAKING[name]
    out, said = tmp_path / "here" / file, tmp_path / "said"
    out.parent.mkdir()
    with Record(f"no room: {name}") as record:
        for _ in range(attempts(1, 0.2)):
            # most limits are small: creation is where it used to be told badly
            limit = round(10 ** draw.uniform(2.5, 5))
            status, text = run(*made(sources, out), said=said, RLIMIT_FSIZE=limit)
            assert_plain(status, text)
            record("no room" if status else "room enough")
            if status and file.endswith((".zarr", ".h5")) and out.exists():
                assert featstore.open(out).verify() == []
    assert_plain(*run(*made(sources, out), said=said))
    assert readable(out)
    assert tree(sources) == before
    assert_plain(*run("gc", out.parent, "--days", "0", "--yes", said=said))
    assert [entry.name for entry in out.parent.iterdir()] == [file]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no file system may be mounted here")
    except FileNotFoundError:
        pytest.skip("no mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("format", featstore.FORMATS)
def test_a_disk_that_fills_up(sources, small_disk, tmp_path, format):
    draw, said = instants(f"disk {format}"), tmp_path / "said"
    out = small_disk / f"c.{format}"
    expected = contents(sources / "a.zarr")
    with Record(f"full disk: {format}") as record:
        for _ in range(attempts(1, 0.3)):
            filler = small_disk / "filler"
            free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
            filler.write_bytes(bytes(max(0, free - draw.randrange(0, 100_000))))
            made = ("convert", sources / "a.zarr", out, "--format", format, "--overwrite")
            status, text = run(*made, said=said)
            assert_plain(status, text)
            record("no room" if status else "room enough")
            if out.exists():
                assert featstore.open(out).verify() == []
            filler.unlink()
    assert_plain(*run(*made, said=said))
    assert contents(out) == expected
