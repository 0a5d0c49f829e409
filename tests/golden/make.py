"""Documents how the files of this folder were made; the tests do not run it.

    mkdir /golden && cd /golden && python .../tests/golden/make.py
    python .../tests/golden/make.py --expected

The first line makes stores, results, weights, predictions and a study in the current folder, by the
command line alone. The second writes what `tests/test_golden.py` expects of them, `expected.json`,
as the code that runs reads them. Both were run once, by the commit before `probe` became
`featstore.probe`, and a new run keeps no promise about old files: run neither again, add to them.
"columns.zarr" was added when stores came to keep columns, by `make.py --columns`; its part of
`expected.json` is what `store_of` of the tests gives. "early" was made by running the commands
below in a checkout of e941835, whose results lack the columns `chance` and `majority` and the file
`.rows.npz`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import fsspec
import numpy as np
from PIL import Image

from featstore.__main__ import main

HERE = Path(__file__).parent

MEMORY = "memory://golden/"
"""Where sweeps find their stores: results name a store by its place, and go on with no other."""

SWEEP = "--fractions 0.25,0.5 --seeds 2 --device cpu --memory 64MiB"
SWEEPS = {
    "logistic.csv": "clusters.zarr --solver logistic",
    "logistic-fixed.json": "clusters.zarr --solver logistic --l2 0.01",
    "ridge.parquet": "clusters.zarr --solver ridge --metrics accuracy,nll,top5",
    "ridge-fixed.csv": "clusters.zarr --solver ridge --l2 0.001,0.1 --cka",
    "ridge-modes.csv": "clusters.zarr --solver ridge --mode random,variance,fisher,pca,last",
    "lda.json": "clusters.zarr --solver lda",
    "lda-fixed.csv": "clusters.zarr --solver lda --l2 0.1",
    "sgd.csv": "clusters.zarr --solver sgd --epochs 3 --batch-size 32 --validate-every 1",
    "sgd-chosen.parquet": "clusters.zarr --solver sgd --l2 auto --epochs 2 --batch-size 64",
    "numbers.csv": "numbers.zarr --solver ridge",
}
"""Results, and the words of `featstore probe` that made each, between MEMORY and SWEEP."""

EARLY = "early.zarr --solver logistic --fractions 0.25,0.5 --seeds 2 --device cpu"

STUDY = """\
title = "Clusters, plain and as HDF5"
fractions = [0.25, 0.5]
seeds = 2
figures = []

[stores.plain]
store = "clusters.zarr"

[stores.file]
store = "clusters.h5"

[probes.ridge]
per_class = true

[probes.lda]
l2 = 0.1
features = ["plain"]

[analyses]
resamples = 100
"""


def featstore(words: str) -> None:
    """Run a command in this process, the only one that sees stores at memory://."""
    sys.argv = ["featstore", *words.split()]
    main(sys.argv[1:], standalone_mode=False)


def clusters(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n_rows, 24) of three overlapping clusters, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_rows) % 3
    centres = np.random.default_rng(0).normal(size=(3, 24))
    return (centres[labels] + 1.8 * random.normal(size=(n_rows, 24))).astype(np.float32), labels


def write_arrays() -> None:
    """Write arrays of clusters, and of two numbers that are linear in the features."""
    for split, n_rows, seed in (("train", 120, 1), ("test", 90, 2)):
        features, labels = clusters(n_rows, seed)
        np.save(f"{split}.npy", features)
        np.save(f"{split}-labels.npy", labels)
        weights = np.random.default_rng(3).normal(size=(24, 2))
        noise = np.random.default_rng(seed + 10).normal(size=(n_rows, 2))
        np.save(f"{split}-numbers.npy", features @ weights + noise)


def write_images() -> None:
    """Write a folder of small images, one of them in grey, with two files that are none."""
    random = np.random.default_rng(4)
    for split, n_rows in (("train", 24), ("test", 12)):
        for row in range(n_rows):
            folder = Path("images", split, ("cat", "dog", "emu")[row % 3])
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).convert("L" if row == 4 else "RGB")
            image.save(folder / f"{row:02}.png")
    Path("images/train/cat/notes.txt").write_text("taken on a Sunday\n")
    Path("images/train/dog/Thumbs.db").write_text("")


def columns() -> None:
    """Make a store that keeps a patient and a year of each row, as `python make.py --columns`."""
    write_arrays()
    words = "--out columns.zarr"
    for split, n_rows in (("train", 120), ("test", 90)):
        np.save(f"{split}-patients.npy", [f"p{row // 6}-é" for row in range(n_rows)])
        np.save(f"{split}-years.npy", np.arange(n_rows) % 7 - 3)
        words += f" --{split}-features {split}.npy --{split}-labels {split}-labels.npy"
        words += f" --{split}-column patient={split}-patients.npy"
        words += f" --{split}-column year={split}-years.npy"
    featstore(f"import {words}")


def make() -> None:
    """Make everything in the current folder."""
    write_arrays()
    write_images()
    arrays = "--train-features train.npy --test-features test.npy"
    labels = "--train-labels train-labels.npy --test-labels test-labels.npy"
    numbers = "--train-labels train-numbers.npy --test-labels test-numbers.npy"
    featstore(f"import {arrays} {labels} --out clusters.zarr")
    featstore(f"import {arrays} {numbers} --targets height,width --out numbers.zarr")
    featstore("convert clusters.zarr clusters.h5")
    images = "--model test_resnet --no-pretrained --dataset folder:images --image-size 32"
    images += " --device cpu --workers 0"
    featstore(f"extract {images} --taps penultimate,layer1 --out images.zarr")
    featstore("convert images.zarr images-zstd.zarr --codec zstd")
    featstore(f"extract {images} --views 2 --dtype float16 --out views.zarr")
    for name in ("clusters.zarr", "numbers.zarr"):
        fsspec.filesystem("memory").put(name, f"/golden/{name}", recursive=True)
    Path("results").mkdir()
    for name, words in SWEEPS.items():
        more = ""
        if name == "logistic.csv":
            more = "--save-weights probes.safetensors --save-predictions predictions.csv"
            more += " --per-class per_class.csv"
        featstore(f"probe {MEMORY}{words} {SWEEP} --out results/{name} {more}")
    Path("study.toml").write_text(STUDY)
    featstore("study study.toml")
    for path in Path().glob("*.npy"):
        path.unlink()
    for folder in ("images", *Path().glob("*.moments")):
        shutil.rmtree(folder)
    for note in Path().rglob("*.provenance.json"):  # which says what machine this was
        made = json.loads(note.read_text())
        made["machine"] |= {"system": "Linux", "processor": "x86_64"}
        note.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    featstore("study study.toml")  # a page of the notes as they are now


if __name__ == "__main__":
    if sys.argv[1:] == ["--expected"]:
        sys.path.insert(0, str(HERE.parent))
        from test_golden import read

        with tempfile.TemporaryDirectory() as scratch:
            found = read(HERE, Path(scratch))
        text = json.dumps(found, indent=1, sort_keys=True)
        (HERE / "expected.json").write_text(text + "\n")
    elif sys.argv[1:] == ["--columns"]:
        columns()
    else:
        make()
