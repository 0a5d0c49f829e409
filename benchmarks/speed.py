"""The short table of speeds at the head of docs/performance.md, worked out from the reports."""

from typing import Any

from benchmarks.bench_optimum import EXCESS
from featstore.measurements import Report, Row, cell
from featstore.probe.errors import FileError


def where(reports: dict[str, Report]) -> str:
    """Return the sentence above the table: the machine, and the sizes that rows leave out."""
    sizes, softmax = reports["ridge"].sizes, reports["logistic"].machine
    kinds = [
        f"{machine['cores']} cores ({machine['processor'].partition(',')[0]})"
        for machine in (reports["ridge"].machine, softmax)
    ]
    apart = "" if kinds[0] == kinds[1] else f", softmax probes on {kinds[1]}"
    return (
        f"On {kinds[0]}{apart}; {sizes['rows']:,} x"
        f" {sizes['features']:,} features, {sizes['classes']} classes, {sizes['test_rows']:,} test"
        " rows, unless said otherwise:\n"
    )


def table(reports: dict[str, Report]) -> list[Row]:
    """Return the rows of the table: what was done, and what that took."""
    rows = [*_ridge(reports), *_softmax(reports), *_sgd(reports), *_stores(reports)]
    return [{"what": what, "measured": measured} for what, measured in rows]


def _ridge(reports: dict[str, Report]) -> list[tuple[str, str]]:
    seeds = reports["ridge"].sizes["seeds"]
    _, few, many = reports["ridge"].tables["sweep"]
    loop = _row(reports, "ridge", "loops", "sklearn")
    return [
        (
            f"{few['probes']} ridge probes ({few['what']} x {seeds} seeds), moments included",
            f"{cell(few['seconds'], 3)} s, the time of {few['ratio']:.1f} products X'X",
        ),
        (
            f"{many['probes']:,} ridge probes ({many['what']} x {seeds} seeds)",
            f"{cell(many['seconds'], 3)} s",
        ),
        (f"scikit-learn's `Ridge`, the same {loop['probes']} probes in a loop", _as_long(loop)),
    ]


def _softmax(reports: dict[str, Report]) -> list[tuple[str, str]]:
    sizes = reports["logistic"].sizes
    shape = f"{sizes['rows']:,} x {sizes['features']:,}, {sizes['classes']} classes"
    ours, theirs, torchs = (
        _row(reports, "logistic", "loops", name) for name in ("ours", "sklearn", "torch-loop")
    )
    spent = _row(reports, "logistic", "convergence", "seconds")["value"]
    excess = f"{EXCESS:.0e}".replace("e-0", "e-")
    kind = "made-up" if sizes["features of"] == "synthetic" else "real"
    same = f"the same {ours['probes']}"
    return [
        (
            f"{ours['probes']} softmax probes, {kind} features ({shape}), "
            "to where scikit-learn stops",
            f"{cell(ours['seconds'], 3)} s",
        ),
        (f"scikit-learn's `LogisticRegression`, {same} in a loop", _as_long(theirs)),
        (f"torch's L-BFGS, {same} in a loop", _as_long(torchs)),
        (f"{same} softmax probes to the optimum, within {excess}", f"{cell(spent, 3)} s"),
    ]


def _sgd(reports: dict[str, Report]) -> list[tuple[str, str]]:
    epoch = _row(reports, "sgd", "stages", "one epoch")
    loop = _row(reports, "sgd", "loops", "torch-loop")
    return [
        (
            f"{loop['probes']} probes by SGD, an epoch, {reports['sgd'].sizes['classes']} classes",
            f"{cell(epoch['seconds'], 3)} s; one by one {cell(loop['of ours'], 2)} times as long",
        ),
    ]


def _stores(reports: dict[str, Report]) -> list[tuple[str, str]]:
    sizes, memory = reports["store"].sizes, reports["memory"]
    read = _row(reports, "store", "reads", "zarr load, verified")
    ridge = [row for row in memory.tables["memory"] if row["solver"] == "ridge"][-1]
    return [
        (
            f"a tap of {2 * sizes['rows'] * sizes['features'] / 1e6:.0f} MB read from a store,"
            " checksums checked",
            f"{read['GB/s']:.1f} GB/s, {read['ratio']:.2f} of the speed of `numpy.load`",
        ),
        (
            f"a store of {ridge['rows']:,} x {memory.sizes['features']} probed by ridge with"
            f" `--memory {ridge['granted MiB'] / 1024:g}GiB`",
            f"{ridge['taken MiB']} MiB above the libraries' own",
        ),
    ]


def _as_long(loop: Row) -> str:
    return f"{cell(loop['seconds'], 3)} s, {cell(loop['of ours'], 2)} times as long"


def _row(reports: dict[str, Report], stage: str, title: str, first: str) -> dict[str, Any]:
    """Return the row of a table whose `what` begins so."""
    for row in reports[stage].tables[title]:
        if row["what"].startswith(first):
            return dict(row)
    raise FileError(
        f"the report of {stage} has no row {first!r} in its table {title!r}: run"
        f" `python -m benchmarks.bench_{stage} --sizes full` again, with everything installed"
    )
