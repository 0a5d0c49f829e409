"""Bits flipped, files cut and taken away: every answer is right or an error, and `verify` tells."""

import json
import shutil

import numpy as np
import pytest
from attack import Record, attempts, contents, instants, no_longer_than

import featstore
from featstore.errors import FeatstoreError
from featstore.testing import filled, spec_of

pytestmark = pytest.mark.usefixtures("small_blocks")
SPEC = spec_of(n_train=32 * 3 + 5, n_test=40, dims=(12, 3))


def flipped(data: bytes, draw) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def cut(data: bytes, draw) -> bytes:
    return data[: draw.randrange(len(data))]


def zeroed(data: bytes, draw) -> bytes:
    at, length = draw.randrange(len(data)), draw.randrange(1, 4096)
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def gone(data: bytes, draw) -> None:
    return None


DAMAGES = {"flip": flipped, "cut": cut, "zeros": zeroed, "gone": gone}


def is_a_line(error) -> bool:
    return bool(str(error)) and "\n" not in str(error)


def holds(path, expected, header) -> str:
    """Check that a damaged store gives what it held, or an error; anything else fails."""
    with no_longer_than(30):
        try:
            store = featstore.open(path)
            damages = store.verify()
            # what is found is told on a line
            assert all(str(damage) and "\n" not in str(damage) for damage in damages)
            whole = store.complete and not damages
        except FeatstoreError as error:
            return "refused" if is_a_line(error) else "told at length"
        try:
            found = contents(path)
        except FeatstoreError as error:
            told = is_a_line(error) and not whole
            return "told by verify, and refused where it is read" if told else "not told"
    assert found == expected
    assert store.header.spec == header.spec
    return "of no consequence" if whole else "told by verify, and read"


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_zarr_store(tmp_path, damage, codec):
    draw = instants(f"zarr {damage} {codec}")
    store = filled(tmp_path / "a.zarr", "zarr", SPEC, codec=codec)
    expected = contents(store.path)
    files = sorted(file for file in store.path.rglob("*") if file.is_file())
    with Record(f"{damage}: zarr, {codec}") as record:
        for number in range(attempts(len(files), 10)):
            file = files[number % len(files)]
            data = file.read_bytes()
            changed = DAMAGES[damage](data, draw)
            if changed == data:
                continue
            file.unlink() if changed is None else file.write_bytes(changed)
            outcome = holds(store.path, expected, store.header)
            file.write_bytes(data)
            assert outcome not in ("not told", "told at length")
            if outcome == "of no consequence" and codec == "none":
                assert_of_no_consequence(file, data, changed)
            record(outcome)
    assert contents(store.path) == expected


def assert_of_no_consequence(file, data, changed) -> None:
    """Padding of a short last chunk, blanks of a document, zeros cut from the end of a record.

    Of a compressed chunk there are unused bits too, with which it is the same rows.
    """
    if file.name == "zarr.json":
        assert json.loads(changed) == json.loads(data)
    elif file.parent.name == "commits":
        assert changed.rstrip(b"\n\0") == data.rstrip(b"\n\0")
    else:
        # the last block of each split is short
        assert file.name.split(".")[1] in ("3", "1")


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "gone"])
def test_a_damaged_hdf5_file(tmp_path, damage):
    draw = instants(f"hdf5 {damage}")
    store = filled(tmp_path / "a.h5", "hdf5", SPEC)
    expected, data = contents(store.path), store.path.read_bytes()
    # a third of them where HDF5 keeps its own metadata, whose library is never asked
    with Record(f"{damage}: hdf5") as record:
        # what is cut has no seal, and is looked at by another process each time
        for number in range(attempts(6, 0.5) if damage == "cut" else attempts(20, 10)):
            if number % 3 == 0 and damage == "flip":
                at = draw.randrange(2048)
                changed = data[:at] + flipped(data[at : at + 1], draw) + data[at + 1 :]
            else:
                changed = DAMAGES[damage](data, draw)
            if changed == data:
                continue
            store.path.write_bytes(changed)
            outcome = holds(store.path, expected, store.header)
            assert outcome not in ("not told", "told at length")
            record(outcome)
    store.path.write_bytes(data)
    assert contents(store.path) == expected


def test_files_that_were_swapped(tmp_path):
    """Chunks, records and documents of another place or store are none."""
    draw = instants("swap")
    one = filled(tmp_path / "a.zarr", "zarr", SPEC)
    other = filled(tmp_path / "b.zarr", "zarr", SPEC.model_copy(update={"backbone": "other"}))
    expected = contents(one.path)
    files = [
        sorted(file for file in store.path.rglob("*") if file.is_file()) for store in (one, other)
    ]
    with Record("swap: zarr") as record:
        for _ in range(attempts(20, 5)):
            to = draw.choice(files[0])
            source = draw.choice(draw.choice(files))
            data = to.read_bytes()
            if source.read_bytes() == data or (to.name == "zarr.json" and to.parent == one.path):
                continue
            shutil.copyfile(source, to)
            with no_longer_than(30):
                try:
                    damages = featstore.open(one.path).verify()
                    found = contents(one.path)
                except FeatstoreError:
                    found, damages = None, [None]
            assert found in (None, expected)
            complete = found is not None and featstore.open(one.path).complete
            if not damages:
                # ids, labels and rows may be alike where they are swapped
                assert not complete or found == expected
            record("refused" if found is None else "told by verify" if damages else "alike")
            to.write_bytes(data)
    assert contents(one.path) == expected
    assert np.array_equal(one.load("train", "tap0"), featstore.open(one.path).load("train", "tap0"))
