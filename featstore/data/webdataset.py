"""WebDataset's shards: tar files, their index, their samples."""

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import platformdirs
import pyarrow as pa
from pyarrow import parquet

from featstore import durable
from featstore.data import splits
from featstore.data.columns import Columns, Encoded, encoded, plain
from featstore.data.files import EXTENSIONS, EncodedImages, rows_of_encoded
from featstore.data.rows import ImageRows, Rows, Unreadable, utf8
from featstore.data.tables import of_texts
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice

_COMPRESSED = (b"\x1f\x8b\x08", b"BZh", b"\xfd7z", b"\x28\xb5\x2f")  # gzip, bzip2, xz, zstd
_SKIPPED = ", or leave out what is cut with --on-error skip"
_COLUMNS = ("name", "offset", "size")


@dataclass(frozen=True)
class TarIndex:
    """Regular files in a tar: their names, and where each one's bytes are, int64 (m,) each.

    `damage` says how a tar that is not whole ends; the files before that are there. One that is not
    `ended` lacks the mark at its end, as after a writer that was stopped.
    """

    names: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    damage: str = ""
    ended: bool = True


def index_of(path: Path, skip: bool = False, kept_from: int = 16 << 20) -> TarIndex:
    """The index of an uncompressed tar file, made once and kept in the platform's cache.

    It is made anew where the file's size or time of modification is another. Raises `DatasetError`
    for a file that is missing, compressed, truncated or no tar; with `skip` a truncated one has an
    index of what is whole. Of files below `kept_from` bytes none is kept: it is found no faster.
    """
    try:
        there = path.stat()
    except OSError as error:
        raise DatasetError(f"there is no shard {path}: {error.strerror}; fetch it again") from None
    return _index(path, there.st_size, there.st_mtime_ns, skip, kept_from)


def read_member(path: Path, offset: int, size: int) -> bytes:
    """The bytes of a member. Opens the file, so that nothing is held open between calls."""
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise OSError(f"{path} ends {size - len(data)} bytes too early")
    return data


@lru_cache(maxsize=4096)
def _index(path: Path, size: int, modified: int, skip: bool, kept_from: int) -> TarIndex:
    kept = _place(path)
    stamp = {b"size": str(size).encode(), b"modified": str(modified).encode()}
    if size >= kept_from and kept.is_file():
        found = _kept(kept, stamp)
        if found:
            return found
    index = _made(path, size, skip)
    if size >= kept_from and not index.damage:
        _keep(kept, index, stamp)
    return index


def _made(path: Path, size: int, skip: bool = False) -> TarIndex:
    found, damage = [], ""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isreg() and not member.issparse():
                    found.append((utf8(member.name), member.offset_data, member.size))
                shard.members.clear()  # tarfile keeps them all
    except (tarfile.TarError, EOFError, ValueError) as error:
        with open(path, "rb") as file:
            compressed = file.read(3) in _COMPRESSED
        why = "it is compressed, and images gain nothing by that: uncompress it"
        why = why if compressed else f"{error}; fetch it again"
        if not (skip and found):
            skipped = "" if compressed or not found else _SKIPPED
            raise DatasetError(
                f"{path} cannot be read as an uncompressed tar file: {why}{skipped}"
            ) from error
        damage = f"is not whole ({error})"
    end = found[-1][1] + found[-1][2] if found else 0
    rest = size - -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    # tarfile takes a header that is cut for the end of the file.
    if found and (end > size or 0 < rest < tarfile.BLOCKSIZE):
        what = f"its last member {found[-1][0]}" if end > size else "the member behind its last"
        damage = f"is truncated, {what} is cut"
        if not skip:
            raise DatasetError(f"{path} {damage}; fetch it again{_SKIPPED}")
        if end > size:
            del found[-1]
    names, offsets, sizes = zip(*found, strict=True) if found else ((), (), ())
    return TarIndex(
        list(names), np.array(offsets, np.int64), np.array(sizes, np.int64), damage, rest > 0
    )


def _place(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return platformdirs.user_cache_path("featstore") / "tar-index" / f"{name}.parquet"


def _kept(kept: Path, stamp: dict[bytes, bytes]) -> TarIndex | None:
    try:
        table = parquet.read_table(kept)
        if {key: (table.schema.metadata or {}).get(key) for key in stamp} != stamp:
            return None
        names, offsets, sizes = (table[column] for column in _COLUMNS)
        return TarIndex(names.to_pylist(), offsets.to_numpy(), sizes.to_numpy())
    except (OSError, pa.ArrowException, KeyError):
        return None


def _keep(kept: Path, index: TarIndex, stamp: dict[bytes, bytes]) -> None:
    table = pa.table(dict(zip(_COLUMNS, (index.names, index.offsets, index.sizes), strict=True)))
    # A full or read-only cache costs the next run some time, and this one nothing.
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with durable.written_whole(kept) as aside:
            parquet.write_table(table.replace_schema_metadata(stamp), aside, compression="zstd")


MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Sample:
    """Consecutive members of a shard whose names agree up to the first dot of the last part.

    `members` maps what follows that dot, in lower case, to (offset, size).
    """

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        return read_member(self.shard, *self.members[name])


def samples_of(shard: Path, skip: bool = False) -> Iterator[Sample]:
    """The samples of a shard, in order; members without a suffix belong to none.

    Raises `DatasetError` where a member is there twice, or as `index_of`.
    """
    index = index_of(shard, skip)
    places = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    named = ((*_parts(name), place) for name, place in zip(index.names, places, strict=True))
    members = (part for part in named if part[0] and part[1])
    for key, group in itertools.groupby(members, key=lambda part: part[0]):
        sample = Sample(shard, key, {})
        for _, suffix, place in group:
            if suffix in sample.members:
                raise DatasetError(f"{shard} has {key}.{suffix} twice; make the shard anew")
            sample.members[suffix] = place
        yield sample


def strays_of(shard: Path, skip: bool = False) -> list[str]:
    """Members of a shard that belong to no sample: hidden ones, and those without a suffix."""
    return [name for name in index_of(shard, skip).names if not all(_parts(name))]


def files_of(pattern: Path) -> list[Path]:
    """The files of a pattern: those of braces whether they are there or not, those of * sorted."""
    found = []
    for path in map(Path, expanded(str(pattern))):
        if any(sign in path.name for sign in "*?["):
            found += sorted(path.parent.glob(path.name))
        else:
            found.append(path)
    return found


def expanded(pattern: str) -> list[str]:
    """Every name that the braces of a pattern stand for, as in bash.

    >>> expanded("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if at % 2 == 0 else _alternatives(part) for at, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_SHARDS:
        raise UsageError(f"{pattern} stands for {count:,} shards; give a smaller range")
    return ["".join(names) for names in itertools.product(*choices)]


def _alternatives(inside: str) -> range | list[str]:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not ends:
        return inside.split(",")
    first, last = ends.groups()
    if int(last) - int(first) >= MOST_SHARDS:
        raise UsageError(f"{{{inside}}} stands for too many shards; give a smaller range")
    padded = any(end.startswith("0") and len(end) > 1 for end in ends.groups())
    width = max(len(first), len(last)) if padded else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _parts(name: str) -> tuple[str, str]:
    """Key and suffix of a member; the key is empty where the file is hidden or has no name."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return (folder + slash + stem).removeprefix("./") if stem else "", suffix.lower()


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
    """Return what each sample has under a name: a member's text, or a value of its json."""
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
