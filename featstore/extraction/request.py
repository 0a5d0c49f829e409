"""What an extraction is asked for, and the inputs that are made of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from featstore import data, models
from featstore.data import augment as augments
from featstore.data.augment import Views
from featstore.data.columns import Columns
from featstore.data.rows import DEPTHS, Rows, Unreadable
from featstore.errors import DatasetError, UsageError
from featstore.extraction.ranks import Meeting, Ranks
from featstore.models import taps as tapss
from featstore.models.network import Backbone
from featstore.models.taps import Taps
from featstore.notices import Notice, distinct
from featstore.spec import PENULTIMATE, Spec, Split
from featstore.store.base import Progress

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


# The split that is augmented.
TRAIN = "train"


@dataclass(frozen=True)
class Inputs:
    """Rows by split, the network and its taps, and the views of train rows, None where clean."""

    backbone: Backbone
    reader: Taps
    rows: Mapping[str, Rows]
    views: Views | None

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What was left out of the data, or is read otherwise than it is."""
        return distinct(notice for rows in self.rows.values() for notice in rows.notices)

    def spec(self, request: Request, precision: str) -> Spec:
        """What a store of these inputs holds."""
        first = next(iter(self.rows.values()))
        return Spec(
            backbone=self.backbone.name,
            weights=self.backbone.weights_id,
            transform=self.backbone.transform_text,
            dataset=first.dataset,
            splits=tuple(
                Split(
                    name=split,
                    n_rows=len(rows),
                    fingerprint=rows.fingerprint,
                    views=request.views if split == TRAIN else 1,
                )
                for split, rows in self.rows.items()
            ),
            taps=self.reader.taps,
            dtype=request.dtype,
            classes=first.classes,
            targets=first.targets,
            limit=request.limit,
            precision=precision,
            augment=self.views.text if self.views else None,
        )


def load(request: Request) -> Inputs:
    """The inputs that a request names; raises what loading each of them raises."""
    data.check(request.dataset, request.splits, data_dir=request.data_dir, columns=request.columns)
    backbone = models.load(
        request.model,
        weights=request.weights,
        pretrained=request.pretrained,
        image_size=request.image_size,
        transform=request.transform,
        trust=request.trust,
        weights_key=request.weights_key,
        weights_prefix=request.weights_prefix,
    )
    reader = tapss.resolve(backbone, request.taps, request.pool)
    augmented = _views(request, backbone) if request.augmentation else None
    rows = {
        split: data.load(
            request.dataset,
            split,
            data_dir=request.data_dir,
            limit=request.limit,
            columns=request.columns,
            bit_depth=request.bit_depth,
            missing_ok=request.on_error == "skip",
        )
        for split in request.splits
    }
    _check(backbone, list(rows.values()))
    return Inputs(backbone, reader, rows, augmented)


def readable(
    inputs: Inputs, threads: int, ranks: Ranks, meeting: Meeting, progress: Progress
) -> tuple[Inputs, tuple[Unreadable, ...]]:
    """The inputs without the rows that cannot be read, and those; each rank reads its share.

    `threads` of each rank read.
    """
    kept, left_out = {}, []
    for split, rows in inputs.rows.items():
        share = np.arange(ranks.rank, len(rows), ranks.count)
        found = (
            data.scan(rows.kept(share), workers=threads, progress=progress) if len(share) else ()
        )
        mine = [asdict(replace(one, row=int(share[one.row]))) for one in found]
        said = meeting.said(json.dumps(mine))
        unreadable = [Unreadable(**one) for text in said for one in json.loads(text)]
        unreadable.sort(key=lambda one: one.row)
        kept[split] = data.without(rows, unreadable)
        left_out += [*rows.left_out, *unreadable]
    # A damaged line that belongs to no split was told by each.
    once = {(one.id, one.why): one for one in reversed(left_out)}
    return replace(inputs, rows=kept), tuple(reversed(once.values()))


def _views(request: Request, backbone: Backbone) -> Views:
    if backbone.modality != "image":
        raise UsageError(
            f"{backbone.name} takes {backbone.modality}s, which have no views; leave --views and"
            " --augment out"
        )
    height, width, _ = backbone.transform.pixels(Image.new("RGB", (64, 64))).shape
    if height != width:
        raise UsageError(
            f"{backbone.name} sees images of {height} x {width} px, and views are square; leave"
            " --views and --augment out"
        )
    return augments.parse(request.augmentation, height, request.seed)


def _check(backbone: Backbone, splits: list[Rows]) -> None:
    first = splits[0]
    if first.modality != backbone.modality:
        raise UsageError(
            f"{first.dataset} holds {first.modality}s and {backbone.name} takes"
            f" {backbone.modality}s; give a model or a data set of the other kind"
        )
    for rows in splits:
        if rows.classes != first.classes:
            raise DatasetError(
                f"{first.dataset} has {len(first.classes)} classes in {first.split} and"
                f" {len(rows.classes)} others in {rows.split}; their numbers would not agree"
            )
        if rows.targets != first.targets:
            raise DatasetError(
                f"{first.dataset} has the targets {', '.join(first.targets)} in {first.split} and"
                f" {', '.join(rows.targets)} in {rows.split}; name the same columns for each"
            )
