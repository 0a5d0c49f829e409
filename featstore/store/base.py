"""The contract that a store fulfils in any format, and what all formats do with blocks alike.

A store is one tree: `<split>/<tap>` features (n_rows, D), or (n_views, n_rows, D) where rows were
seen in several ways, `<split>/labels` int64 (n_rows,), or float64 where they are targets,
`<split>/ids` uint8 (n_rows, width) and `<split>/commits`, one record a block. A block is a run of
rows in all taps and all views; it counts once its record is on the disk, which happens after its
bytes are. A store object keeps no file open, so that a process may fork at any time.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from featstore import places
from featstore.errors import StoreDamaged, StoreIncomplete, UsageError
from featstore.notices import Notice, distinct, of_remarks
from featstore.places import Place
from featstore.spec import COMMITS, IDS, LABELS, Spec
from featstore.store import locks
from featstore.store.blocks import Record, checksum, decode_ids, unseal
from featstore.store.layout import Array, Header, Undecodable
from featstore.store.objects import AHEAD, READERS

Progress = Callable[..., None]

# In a store's provenance: its number among those of its folder, and the folder it was made from.
SEQUENCE, FOLDER = "sequence", "folder"

# Names of splits that are tested on where there is none called "test".
_VALIDATION = ("validation", "val", "valid", "dev")

# A block of a store: (split, number).
Block = tuple[str, int]


class Piece(NamedTuple):
    """Unit of storing, checksums and reading: a block's rows in one view of one array."""

    split: str
    array: str
    block: int
    view: int = 0


def no_progress(stage: str, done: int, total: int, **facts: Any) -> None:
    """The progress callback that reports to nobody."""


@dataclass(frozen=True)
class Damage:
    """An array's block whose bytes are not those that were committed, and how that shows.

    Of a record, `array` is "commits". Of what describes the arrays to other tools, `block` is None,
    and `array` the document.
    """

    split: str
    block: int | None
    array: str
    why: str

    def __str__(self) -> str:
        where = "" if self.block is None else f"{self.split} block {self.block}, "
        return f"{where}{self.array}: {self.why}"


