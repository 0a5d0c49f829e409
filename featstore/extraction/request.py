"""Options of `featstore.extract`, checked for form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from featstore.data.columns import Columns
from featstore.data.rows import DEPTHS, MapStyle
from featstore.errors import UsageError
from featstore.factories import is_named
from featstore.spec import PENULTIMATE

if TYPE_CHECKING:
    import torch

    from featstore.data.maps import Maps

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DTYPES = ("float16", "float32")
CODECS = ("none", "zstd")
ON_ERROR = ("raise", "skip")
ROWS = ("items", "tokens", "patches")
DECODE = ("host", "device")
# The split that is augmented, and what a single data set is.
TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `featstore.extract`. Raises `UsageError` for values that cannot be.

    `model` is a name, or a `torch.nn.Module` or another callable (see `models.own.backbone`, which
    takes `name`, `version` and a callable `transform`), whose taps are as `named_modules` calls
    them, and "output". `dataset` is a name, or a data set by split, or one data set, which is then
    "train" (see `data.own.load`, which takes `ids`); `splits` are then all that it has. Either may
    be named `import:package.module:NAME` or `import:FILE.py:NAME`, which runs that code, see
    `featstore.factories`.

    What goes in by name: `model`, `weights`, `weights_key`, `weights_prefix`, `pretrained`,
    `image_size`, `transform`, `trust`, `weights_dtype`, `device_map`, `prompt` and `long_texts` as
    in `models.load`; `taps` and `pool` as in `taps.resolve`; `dataset`, `data_dir`, `columns`,
    `limit` and `bit_depth` as in `data.load`, of each of `splits`. With `on_error="skip"` every
    row is read once beforehand, and those that cannot be, or lack a label, are left out; otherwise
    the first one that is met is an error.

    `views` passes of augmented train images are stored; `augment` says how they are made (see
    `views.parse`; "paper" where there are several), from draws that `seed` decides. One view
    without `augment` is the clean image, which all other splits keep.

    A row of the store is an item, or with `rows` one of its "tokens" or "patches" (see
    `taps.resolve`), called ITEM:PLACE. A patch has its image's label, or that of its pixels in a
    map, which a column of a table names or is the second of a pair (image, map) of objects, as
    `maps` says (see `data.maps.Maps`); the labels of tokens are lists in the label column of a
    table, one for each word of the text or list of words.

    What comes out: the store `out`, a path or a URL, in `format`, with `codec` as in
    `featstore.create`, its features of type `dtype`; an existing store of something else is
    replaced with `overwrite`.

    How: `device` and `precision` "auto" are CUDA and float16 where there is CUDA, the CPU and
    float32 otherwise; `compile` passes the model through `torch.compile`; `batch_size` and
    `compile` are by default what the store was begun with, else 64 and False. `workers` processes
    decode, or as many threads as there are cores where that is 0; by default what
    `loading.Workers.chosen` says. With `decode="device"` a CUDA device decodes JPEGs and resizes
    all images, in threads that read the files; its pixels are not quite the host's, and the store's
    transform says so.
    """

    model: "str | torch.nn.Module | Callable[..., object]"
    dataset: str | MapStyle | Mapping[str, MapStyle]
    weights: str | Path | None = None
    weights_key: str | None = None
    weights_prefix: str | None = None
    pretrained: bool = True
    image_size: int | None = None
    transform: str | Path | Mapping[str, Any] | Callable[..., object] | None = None
    trust: str = "none"
    weights_dtype: str = "float32"
    device_map: str | None = None
    prompt: str | None = None
    long_texts: str = "truncate"
    taps: Sequence[str] = (PENULTIMATE,)
    pool: str | Sequence[str] | Mapping[str, str] | None = None
    data_dir: str | Path | None = None
    columns: Columns | None = None
    limit: int | None = None
    bit_depth: int | None = None
    splits: Sequence[str] = ("train", "test")
    on_error: str = "raise"
    views: int = 1
    augment: str | None = None
    seed: int = 0
    out: str | Path | None = None
    format: str = "zarr"
    codec: str | None = None
    dtype: str = "float16"
    rows: str = "items"
    maps: "Maps | None" = None
    overwrite: bool = False
    device: str = "auto"
    precision: str = "auto"
    compile: bool | None = None
    batch_size: int | None = None
    workers: int | None = None
    decode: str = "host"
    name: str | None = None
    version: str | None = None
    ids: Mapping[str, Sequence[str]] | Sequence[str] | None = None

    def __post_init__(self):
        if isinstance(self.splits, str):
            object.__setattr__(self, "splits", (self.splits,))
        if self.columns is None:
            object.__setattr__(self, "columns", Columns())
        if not isinstance(self.dataset, str):
            single = not isinstance(self.dataset, Mapping)
            given = {TRAIN: self.dataset} if single else self.dataset
            by_split = cast("Mapping[str, MapStyle]", given)
            object.__setattr__(self, "dataset", by_split)
            object.__setattr__(self, "splits", tuple(by_split))
            if single and self.ids is not None and not isinstance(self.ids, Mapping):
                object.__setattr__(self, "ids", {TRAIN: self.ids})
        repeated = [name for name in self.splits if list(self.splits).count(name) > 1]
        wrong = None
        if not self.splits:
            wrong = "no split is named; give at least one, as in --splits train,test"
        elif repeated:
            wrong = f"split {repeated[0]!r} is named twice; name each once"
        elif self.dtype not in DTYPES:
            wrong = f"dtype {self.dtype!r} cannot be stored; choose {' or '.join(DTYPES)}"
        elif self.precision not in PRECISIONS:
            wrong = f"there is no precision {self.precision!r}; choose {', '.join(PRECISIONS)}"
        elif self.codec not in (None, *CODECS):
            wrong = f"there is no codec {self.codec!r}; choose {' or '.join(CODECS)}"
        elif self.rows not in ROWS:
            wrong = f"rows are {self.rows!r}; choose {', '.join(ROWS)}"
        elif self.rows != "items" and (self.augmentation or self.on_error == "skip"):
            wrong = (
                f"rows are {self.rows}, of which every one is read, clean; leave --views, --augment"
                " and --on-error out"
            )
        elif self.rows != "patches" and (self.maps or (self.columns and self.columns.map)):
            wrong = f"maps are of rows that are patches, and rows are {self.rows}; leave them out"
        elif self.rows == "tokens" and not isinstance(self.dataset, str):
            wrong = "rows are tokens, whose labels a table has; give a data set by name"
        elif self.on_error not in ON_ERROR:
            wrong = f"on an error one cannot {self.on_error!r}; choose {' or '.join(ON_ERROR)}"
        elif self.bit_depth not in (None, *DEPTHS):
            depths = ", ".join(map(str, DEPTHS))
            wrong = f"bit_depth is {self.bit_depth}; choose {depths}"
        elif self.batch_size is not None and self.batch_size < 1:
            wrong = f"a batch of {self.batch_size} images cannot be; give 1 or more"
        elif self.decode not in DECODE:
            wrong = f"decode is {self.decode!r}; choose {' or '.join(DECODE)}"
        elif self.decode == "device" and self.augmentation:
            wrong = "a device decodes clean images; leave --decode out, or --views and --augment"
        elif self.workers is not None and self.workers < 0:
            wrong = f"{self.workers} workers cannot decode; give 0 for threads, or more"
        elif self.views < 1:
            wrong = f"{self.views} views cannot be; give 1 for the clean image, or more"
        elif given := self._out_of_place():
            wrong = given
        elif self.augmentation and "train" not in self.splits:
            wrong = (
                "views are of train images, and train is not among the splits; leave --views out"
            )
        if wrong:
            raise UsageError(wrong)

    def _out_of_place(self) -> str | None:
        """Return what is wrong with options of names given with objects, or the reverse."""
        by_name = {
            "weights": self.weights,
            "weights_key": self.weights_key,
            "weights_prefix": self.weights_prefix,
            "image_size": self.image_size,
            "weights_dtype": self.weights_dtype != "float32",
            "device_map": self.device_map,
            "prompt": self.prompt is not None,
            "long_texts": self.long_texts != "truncate",
            "pretrained=False": not self.pretrained,
            "decode": self.decode == "device",
        }
        of_files = {
            "data_dir": self.data_dir,
            "columns": self.columns != Columns(),
            "bit_depth": self.bit_depth,
        }
        of_objects = {"name": self.name, "version": self.version}
        code = is_named(self.model)
        named, whose = isinstance(self.model, str) and not code, "a network of your own"
        for option, value in (of_objects if named else by_name).items():
            if value:
                other = whose if named else "a model by name"
                return f"{option} is an option of {other}; leave it out"
        if not isinstance(self.dataset, str) or is_named(self.dataset):
            for option, value in of_files.items():
                if value:
                    return f"{option} is an option of a data set by name; leave it out"
            if self.ids is not None and not isinstance(self.ids, Mapping):
                return "ids are a list, and there are splits; give them by split, as the data"
        elif self.ids is not None:
            return "ids are for a data set of your own; leave them out"
        if named and callable(self.transform):
            return f"transform is a callable, which {whose} takes; give fields or a file"
        if not named and tuple(self.taps) == (PENULTIMATE,):
            return f"the taps of {whose} have to be named, as its named_modules() calls them"
        return None

    @property
    def augmentation(self) -> str | None:
        """Return how train images are augmented; None if they stay clean."""
        return self.augment or ("paper" if self.views > 1 else None)
