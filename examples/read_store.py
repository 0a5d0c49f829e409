"""Read a store with NumPy and JSON alone, as a reader in another language would.

    python examples/read_store.py mine.zarr train penultimate

It reads uncompressed Zarr trees and HDF5 files, and checks no checksum: `featstore verify` does.
`docs/format.md` explains each step.
"""

import json
import sys
from pathlib import Path

import numpy as np


def read(path: Path, split: str, tap: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features (n, D) or (views, n, D), labels (n,) or (n, T), and n ids of one split."""
    header, array = _zarr(path, split) if path.is_dir() else _hdf5(path, split)
    if header["format_version"] != 1:
        raise SystemExit(f"{path} is in format version {header['format_version']}, not in 1")
    if not array("commits", _slots(header, split), "u1").any(axis=1).all():
        raise SystemExit(f"{path} is incomplete: a block of {split} is not committed")
    spec = header["spec"]
    (rows,) = (each for each in spec["splits"] if each["name"] == split)
    (dim,) = (each["dim"] for each in spec["taps"] if each["name"] == tap)
    n, views, targets = rows["n_rows"], rows.get("views", 1), len(spec.get("targets", []))
    features = array(tap, (views, n, dim) if views > 1 else (n, dim), spec["dtype"])
    labels = array("labels", (n, targets) if targets > 1 else (n,), "f8" if targets else "i8")
    ids = array("ids", (n, header["id_width"]), "u1")
    return features, labels, [bytes(row).rstrip(b"\0").decode() for row in ids]


def _slots(header, split):
    (rows,) = (each for each in header["spec"]["splits"] if each["name"] == split)
    views, taps = rows.get("views", 1), [each["name"] for each in header["spec"]["taps"]]
    pieces = [f"{tap}/{v}" for tap in taps for v in range(views)] if views > 1 else taps
    kept = [f"column.{place}" for place in range(len(header["spec"].get("columns", [])))]
    sums = dict.fromkeys([*pieces, "labels", "ids", *kept], "0" * 32)
    record = {"store": "0" * 64, "split": split, "block": 10**15, "checksums": sums, "seen": {}}
    length = len(json.dumps(record, separators=(",", ":"))) + 34
    return -(-rows["n_rows"] // header["block_rows"]), -(-length // 512) * 512


def _zarr(root, split):
    def array(name, shape, dtype):
        about = json.loads((root / split / name / "zarr.json").read_text())
        if len(about["codecs"]) > 1:
            raise SystemExit(f"{name} is compressed by {about['codecs'][1]['name']}")
        chunk = about["chunk_grid"]["configuration"]["chunk_shape"]
        whole = np.empty(about["shape"], np.dtype(dtype).newbyteorder("<"))
        for place in np.ndindex(*(-(-n // c) for n, c in zip(whole.shape, chunk, strict=True))):
            file = root / split / name / f"c.{'.'.join(map(str, place))}"
            where = tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunk, strict=True))
            part = whole[where]  # the last chunk is stored whole, its rest is zeros
            stored = np.fromfile(file, whole.dtype).reshape(chunk)
            part[...] = stored[tuple(slice(n) for n in part.shape)]
        return whole

    return json.loads((root / "zarr.json").read_text())["attributes"]["featstore"], array


def _hdf5(path, split):
    data = path.read_bytes()
    start, length = np.frombuffer(data[-48:-32], "<u8")  # behind "featstore-seal-1"
    seal = json.loads(data[int(start) : int(start + length)])

    def array(name, shape, dtype):
        if name == "commits":
            shape = _slots(seal["header"], split)
        dtype = np.dtype(dtype).newbyteorder("<")
        count, offset = int(np.prod(shape)), seal["offsets"][f"{split}/{name}"]
        return np.frombuffer(data, dtype, count, offset).reshape(shape)

    return seal["header"], array


if __name__ == "__main__":
    X, y, ids = read(Path(sys.argv[1]), *sys.argv[2:])
    print(f"features {X.shape} {X.dtype}, labels {y.shape}; row {ids[0]!r} is of {y[0]}")
