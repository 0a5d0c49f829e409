"""`wds:PATTERN`: WebDataset's tar shards, each image read from its place."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from featstore.datasets import splits
from featstore.datasets.arrow_types import plain
from featstore.datasets.columns import Columns
from featstore.datasets.encoded_images import EncodedImages, rows_of_encoded
from featstore.datasets.image_files import EXTENSIONS
from featstore.datasets.labels import Encoded, encoded
from featstore.datasets.listed import of_texts
from featstore.datasets.rows import ImageRows, Rows, Unreadable
from featstore.datasets.shards import Sample, files_of, samples_of, strays_of
from featstore.datasets.tar_index import index_of, read_member
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice

# Stands for the one member that is an image by its suffix.
_ANY_IMAGE = "*"
_SUFFIXES = frozenset(EXTENSIONS)


@dataclass(frozen=True)
class TarImages(EncodedImages):
    """Images in tar files as rows: which shard, offset and size of each, int64 (n,)."""

    shards: Sequence[Path]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def encoded(self, row: int) -> bytes:
        """The bytes of a row's file."""
        shard = self.shards[self.shard[row]]
        return read_member(shard, int(self.offset[row]), int(self.size[row]))

    def cut(self, rows: np.ndarray) -> "TarImages":
        """Images of these rows alone, int64 (k,)."""
        there, shard = np.unique(self.shard[rows], return_inverse=True)
        shards = [self.shards[number] for number in there]
        return TarImages(shards, shard, self.offset[rows], self.size[rows])


def load(
    pattern: str, split: str, data_dir: Path | None, columns: Columns, skip: bool = False
) -> Rows:
    """One split of the shards that PATTERN names, rows in the order of shards and members.

    "{split}" in it stands for a split's name, "{000..146}" and "{a,b}" for each of what they list,
    * and ? as in a shell. A column is a member's suffix (`jpg`, `cls`, `txt`; "jpg;png" is either)
    or else a key in the member `json`. Ids are the keys, behind the shard's name where some repeat.
    With `skip` samples that lack a column, and what is cut at a shard's end, are left out.

    Raises `DatasetError` for a shard that is missing or cannot be read, or a sample that lacks a
    column, `UsageError` for a pattern that names no local files.
    """
    dataset = f"wds:{Path(pattern).name}"
    shards, there = _shards(pattern, data_dir)
    held = splits.held(dataset, split, there)
    # Of the other splits only the labels count, so as to number the classes, and what is there.
    samples = {
        part: [
            sample
            for shard in shards[part]
            if part == held or shard.is_file()
            for sample in samples_of(shard, skip)
        ]
        for part in there
    }
    if not samples[held]:
        raise DatasetError(f"the shards of the {held} split of {dataset} hold no sample")
    rows = _rows(dataset, split, held, samples, columns, skip)
    indices = {shard: index_of(shard, skip) for shard in shards[held]}
    cut = [
        Unreadable(-1, split, shard.name, f"{shard} {index.damage}")
        for shard, index in indices.items()
        if index.damage
    ]
    open_ended = [shard.name for shard, index in indices.items() if not index.ended]
    strays = [name for shard in shards[held] for name in strays_of(shard, skip)]
    text = f"left out of {held}, hidden members or those without a suffix: {len(strays):,}"
    said = [Notice.of("files", text, strays)] if strays else []
    if open_ended:
        text = f"shards of {held} without a tar file's mark at the end, perhaps cut"
        said.append(Notice.of("shards", f"{text}: {len(open_ended):,}", open_ended))
    notices = (*splits.stand_in(split, held), *said, *rows.notices)
    return replace(rows, notices=notices, left_out=(*cut, *rows.left_out))


def check(pattern: str, names: Sequence[str], data_dir: Path | None) -> None:
    """Raise where a pattern names no local shards, or none of a split of these names."""
    _, there = _shards(pattern, data_dir)
    for name in names:
        splits.held(f"wds:{Path(pattern).name}", name, there)


def _shards(pattern: str, data_dir: Path | None) -> tuple[dict[str, list[Path]], list[str]]:
    """The shards that a pattern names of each split, and the splits that have some."""
    if splits.PLACE not in pattern or "://" in pattern or pattern.startswith("pipe:"):
        raise UsageError(
            f"wds:{pattern} does not name the local shards of each split; give a path with"
            f" {splits.PLACE} in it, as in wds:imagenet/{splits.PLACE}-{{0000..0146}}.tar"
        )
    path = Path(data_dir or "", Path(pattern).expanduser())
    shards = {part: files_of(splits.named(path, part)) for part in splits.NAMES}
    there = [part for part in shards if any(shard.is_file() for shard in shards[part])]
    if not there:
        raise DatasetError(
            f"there is no shard {path} for any of {', '.join(splits.NAMES)}; give the path of the"
            " shards, relative to --data-dir if that is given"
        )
    return shards, there