class BlockStore(ABC):
    """The blocks of a store in one format. Formats differ only in where the bytes of one lie."""

    format: ClassVar[str]

    # What the provenance of a new store says of its format.
    made: ClassVar[dict[str, Any]] = {}

    # Reads that are worth having under way at once, and blocks to be read ahead of their use.
    readers = READERS
    ahead = AHEAD

    def __init__(self, path: Place, header: Header):
        self.path = path
        self.header = header

    @property
    def spec(self) -> Spec:
        """Return the description of what the store holds."""
        return self.header.spec

    @property
    def block_rows(self) -> int:
        """Most rows of one block."""
        return self.header.block_rows

    @property
    def moments_folder(self) -> Path:
        """Return the folder on this machine for what is worked out from the store's rows."""
        return places.cache_folder(self.path, "moments")

    @property
    def provenance(self) -> dict[str, Any]:
        """Return versions, command, batch size and time of its making; no part of its identity."""
        return dict(self.header.provenance)

    @property
    def sequence(self) -> int:
        """Return its number among the folder's stores, in order of making; 0 where unknown."""
        number = self.header.provenance.get(SEQUENCE, 0)
        return number if isinstance(number, int) else 0

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Return what was left out of the data, or read otherwise, when the store was made."""
        said = [Notice.from_json(fields) for fields in self.provenance.get("notices", ())]
        for split in self.spec.splits:
            said += of_remarks(split.name, self.seen(split.name))
        return distinct(said)

    def seen(self, split: str) -> Counter[str]:
        """Return the number of committed rows that each of `notices.REMARKS` is true of."""
        counts: Counter[str] = Counter()
        for record in self.records(split):
            counts.update(record.seen if record else {})
        return counts

    # What a format provides.

    @classmethod
    @abstractmethod
    def build(cls, path: Place, header: Header) -> None:
        """Make an empty store at `path`, where nothing is; no row is written by it."""

    @classmethod
    @abstractmethod
    def at(cls, path: Place) -> Self:
        """The store at `path`; `NotAStore` or `FormatVersionError` where there is none."""

    @abstractmethod
    def misstated(self) -> list[Damage]:
        """Return what tells other tools of the arrays and differs from the header."""

    @abstractmethod
    def restate(self) -> None:
        """Write what describes the arrays to other tools anew, from the header."""

    @abstractmethod
    def read_bytes(self, piece: Piece, first: int, out: memoryview) -> int:
        """Fill `out` with a piece's bytes from its row `first` on; returns how many there were."""

    @abstractmethod
    def write_bytes(self, piece: Piece, data: memoryview) -> None:
        """Hand all bytes of a piece to the operating system."""

    @abstractmethod
    def sync(self, data: Iterable[Block], records: Iterable[Block]) -> None:
        """Return when the bytes of the blocks `data` and the records of others are on the disk."""

    @abstractmethod
    def read_record(self, split: str, block: int) -> bytes | None:
        """The slot of a block's commit record, None where there is none."""

    @abstractmethod
    def write_record(self, split: str, block: int, slot: bytes) -> None:
        """Hand the slot of a block's commit record to the operating system."""

    @abstractmethod
    def drop_record(self, split: str, block: int) -> None:
        """Return when the block has no commit record, on the disk as well."""

    @abstractmethod
    def bytes_on_disk(self) -> int:
        """Bytes that the store takes where it lies, holes left out."""

    @abstractmethod
    def modified(self) -> int:
        """Return when a block was last committed or withdrawn, in nanoseconds since 1970."""

    @contextmanager
    def staged(self, hold: locks.Hold) -> Iterator[None]:
        """Let what is written meanwhile be kept from a store that is another's by then."""
        yield

    def read_records(self, split: str) -> list[bytes | None]:
        """The slot of every block of a split."""
        return [self.read_record(split, block) for block in range(self.n_blocks(split))]

    # What every format does alike.

    def array(self, split: str, name: str) -> Array:
        """Shape and dtype of one array of a split; UsageError names what there is."""
        arrays = self.header.arrays(self.spec.split(split).name)
        if name not in arrays:
            raise UsageError(f"{self.path} has no {split}/{name}; it has {', '.join(arrays)}")
        return arrays[name]

    def n_blocks(self, split: str) -> int:
        """Blocks of a split."""
        return self.header.n_blocks(split)

    def rows_of(self, split: str, block: int) -> range:
        """Rows of one block."""
        return self.header.rows_of(split, block)

    def record(self, split: str, block: int) -> Record | None:
        """The valid commit record of a block, None where it has to be computed."""
        return self._valid(self.spec.digest(), split, block, self.read_record(split, block))

    def records(self, split: str) -> list[Record | None]:
        """The commit record of every block of a split."""
        digest = self.spec.digest()
        slots = self.read_records(split)
        return [self._valid(digest, split, block, slot) for block, slot in enumerate(slots)]

    @staticmethod
    def _valid(digest: str, split: str, block: int, slot: bytes | None) -> Record | None:
        record = unseal(slot)
        here = (digest, split, block)
        return record if record and (record.store, record.split, record.block) == here else None

    def test_split(self, name: str | None = None) -> str:
        """The split to test on: `name`, or else "test", or where there is none validation.

        Raises `UsageError` naming the splits where there is neither.
        """
        there = [split.name for split in self.spec.splits]
        if name is not None or "test" in there:
            return self.spec.split(name or "test").name
        for stand_in in _VALIDATION:
            if stand_in in there:
                return stand_in
        raise UsageError(
            f"{self.path} has no split to test on, but {', '.join(there)}; name one of them"
            " (--test-split), or extract another"
        )

    def validation_split(self, tested: str) -> str | None:
        """The split to choose an epoch by: the validation rows, unless these are tested on."""
        there = [split.name for split in self.spec.splits]
        return next((name for name in _VALIDATION if name in there and name != tested), None)

    def missing(self, split: str) -> list[int]:
        """Blocks of a split without a valid commit record."""
        return [block for block, record in enumerate(self.records(split)) if record is None]

    @property
    def complete(self) -> bool:
        """Return whether every block of every split is committed."""
        return not any(self.missing(split.name) for split in self.spec.splits)

    def require_complete(self, split: str) -> list[Record]:
        """Every record of a split; `StoreIncomplete` where one is missing."""
        records = self.records(split)
        there = [record for record in records if record]
        if len(there) < len(records):
            raise StoreIncomplete(
                f"{self.path} is incomplete: {len(there)} of {len(records)} blocks of {split} are"
                " committed; run the command that made it again, it goes on where it stopped"
            )
        return there

    def labels(self, split: str) -> np.ndarray:
        """Labels of a split, int64 (n_rows,), or float64 (n_rows,) or (n_rows, T) of T targets.

        Of T labels of which each row has any number they are uint8 (n_rows, T).
        """
        return self.load(split, LABELS)

    def ids(self, split: str) -> list[str]:
        """Return the id of each row of a split, every checksum checked."""
        return decode_ids(self.load(split, IDS))

    def column(self, split: str, name: str) -> np.ndarray:
        """Return a column that is kept beside the rows, int64 or texts (n_rows,), checked.

        Raises `UsageError` naming the columns where there is none called `name`.
        """
        array, column = self.spec.column(name)
        found = self.load(split, array)
        return found if column.width is None else np.array(decode_ids(found))

    def load(self, split: str, name: str, *, verify: bool = True) -> np.ndarray:
        """The whole array of a split, a tap or "labels" or "ids", read in threads.

        A tap is (n_rows, D), or (n_views, n_rows, D) where the split has several views. Raises
        `StoreIncomplete`, and with `verify` `StoreDamaged` where a checksum is wrong.
        """
        array = self.array(split, name)
        records = self.require_complete(split)
        out = np.empty(array.shape, array.dtype)
        views = out.reshape(array.n_views, array.n_rows, *array.row_shape)

        def fill(piece: Piece) -> None:
            rows = self.rows_of(split, piece.block)
            record = records[piece.block] if verify else None
            self.fill(piece, record, views[piece.view, rows.start : rows.stop])

        pieces = [
            Piece(split, name, block, view)
            for view in range(array.n_views)
            for block in range(len(records))
        ]
        with ThreadPoolExecutor(self.readers) as pool:
            list(pool.map(fill, pieces))
        return out

    def read(self, split: str, name: str, start: int, stop: int, view: int = 0) -> np.ndarray:
        """Rows [start, stop) of a view of an array, unchecked: checksums cover whole blocks.

        Raises `UsageError` for rows that are not there, `StoreIncomplete` for uncommitted ones.
        """
        array = self.array(split, name)
        if not 0 <= start <= stop <= array.n_rows:
            raise UsageError(
                f"rows {start}:{stop} are not in {split}, which has rows 0:{array.n_rows}"
            )
        self.require_view(split, name, view)
        out = np.empty((stop - start, *array.row_shape), array.dtype)
        row = start
        while row < stop:
            block = row // self.block_rows
            if self.record(split, block) is None:
                self.require_complete(split)
            until = min(stop, self.rows_of(split, block).stop)
            first = row - self.rows_of(split, block).start
            piece = Piece(split, name, block, view)
            self.fill(piece, None, out[row - start : until - start], first)
            row = until
        return out

    def require_view(self, split: str, name: str, view: int) -> None:
        """Raise UsageError where an array has no such view."""
        n_views = self.array(split, name).n_views
        if not 0 <= view < n_views:
            raise UsageError(f"{split}/{name} has views 0 to {n_views - 1}, not {view}")

    def fill(self, piece: Piece, record: Record | None, out: np.ndarray, first: int = 0) -> None:
        """Read a piece's rows from `first` on into `out`; check them against `record`, if given."""
        why = self._fault(piece, record, out, first)
        if why:
            rows = self.rows_of(piece.split, piece.block)
            raise StoreDamaged(
                f"{self.path} is damaged: block {piece.block} of {piece.split}/{piece.array} (rows"
                f" {rows.start}:{rows.stop}) {why}; run `featstore verify` on it, then the command"
                " that made it, which computes that block again"
            )

    def _fault(
        self, piece: Piece, record: Record | None, out: np.ndarray, first: int = 0
    ) -> str | None:
        data = memoryview(out.reshape(-1).view(np.uint8))
        try:
            there = self.read_bytes(piece, first, data)
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except Undecodable as error:
            return f"cannot be decompressed: {error}"
        if there < len(data):
            return f"is truncated: {there} of {len(data)} bytes"
        if record is not None:
            name = self.array(piece.split, piece.array).pieces(piece.array)[piece.view]
            if record.checksums.get(name) != checksum(out):
                return "does not have the checksum that was committed"
        return None

    def blocks(self) -> list[Block]:
        """Every block of every split, in order."""
        names = [split.name for split in self.spec.splits]
        return [(split, block) for split in names for block in range(self.n_blocks(split))]

    def verify(
        self, progress: Progress = no_progress, blocks: Sequence[Block] | None = None
    ) -> list[Damage]:
        """Every committed checksum against the bytes on disk, or those of some `blocks`.

        Blocks that are not committed are `missing`, not damaged; a record that is neither absent,
        nor empty, nor the block's own is damage. Without `blocks`, what describes the arrays to
        other tools is held against the header too. Damages come in order.
        """
        asked = self.blocks() if blocks is None else blocks
        found: list[Damage] = self.misstated() if blocks is None else []
        with ThreadPoolExecutor(self.readers) as pool:
            for done, damages in enumerate(pool.map(lambda block: self._damages(*block), asked), 1):
                found += damages
                progress("blocks", done, len(asked), damaged=len(found))
        return found

    def _damages(self, split: str, block: int) -> list[Damage]:
        slot = self.read_record(split, block)
        record = self._valid(self.spec.digest(), split, block, slot)
        if record is None:
            # A writer that was killed leaves none, or zeros.
            torn = slot is not None and any(slot)
            why = "is neither empty nor the record of this block"
            return [Damage(split, block, COMMITS, why)] if torn else []
        found = []
        for name, array in self.header.arrays(split).items():
            rows = np.empty((len(self.rows_of(split, block)), *array.row_shape), array.dtype)
            for view in range(array.n_views):
                why = self._fault(Piece(split, name, block, view), record, rows)
                if why:
                    found.append(Damage(split, block, array.pieces(name)[view], why))
        return found
