"""What an extraction is asked for: every option of `featstore.extract`, checked for form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featstore.data.columns import Columns
from featstore.data.rows import DEPTHS
from featstore.errors import UsageError
from featstore.spec import PENULTIMATE

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DTYPES = ("float16", "float32")
CODECS = ("none", "zstd")
ON_ERROR = ("raise", "skip")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `featstore.extract`. Raises `UsageError` for values that cannot be.

    What goes in: `model`, `weights`, `weights_key`, `weights_prefix`, `pretrained`, `image_size`,
    `transform` and `trust` as in `backbones.load`; `taps` and `pool` as in `taps.resolve`;
    `dataset`, `data_dir`, `columns`, `limit` and `bit_depth` as in `datasets.load`, of each of
    `splits`. With `on_error="skip"` every row is read once beforehand, and those that cannot be, or
    lack a label, are left out; otherwise the first one that is met is an error.

    `views` passes of augmented train images are stored; `augment` says how they are made (see
    `views.parse`; "paper" where there are several), from draws that `seed` decides. One view
    without `augment` is the clean image, which all other splits keep.

    What comes out: the store `out`, a path or a URL, in `format`, with `codec` as in
    `featstore.create`, its features of type `dtype`; an existing store of something else is
    replaced with `overwrite`.

    How: `device` and `precision` "auto" are CUDA and float16 where there is CUDA, the CPU and
    float32 otherwise; `compile` passes the model through `torch.compile`; `batch_size` and
    `compile` are by default what the store was begun with, else 64 and False. `workers` processes
    decode, or as many threads as there are cores where that is 0; by default what
    `loading.Workers.chosen` says.
    """

    model: str
    dataset: str
    weights: str | Path | None = None
    weights_key: str | None = None
    weights_prefix: str | None = None
    pretrained: bool = True
    image_size: int | None = None
    transform: str | Path | Mapping | None = None
    trust: str = "none"
    taps: Sequence[str] = (PENULTIMATE,)
    pool: str | Sequence[str] | Mapping[str, str] | None = None
    data_dir: str | Path | None = None
    columns: Columns = field(default_factory=Columns)
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
    overwrite: bool = False
    device: str = "auto"
    precision: str = "auto"
    compile: bool | None = None
    batch_size: int | None = None
    workers: int | None = None

    def __post_init__(self):
        if isinstance(self.splits, str):
            object.__setattr__(self, "splits", (self.splits,))
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
        elif self.on_error not in ON_ERROR:
            wrong = f"on an error one cannot {self.on_error!r}; choose {' or '.join(ON_ERROR)}"
        elif self.bit_depth not in (None, *DEPTHS):
            depths = ", ".join(map(str, DEPTHS))
            wrong = f"bit_depth is {self.bit_depth}; choose {depths}"
        elif self.batch_size is not None and self.batch_size < 1:
            wrong = f"a batch of {self.batch_size} images cannot be; give 1 or more"
        elif self.workers is not None and self.workers < 0:
            wrong = f"{self.workers} workers cannot decode; give 0 for threads, or more"
        elif self.views < 1:
            wrong = f"{self.views} views cannot be; give 1 for the clean image, or more"
        elif self.augmentation and "train" not in self.splits:
            wrong = (
                "views are of train images, and train is not among the splits; leave --views out"
            )
        if wrong:
            raise UsageError(wrong)

    @property
    def augmentation(self) -> str | None:
        """How train images are augmented, None where they stay clean."""
        return self.augment or ("paper" if self.views > 1 else None)
