"""Make the study's data sets from packages of Debian, as lists: `python data.py [FOLDER]`.

`clipart.csv` names the drawings of `openclipart-png` (class: the folder they lie in), and
`sections.csv` has the one-line descriptions of packages that apt knows (class: the section that
they are filed under).

A fifth of each is for test, by a checksum of the name of the drawing or of the source package, so
that lists made again are the same. Of each source package one binary package is taken, since its
brothers are described in nearly the same words; the same description or drawing is taken once. A
few drawings are rendered at up to 230 megapixels and are left out.
"""

import hashlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

CLIPART = Path("/usr/share/openclipart/png")
FEWEST = 50  # rows of a class, of drawings
LARGEST = 4_000_000  # pixels
FEWEST_TEXTS, MOST_TEXTS = 100, 400


def clipart() -> pd.DataFrame:
    """Return path, label, split of each drawing in a folder of `FEWEST`; not of unsorted ones."""
    paths = [path for path in sorted(CLIPART.rglob("*.png")) if pixels(path) <= LARGEST]
    table = pd.DataFrame({
        "path": [str(path.relative_to(CLIPART)) for path in paths],
        "label": [path.relative_to(CLIPART).parts[0] for path in paths],
        "content": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
    })  # fmt: skip
    table = table[table["label"] != "unsorted"].drop_duplicates("content")
    table = table[table.groupby("label")["path"].transform("size") >= FEWEST]
    return table.assign(split=[split(path) for path in table["path"]]).drop(columns="content")


def pixels(path: Path) -> int:
    """Return the size of a PNG file's image, which stands in its first 24 bytes."""
    with path.open("rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return width * height


def sections() -> pd.DataFrame:
    """Return text, label, split of one package a source, of sections with `FEWEST_TEXTS`."""
    known = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True)
    table = pd.DataFrame(packages(known.stdout), columns=["source", "text", "label"])
    table = table.sort_values(["source", "text"]).drop_duplicates("source").drop_duplicates("text")
    order = table["source"].map(lambda name: zlib.crc32(f"order {name}".encode()))
    table = table.assign(order=order).sort_values("order").groupby("label").head(MOST_TEXTS)
    table = table[table.groupby("label")["text"].transform("size") >= FEWEST_TEXTS]
    table = table.assign(split=[split(name) for name in table["source"]])
    return table.sort_values("source")[["text", "label", "split"]]


def packages(available: str) -> Iterator[tuple[str, str, str]]:
    """Yield (source package, description, section) of each binary package in apt's listing."""
    for paragraph in available.split("\n\n"):
        pairs = (line.partition(": ")[::2] for line in paragraph.splitlines())
        fields = {name: value for name, value in pairs if not name.startswith(" ")}
        if {"Package", "Description", "Section"} <= fields.keys():
            source = fields.get("Source", fields["Package"]).split()[0]
            yield source, fields["Description"], fields["Section"]


def split(name: str) -> str:
    """Say whether a row is for train or for test, by its name alone."""
    return "test" if zlib.crc32(name.encode()) % 5 == 0 else "train"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for table, name in ((clipart(), "clipart.csv"), (sections(), "sections.csv")):
        table.to_csv(folder / name, index=False)
        rows = " and ".join(f"{n:,} {of}" for of, n in table["split"].value_counts().items())
        print(f"{name}: {rows} rows, {table['label'].nunique()} classes")
