"""The least time that the machine's measured rates allow for a stage, and how near it comes."""

from collections.abc import Mapping
from typing import Any

from featstore.measurements import percent


def floor_row(
    what: str,
    seconds: float,
    work: tuple[float, float] | None,
    rates: Mapping[str, float],
    dtype: str = "float32",
    target: str = "",
) -> dict[str, Any]:
    """Return a row: seconds, GFLOP/s of the matmul rate, GB/s of the copy rate, share of the floor.

    The floor is the longer of operations over the rate of products and bytes over that of copies.

    Arguments:
        what: the stage.
        seconds: it took.
        work: operations, and bytes that are read or written at least; None where neither bounds it.
        rates: as `measurements.rates`.
        dtype: of the operations, "float32" or "float64".
        target: the share of the rate of products that is wanted.

    Example:
        >>> rates = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}
        >>> row = floor_row("products", 2.0, (1e11, 5e9), rates)
        >>> row["of matmul"], row["GB/s"], row["of floor"]
        ('50 %', 2.5, '50 %')
    """
    row: dict[str, Any] = dict.fromkeys(
        ("what", "seconds", "GFLOP/s", "of matmul", "GB/s", "of copy", "of floor", "target"), ""
    )
    row |= {"what": what, "seconds": float(seconds), "target": target}
    if work is None:
        return row
    operations, moved = work
    matmul = rates["matmul64_gflops" if dtype == "float64" else "matmul_gflops"] * 1e9
    copied = rates["copy_gbs"] * 1e9
    floor = max(operations / matmul, moved / copied)
    row |= {"of floor": percent(floor / seconds)}
    if operations:
        row |= {
            "GFLOP/s": operations / seconds / 1e9,
            "of matmul": percent(operations / seconds / matmul),
        }
    if moved:
        row |= {"GB/s": moved / seconds / 1e9, "of copy": percent(moved / seconds / copied)}
    return row
