"""Values of options, checked for form before any work; what they may be is for the library."""

import importlib.util
import os
from pathlib import Path

import click


class Place(click.ParamType):
    """A path of this machine, or a URL such as s3://bucket/mine.zarr."""

    name = "store"

    def convert(self, value, param, ctx) -> Path | str:
        """Return the path, or the URL as it is."""
        return value if "://" in str(value) else Path(value)


STORE = Place()
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FORMAT = click.Choice(["zarr", "hdf5"])
CODEC = click.Choice(["none", "zstd"])
DTYPE = click.Choice(["float16", "float32"])
DEVICE = click.Choice(["auto", "cpu", "cuda"])


class NumberList(click.ParamType):
    """Numbers separated by commas."""

    name = "list"

    def __init__(self, number: type, example: str):
        self.number, self.example = number, example

    def convert(self, value, param, ctx) -> tuple:
        """Return the numbers; what they may be is for the library to say."""
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.number(part) for part in value.split(",") if part.strip())
        except ValueError:
            numbers = ()
        return numbers or self.fail(f"{value!r} is not a list such as {self.example}", param, ctx)


class Penalties(NumberList):
    """Numbers separated by commas, or `auto`."""

    def convert(self, value, param, ctx) -> tuple[float, ...] | str:
        """Return the penalties, or "auto"."""
        return value if value == "auto" else super().convert(value, param, ctx)


class Seeds(NumberList):
    """A count, `5` for seeds 1 to 5, or a list, `3,7` for those two and `3,` for one."""

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        """Return the seeds."""
        numbers = super().convert(value, param, ctx)
        if not isinstance(value, str) or "," in value:
            return numbers
        if numbers[0] < 1:
            self.fail(f"{value} seeds are none; 5 is seeds 1 to 5, {self.example} those two",
                      param, ctx)  # fmt: skip
        from probe.checks import MOST_SEEDS

        if numbers[0] > MOST_SEEDS:  # before they are listed
            self.fail(
                f"{numbers[0]:,} seeds are as many probes of every mode, fraction and penalty; "
                f"give {MOST_SEEDS:,} or fewer, or a list, {numbers[0]}, for that seed alone",
                param, ctx,
            )  # fmt: skip
        return tuple(range(1, numbers[0] + 1))


PICTURES = (".png", ".svg", ".pdf")


class OutFile(click.ParamType):
    """A file to write, refused before any work where its folder or suffix will not do."""

    name = "file"

    def __init__(self, *suffixes: str):
        self.suffixes = suffixes

    def convert(self, value, param, ctx) -> Path:
        """Return the path."""
        path = Path(value)
        if path.suffix.lower() not in self.suffixes:
            self.fail(f"{str(path)!r} must end in {' or '.join(self.suffixes)}", param, ctx)
        if path.suffix.lower() in PICTURES and importlib.util.find_spec("matplotlib") is None:
            self.fail(f"{str(path)!r} needs matplotlib: pip install matplotlib", param, ctx)
        if path.is_dir():
            self.fail(f"{str(path)!r} is a folder", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}; make it first", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"cannot write into {str(path.parent)!r}; choose another folder", param, ctx)
        return path


TABLE = OutFile(".csv", ".json", ".parquet")
PICTURE = OutFile(*PICTURES)
TABLE_OR_PICTURE = OutFile(*TABLE.suffixes, *PICTURE.suffixes)


class Names(click.ParamType):
    """Names separated by commas."""

    name = "list"

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        """Return the names."""
        return tuple(value.split(",")) if isinstance(value, str) else value