def _rows(
    dataset: str,
    split: str,
    held: str,
    samples: dict[str, list[Sample]],
    columns: Columns,
    skip: bool,
) -> Rows:
    # The first sample tells what all have; where some may lack it, any may.
    told = samples[held] if skip else samples[held][:1]
    names = columns.targets or (columns.label or _usual_label(told),)
    image = columns.image or _usual_image(told)
    text = columns.text or ("txt" if any("txt" in one.members for one in told) else None)
    if not (image or text):
        raise UsageError(
            f"the first sample of {dataset}, {told[0].key}, has {', '.join(told[0].members)}; say"
            " which is the image or the text: --image-column or --text-column"
        )
    is_text = bool(columns.text or not image)
    left_out = []
    if skip:
        item = text if is_text else image
        lacks = {
            part: _lacking(dataset, some, names, item, is_text) for part, some in samples.items()
        }
        samples = {
            part: [one for row, one in enumerate(some) if row not in lacks[part]]
            for part, some in samples.items()
        }
        left_out = [Unreadable(row, split, *why) for row, why in lacks[held].items()]
        if not samples[held]:
            raise DatasetError(f"no sample of the {held} split can be used; {left_out[0].why}")
    here = samples[held]
    values = {
        part: [_column(dataset, some, name) for name in names] for part, some in samples.items()
    }
    labels = encoded(dataset, held, values, names, columns)
    if is_text:
        texts = _column(dataset, here, text)
        rows = of_texts(dataset, split, texts, labels, _ids(dataset, here))
    else:
        rows = _of_images(dataset, split, here, image, labels)
    return replace(rows, notices=tuple(labels.notices), left_out=tuple(left_out))


def _lacking(
    dataset: str, samples: list[Sample], names: Sequence[str], item: str, is_text: bool
) -> dict[int, tuple[str, str]]:
    """Samples without a label, an image or a text: the key of each, and why."""
    found = {}
    for row, sample in enumerate(samples):
        try:
            for name in names:
                value = _value(dataset, sample, name)
                if value is None or value == "" or value != value:
                    raise DatasetError(f"sample {sample.key} of {dataset} has no {name}")
            if is_text:
                _value(dataset, sample, item)
            else:
                _image(dataset, sample, item)
        except DatasetError as error:
            found[row] = sample.key, str(error)
    return found


def _of_images(
    dataset: str, split: str, samples: list[Sample], image: str, labels: Encoded
) -> ImageRows:
    shards = list(dict.fromkeys(sample.shard for sample in samples))
    number = {shard: at for at, shard in enumerate(shards)}
    shard = np.array([number[sample.shard] for sample in samples])
    offset, size = np.array([_image(dataset, sample, image) for sample in samples], np.int64).T
    read = TarImages(shards, shard, offset, size)
    return rows_of_encoded(dataset, split, read, size.tolist(), _ids(dataset, samples), labels)


def _usual_label(samples: list[Sample]) -> str:
    return "cls" if any("cls" in sample.members for sample in samples) else "label"


def _usual_image(samples: list[Sample]) -> str | None:
    """Any suffix of an image, since shards mix jpg and png; None where there is none."""
    found = any(
        f".{suffix}".endswith(EXTENSIONS) for sample in samples for suffix in sample.members
    )
    return _ANY_IMAGE if found else None


def _image(dataset: str, sample: Sample, image: str) -> tuple[int, int]:
    """Offset and size of a sample's image."""
    if image != _ANY_IMAGE:
        for suffix in image.lower().split(";"):
            if suffix in sample.members:
                return sample.members[suffix]
        raise _lacks(dataset, sample, image)
    found = [suffix for suffix in sample.members if f".{suffix}" in _SUFFIXES]
    if not found:
        raise _lacks(dataset, sample, "image")
    if found[1:]:
        raise UsageError(
            f"sample {sample.key} of {dataset} has several images, {', '.join(found)}"
            f" ({sample.shard}); say which is meant, as in --image-column {found[0]}"
        )
    return sample.members[found[0]]


def _column(dataset: str, samples: list[Sample], name: str) -> pa.ChunkedArray:
    """What each sample has under a name: the text of a member, or a value of its json."""
    values = [_value(dataset, sample, name) for sample in samples]
    try:
        return plain(pa.chunked_array([pa.array(values)]))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DatasetError(
            f"{name} of {dataset} is of several types: {error}; make them one"
        ) from None


def _value(dataset: str, sample: Sample, name: str):
    try:
        if name in sample.members:
            return sample.read(name).decode().strip()
        if "json" in sample.members:
            values = json.loads(sample.read("json"))
            if isinstance(values, dict) and name in values:
                return values[name]
    except ValueError as error:
        raise DatasetError(
            f"{name} of sample {sample.key} in {sample.shard} cannot be read: {error}"
        ) from None
    raise _lacks(dataset, sample, name)


def _lacks(dataset: str, sample: Sample, name: str) -> DatasetError:
    return DatasetError(
        f"sample {sample.key} of {dataset} has no {name} ({sample.shard}): it has"
        f" {', '.join(sample.members)}; name what there is with --label-column, --image-column or"
        " --text-column, or make the shard anew"
    )


def _ids(dataset: str, samples: list[Sample]) -> list[str]:
    """The keys, or shard and key where keys are unique in their shard alone."""
    keys = [sample.key for sample in samples]
    if len(set(keys)) == len(keys):
        return keys
    ids = [f"{sample.shard.stem}/{sample.key}" for sample in samples]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        again = next(id_ for id_ in ids if id_ in seen or seen.add(id_))
        raise DatasetError(
            f"{dataset} has the sample {again} in two places; a sample's members lie side by side"
            " (tar --sort=name), and shards have names of their own"
        )
    return ids
