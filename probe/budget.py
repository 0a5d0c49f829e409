"""From the memory that was granted to block and batch sizes, by arithmetic alone."""

import math
import re
from dataclasses import dataclass

from probe.errors import MemoryBudgetError, UsageError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

# what the host grants unless it is told a size
AUTO, HOST_DEFAULT = "auto", 4 << 30
# rows of one piece: enough to keep a matrix product at full speed
MOMENT_ROWS = 4096
MIN_ROWS = 16
# test rows of a piece, on a CPU and on an accelerator
MAX_ROWS = (2048, 16384)
# working set that keeps a CPU's cores busy: about a last-level cache
CACHE_BYTES = 24 << 20
# rows of the triangular factor that are eliminated at once
FORWARD_WIDTH = 256


def parse(memory: str | int) -> int:
    """Return a number of bytes from text such as "8GiB", "500 MB" or "2g"; "auto" is 4 GiB.

    Raises:
        UsageError: the text is not a positive size.

    Example:
        >>> parse("1GiB"), parse("1.5 kB"), parse(4096)
        (1073741824, 1500, 4096)
    """
    if memory == AUTO:
        return HOST_DEFAULT
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(memory), re.IGNORECASE)
    unit = match and {**UNITS, **BINARY_UNITS}.get(match[2].lower())
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise UsageError(f"memory {memory!r} is not a size: write for example 4GiB or 500MB")
    return size


def text(size: int) -> str:
    """Return a number of bytes for a person to read, rounded up so that it is enough.

    Example:
        >>> text(3 << 30), text((3 << 30) + 1)
        ('3.0 GiB', '3.1 GiB')
    """
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{math.ceil(10 * value) / 10:.1f} {unit}" if unit != "B" else f"{size} B"


def moment_rows(memory: int, n_features: int, n_classes: int, dtype: str) -> int:
    """Return how many rows to multiply at once when summing moments.

    Held meanwhile: the float64 sums (D x (D + C)), one panel of products, the piece itself and a
    block as it was read.

    Raises:
        MemoryBudgetError: not even a few rows fit.
    """
    size = 8 if dtype == "float64" else 4
    width = n_features + n_classes
    fixed = 8 * n_features * width + size * width * max(128, -(-n_features // 8))
    row = 2 * size * width
    return rows_within(memory, spared(fixed), spared(row), MOMENT_ROWS, "the moments")


def spared(size: int) -> int:
    """Return what to allow for arrays of `size` bytes: an eighth is for readers and allocators."""
    return size * 8 // 7 + 1


def rows_within(memory: int, fixed: int, row_bytes: int, wanted: int, purpose: str) -> int:
    """Return how many rows of `row_bytes` fit beside `fixed` bytes, at most `wanted`.

    Raises:
        MemoryBudgetError: fewer than MIN_ROWS fit; the message says how much would do.
    """
    least = min(wanted, MIN_ROWS)
    fitting = (memory - fixed) // max(1, row_bytes)
    if fitting < least:
        need = fixed + least * row_bytes
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for {purpose}: "
            f"allow at least {text(need)}, or probe a layer with fewer features"
        )
    return int(min(wanted, fitting))


@dataclass(frozen=True)
class SolvePlan:
    """How much of solving and scoring is done at a time.

    Attributes:
        rows: test rows of a piece.
        held: bytes of factors that are held at once; test rows are read once for all of them.
        transient: bytes that one batch of factorisations may take.
        working: bytes that one batch's rows may take.
    """

    rows: int
    held: int
    transient: int
    working: int


def solve_plan(
    memory: int, n_features: int, n_classes: int, system: "SystemSize", accelerator: bool
) -> SolvePlan:
    """Return the plan for systems of which `system` is the largest.

    On a CPU the rows of a batch are to stay in cache; an accelerator wants them as many as fit.

    Raises:
        MemoryBudgetError: not even one system fits.
    """
    # the Gram, its scaled copy and one more while that is made; class sums likewise; eigenvectors
    # of two bases, and as much while they are found
    fixed = 8 * (n_features * (3 * n_features + 3 * n_classes) + 4 * system.width**2)
    least = spared(fixed + system.held + system.transient)
    # a block as it was read, the piece, and the piece transposed
    row = spared(3 * system.itemsize * n_features + system.row)
    rows = rows_within(memory, least, row, MAX_ROWS[accelerator], "one chain of probes")
    free = (memory - least - rows * row) * 7 // 8
    working = rows * system.row + (free // 4 if accelerator else min(free // 4, CACHE_BYTES))
    transient = system.transient + free // 4
    return SolvePlan(rows, system.held + free // 2, transient, working)


@dataclass(frozen=True)
class SystemSize:
    """Bytes that one (chain, penalty) takes.

    Attributes:
        length: m, the features of its largest prefix.
        n_classes: C.
        n_prefixes: the number of its probes.
        itemsize: bytes of a number in the precision of the rows.
        width: D, where the chain is of directions, each of which takes all features; else 0.
    """

    length: int
    n_classes: int
    n_prefixes: int
    itemsize: int
    width: int = 0

    @property
    def held(self) -> int:
        """What is kept between rows: the factor as it meets them, and its targets."""
        return self.itemsize * self.length * (max(self.length, self.width) + self.n_classes)

    @property
    def transient(self) -> int:
        """What factorising takes in float64: the matrix, its factor and two copies; the targets.

        Directions, products with them, and the inverse factor times them come on top.
        """
        system = self.length * (4 * self.length + 2 * self.n_classes)
        return 8 * (system + 5 * self.width**2)

    @property
    def row(self) -> int:
        """What one row being scored takes: features, logits, a strip of products, hits."""
        return self.itemsize * (self.length + self.n_classes + FORWARD_WIDTH) + 5 * self.n_prefixes
