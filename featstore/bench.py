"""Time, memory and growth of probes, stores and extraction on this machine.

`featstore bench STAGE` prints what `run` returns. Every stage makes up its own problem, checks the
answers that it times, and records the machine's own rates.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

import featstore
from featstore import data, models, probe
from featstore.measurements import Growth, Report, Row, facts, measured, percent
from featstore.models import taps
from featstore.probe import arrays
from featstore.probe.arrays import Backend
from featstore.probe.errors import ProbeError, UsageError
from featstore.probe.memory import parse, silent
from featstore.probe.solvers import value_of

# --- sizes ------------------------------------------------------------------------------------

DEFAULT_SIZES, DEFAULT_MEMORY = "medium", "auto"


@dataclass(frozen=True)
class ProbeSizes:
    """Probes to fit.

    Attributes:
        rows: train rows.
        features: D.
        classes: C.
        fractions: how many fractions of the features, the whole layer besides.
        seeds: how many seeds.
        loop_probes: how many of one seed's probes the loop that is replaced is timed on.
        repeats: how often each time is taken; the shortest counts.
        points: how many values each axis of growth has.
    """

    rows: int
    features: int
    classes: int
    fractions: int
    seeds: int
    loop_probes: int = 4
    repeats: int = 2
    points: int = 4


@dataclass(frozen=True)
class SweepSizes(ProbeSizes):
    """Probes to fit, and to score on `test_rows` rows."""

    test_rows: int = 1000


@dataclass(frozen=True)
class EpochSizes(SweepSizes):
    """Probes to train for some `epochs`."""

    epochs: int = 2


Sizes = TypeVar("Sizes")


def chosen(named: Mapping[str, Sizes], text: str) -> Sizes:
    """Return the sizes that a text asks for: a name, numbers, or a name and then numbers.

    Numbers replace those of the name before them, or of "medium" where there is none.

    Raises:
        UsageError: no size has the name, or a number cannot be used; the message says what can.

    Example:
        >>> named = {"medium": ProbeSizes(1000, 64, 10, 5, 2)}
        >>> chosen(named, "rows=50000,classes=100").classes
        100
    """
    sizes = named[DEFAULT_SIZES]
    for place, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        key, equals, value = part.partition("=")
        if equals:
            sizes = replace(sizes, **{key: _number(sizes, key, value)})
        elif place == 0 and part in named:
            sizes = named[part]
        else:
            raise UsageError(
                f"{part!r} is no size here: sizes are {', '.join(named)}, or numbers such as "
                f"{_numbers(sizes)[0]}=1000, or a name and then numbers"
            )
    return sizes


def _numbers(sizes: Sizes) -> list[str]:
    return [each.name for each in fields(sizes) if each.type is int]


def _number(sizes: Sizes, key: str, value: str) -> int:
    if key not in _numbers(sizes):
        raise UsageError(f"no size is called {key!r} here: there are {', '.join(_numbers(sizes))}")
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"size {key} is {value!r}: a whole number of at least 1 is wanted")
    return int(value)


# --- problems ---------------------------------------------------------------------------------

Pair = tuple[np.ndarray, np.ndarray]


def clouds(
    n_rows: int, n_features: int, n_classes: int, *, apart: float = 3.0, decay: float = 0.0
) -> Pair:
    """Return Gaussian clouds about class centres, float32 (N, D), and labels int64 (N,).

    Arguments:
        n_rows: N.
        n_features: D.
        n_classes: C; classes take turns.
        apart: how far centres lie from their mean, in deviations within a class. With 3, one of
            ten classes is told in nine of ten rows at best.
        decay: direction i, counted from 1, is scaled by i^-decay, and the directions are mixed;
            0 leaves all alike. Features of a backbone have such a spectrum.
    """
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(n_classes, n_features, generator=random) * apart / n_features**0.5
    labels = torch.arange(n_rows) % n_classes
    features = torch.randn(n_rows, n_features, generator=random)
    features += centres[labels]
    if decay:
        scales = torch.arange(1, n_features + 1) ** -decay
        mixing, _ = torch.linalg.qr(torch.randn(n_features, n_features, generator=random))
        features = features @ (scales[:, None] * mixing)
    return features.numpy(), labels.numpy()


def split(sizes: SweepSizes, **how: float) -> tuple[Pair, Pair]:
    """Return train and test of one `clouds`."""
    features, labels = clouds(sizes.rows + sizes.test_rows, sizes.features, sizes.classes, **how)
    cut = sizes.rows
    return (features[:cut], labels[:cut]), (features[cut:], labels[cut:])


def part(rows: Pair, sizes: ProbeSizes, count: int | None = None) -> Pair:
    """Return the first rows and features of a problem, its classes merged to as many as asked."""
    features, labels = rows
    count = sizes.rows if count is None else count
    kept = np.ascontiguousarray(features[:count, : sizes.features])
    return kept, labels[:count] % sizes.classes


# --- growth ------------------------------------------------------------------------------------

TARGETS = {"fractions": 0.2, "seeds": 1.0, "rows": 1.0}
"""The steepest that time may grow along an axis, as a power of it."""


def points(sizes: ProbeSizes) -> dict[str, list[ProbeSizes]]:
    """Return for each axis the problems to solve, about one of half the rows and features.

    Example:
        >>> sizes = ProbeSizes(rows=800, features=64, classes=8, fractions=5, seeds=2)
        >>> [(p.rows, p.features) for p in points(sizes)["rows"]]
        [(100, 32), (200, 32), (400, 32), (800, 32)]
    """
    # a probe takes at least one feature, so that there are at most as many fractions as features
    middle = replace(
        sizes, rows=sizes.rows // 2, features=max(sizes.features // 2, sizes.fractions)
    )
    most = min(8 * sizes.fractions, middle.features)
    count = sizes.points
    along = {
        "fractions": _halved(most, count),
        "seeds": [1 << place for place in range(count)],
        "classes": _halved(sizes.classes, count, least=2),
        "rows": _halved(sizes.rows, count),
        "features": _halved(sizes.features, count, least=sizes.fractions),
    }
    return {
        axis: [replace(middle, **{axis: value}) for value in values]
        for axis, values in along.items()
    }


def _halved(value: int, count: int, least: int = 1) -> list[int]:
    return sorted({max(least, value >> by) for by in range(count)})


def grown(
    sizes: ProbeSizes, solve: Callable[[ProbeSizes], tuple[float, int, int]], of: str = ""
) -> list[Growth]:
    """Return the growth along every axis.

    Arguments:
        sizes: the largest rows, features and classes.
        solve: returns seconds, peak bytes and number of probes of a problem of some sizes.
        of: the solver, where a report has several.
    """
    found = []
    for axis, problems in points(sizes).items():
        spent, held, probes = zip(*map(solve, problems), strict=True)
        values = [getattr(problem, axis) for problem in problems]
        found.append(Growth(axis, values, probes, spent, held, TARGETS.get(axis), of))
    return found


# --- stages: probes ---------------------------------------------------------------------------

SOLVERS = ("ridge", "lda", "logistic", "sgd", "knn")
L2 = {"ridge": 1e-3, "logistic": 1e-4}
FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8)
TIES = 2
"""Rows whose class may be counted otherwise, where two classes tie."""
_VOTING = 200
"""Test rows whose neighbours are looked for again."""


class Disagreement(ProbeError):
    """Raised when what was timed does not give the answers that it is compared with."""


@dataclass(frozen=True)
class Setup:
    """Device and memory of probes, and the callback of progress."""

    backend: Backend
    memory: str = DEFAULT_MEMORY
    progress: Callable[..., None] = silent

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `probe.sweep` and `probe.fit` that say so."""
        where = {"device": self.backend.device, "backend": self.backend.name}
        return {"memory": self.memory, "progress": False, **where}


def shares(sizes: ProbeSizes) -> list[float]:
    """Return `FRACTIONS` for as many, and else 0.5 % to 80 %, evenly in the logarithm.

    Of narrow layers the smallest take no feature, and are left out.
    """
    count = sizes.fractions
    every = FRACTIONS if count == len(FRACTIONS) else np.geomspace(0.005, 0.8, count)
    return [float(share) for share in every if share * sizes.features >= 1] or [0.5]


def swept(train: Pair, test: Pair, sizes: EpochSizes, setup: Setup, solver: str) -> tuple:
    """Return seconds, peak bytes and the result of one sweep: moments, fits and scores."""
    own: dict[str, Any] = {"l2": L2[solver]} if solver in L2 else {}
    if solver == "sgd":
        own = {"epochs": sizes.epochs, "step_every": 1, "validate_every": 1, "one_start": False}
    if solver == "knn":
        own = {"k": 20}
    told = {"fractions": shares(sizes), "seeds": sizes.seeds, "solver": value_of(solver, own)}
    told |= setup.arguments
    return measured(lambda: probe.sweep(train, test, **told), sizes.repeats, setup.backend)


def throughput(solver: str, spent: float, held: int, result: probe.ProbeResult) -> Row:
    """Return a solver's row: probes a second, memory, accuracies of the fewest and all features."""
    table = result.table
    means = table.groupby("fraction")["accuracy"].mean()
    return {
        "solver": solver,
        "probes": len(table),
        "seconds": spent,
        "probes/s": len(table) / spent,
        "peak MiB": round(held / 2**20),
        f"at {100 * means.index[0]:.2g} %": float(means.iloc[0]),
        "all features": float(means.iloc[-1]),
    }


def check_scores(solver: str, train: Pair, test: Pair, result: probe.ProbeResult) -> None:
    """Raise Disagreement where a probe's accuracy is not that of x[features] @ coef + intercept.

    The first and the last probe's is counted again in float64, but for rows where two classes tie;
    of knn the last one votes again on the first test rows, by all train rows.
    """
    last = len(result.table) - 1
    if solver == "knn":
        # of few features many rows are equally near
        some = test[0][:_VOTING], test[1][:_VOTING]
        off = (result.predict(some).classes[:, last] != _votes(train, some[0], result, last)).sum()
        if off > TIES:
            raise Disagreement(f"knn: {off} votes of probe {last} are not its own")
        return
    for row in (0, last):
        hits = (result.weights(row).logits(test[0]).argmax(1) == test[1]).sum()
        off = abs(hits - result.table["accuracy"].iloc[row] * len(test[1]))
        if off > TIES:
            raise Disagreement(f"{solver}: {off:.0f} predictions of probe {row} are not its own")


def _votes(train: Pair, x: np.ndarray, result: probe.ProbeResult, row: int) -> np.ndarray:
    """Return the class that most of the nearest train rows of each row have, in float64."""
    features = result.fitted.axes.features(int(result.probes[row]))
    count = int(result.table["neighbours"].iloc[row])
    mean, scale = train[0].mean(0, dtype=np.float64), train[0].std(0, dtype=np.float64)
    near, far = ((each[:, features] - mean[features]) / scale[features] for each in (x, train[0]))
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    labels = train[1][np.argpartition(-near @ far.T, count - 1, axis=1)[:, :count]]
    return np.stack([np.bincount(own, minlength=train[1].max() + 1).argmax() for own in labels])


def measure_solvers(sizes: EpochSizes, setup: Setup) -> Report:
    """Return probes a second and peak memory of every solver on one sweep."""
    train, test = split(sizes, decay=0.5)
    rows = []
    for place, solver in enumerate(SOLVERS, start=1):
        spent, held, result = swept(train, test, sizes, setup, solver)
        check_scores(solver, train, test, result)
        rows.append(throughput(solver, spent, held, result))
        setup.progress("solvers", place, len(SOLVERS))
    said = f"The seconds hold moments, fits and scores. sgd: {sizes.epochs} epochs of 100; "
    said += "knn: 20 neighbours."
    return Report("solvers", asdict(sizes), facts(setup.backend), {"solvers": rows}, notes=[said])


def measure_growth(sizes: EpochSizes, setup: Setup) -> Report:
    """Return how time and memory of every solver grow with each size."""
    train, test = split(sizes, decay=0.5)
    found: list[Growth] = []
    for place, solver in enumerate(SOLVERS, start=1):

        def solve(point: EpochSizes, solver: str = solver) -> tuple[float, int, int]:
            own = part(train, point), part(test, point, point.test_rows)
            spent, held, result = swept(*own, point, setup, solver)
            check_scores(solver, *own, result)
            return spent, held, len(result)

        found += grown(sizes, solve, solver)
        setup.progress("solvers", place, len(SOLVERS))
    return Report("growth", asdict(sizes), facts(setup.backend), {}, found)


# --- stages: stores and extraction ------------------------------------------------------------


@dataclass(frozen=True)
class StoreSizes:
    """Size of a tap, repeats of each timing, and the values over which rows grow."""

    rows: int
    features: int
    repeats: int
    points: int


def store_spec(n_rows: int, n_features: int) -> featstore.Spec:
    """Return the spec of a store of one tap, float16, of two classes."""
    return featstore.Spec(
        backbone="bench",
        weights="none",
        transform="none",
        dataset="bench",
        splits=(featstore.Split(name="train", n_rows=n_rows, fingerprint="none"),),
        taps=(featstore.Tap(name="tap", dim=n_features, pooling="none"),),
        dtype="float16",
        classes=("one", "other"),
    )


def write_store(store: featstore.Store, x: np.ndarray) -> None:
    """Write and commit all rows: on the disk when this returns."""
    labels, ids = np.zeros(len(x), np.int64), [str(row) for row in range(len(x))]
    with store.writer() as writer:
        for block in range(store.n_blocks("train")):
            rows = slice(store.rows_of("train", block).start, store.rows_of("train", block).stop)
            writer.write("train", block, {"tap": x[rows]}, labels[rows], ids[rows])


def half_floats(n_rows: int, n_features: int) -> np.ndarray:
    """Return random features, float16 (N, D)."""
    drawn = np.random.default_rng(0).standard_normal((n_rows, n_features), np.float32)
    return drawn.astype(np.float16)


def measure_store(sizes: StoreSizes, setup: Setup) -> Report:
    """Return how fast every format writes and reads a tap, and how that grows with its rows."""
    every, found, rows, growth = (
        half_floats(sizes.rows, sizes.features),
        facts(setup.backend),
        [],
        [],
    )
    values = _halved(sizes.rows, sizes.points)
    with tempfile.TemporaryDirectory() as name:
        for form in featstore.FORMATS:
            times: dict[str, list[tuple[float, int]]] = {"write": [], "read": []}
            for count in values:
                x, path = every[:count], Path(name) / f"{count}.{form}"

                def write(x=x, path=path, form=form) -> featstore.Store:
                    if path.exists():
                        featstore.remove(path)
                    store = featstore.create(path, store_spec(*x.shape), form)
                    write_store(store, x)
                    return store

                spent, held, store = measured(write, sizes.repeats, setup.backend)
                times["write"].append((spent, held))
                read = partial(store.load, "train", "tap")
                spent, held, there = measured(read, sizes.repeats, setup.backend)
                times["read"].append((spent, held))
                if not np.array_equal(there, x):
                    raise Disagreement(f"{form}: what was read is not what was written")
            for what, taken in times.items():
                spent, held = zip(*taken, strict=True)
                one = Growth("rows", values, values, spent, held, 1.0, f"{form} {what}", "rows")
                growth.append(one)
                rate = every.nbytes / spent[-1] / 1e9
                rows.append(
                    {
                        "what": f"{form} {what}",
                        "seconds": spent[-1],
                        "GB/s": rate,
                        "of copy": percent(2 * rate / found["copy_gbs"]),
                        "peak MiB": round(held[-1] / 2**20),
                    }
                )
    said = "Written: on the disk, committed. Read: whole, every checksum checked."
    return Report("store", asdict(sizes), found, {"store": rows}, growth, [said])


@dataclass(frozen=True)
class ExtractSizes:
    """Number and size in px of a model's images, and the values over which they grow."""

    model: str
    images: int
    px: int
    batch_size: int
    points: int


def images(folder: Path, count: int) -> str:
    """Return the `dataset` of `count` JPEG files of 400 x 300 pixels, in folders of ten classes.

    They are smooth fields with a little noise, of about the size of a photograph's file.
    """
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "images" / "train" / f"class{number % 10}" / f"{number:05}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        field = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        levels = np.asarray(field.resize((400, 300), Image.Resampling.BICUBIC), np.int16)
        levels = levels + random.integers(-8, 9, levels.shape, np.int16)
        Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(path, quality=90)
    return f"folder:{folder / 'images'}"


def check_features(reader: taps.Taps, inputs: torch.Tensor, store: featstore.Store) -> None:
    """Raise Disagreement unless what was stored for the first batch is what the model gives."""
    with torch.inference_mode():
        features = reader.read(inputs)["penultimate"].float().cpu().numpy()
    stored = store.read("train", "penultimate", 0, len(inputs))
    if not np.allclose(stored, features, rtol=2e-2, atol=2e-2):
        worst = np.abs(stored - features).max()
        raise Disagreement(f"extract: stored features differ by {worst:.2g} from the model's")


def measure_extract(sizes: ExtractSizes, setup: Setup) -> Report:
    """Return images a second of an extraction, start-up included, and how it grows with images."""
    network = {"pretrained": False, "image_size": sizes.px}
    backbone = models.load(sizes.model, **network)
    values, times = _halved(sizes.images, sizes.points), []
    with tempfile.TemporaryDirectory() as name:
        dataset = images(Path(name), sizes.images)
        for count in values:
            extract = partial(
                featstore.extract,
                sizes.model,
                dataset,
                **network,
                splits=("train",),
                limit=count,
                batch_size=sizes.batch_size,
                out=Path(name) / "store",
                overwrite=True,
            )
            times.append(measured(extract, 1, setup.backend))
            setup.progress("extractions", len(times), len(values))
        # of fewer rows a limit takes others
        rows = data.load(dataset, "train", limit=sizes.images)
        inputs = backbone.encode_batch([rows[row][0] for row in range(sizes.batch_size)])
        check_features(taps.resolve(backbone), backbone.prepare(inputs), times[-1][2].store)
    spent, held, _ = zip(*times, strict=True)
    row = {
        "model": sizes.model,
        "px": sizes.px,
        "images": sizes.images,
        "seconds": spent[-1],
        "images/s": sizes.images / spent[-1],
        "peak MiB": round(held[-1] / 2**20),
    }
    growth = Growth("images", values, values, spent, held, 1.0, counted="images")
    return Report("extract", asdict(sizes), facts(setup.backend), {"images": [row]}, [growth])


class Stage(NamedTuple):
    """Stage of the benchmark: its title, its function, and its sizes by name."""

    about: str
    measure: Callable[[Any, Setup], Report]
    sizes: Mapping[str, Any]
    solves: bool = False


SOLVER_SIZES = {
    "small": EpochSizes(600, 256, 5, 5, 2, repeats=1, points=2, test_rows=200),
    "medium": EpochSizes(4_000, 512, 10, 10, 5, repeats=1, points=3, epochs=10),
    "full": EpochSizes(10_000, 1_024, 10, 10, 5, repeats=1, test_rows=5_000, epochs=10),
}

STAGES = {
    "solvers": Stage("every solver on one sweep", measure_solvers, SOLVER_SIZES, solves=True),
    "growth": Stage("the growth of every solver", measure_growth, SOLVER_SIZES, solves=True),
    "store": Stage(
        "writing and reading stores",
        measure_store,
        {
            "small": StoreSizes(3_000, 256, 1, 2),
            "medium": StoreSizes(20_000, 1_024, 3, 4),
            "full": StoreSizes(50_000, 2_048, 5, 4),
        },
    ),
    "extract": Stage(
        "extraction, from JPEG files to a committed store",
        measure_extract,
        {
            "small": ExtractSizes("test_resnet", 64, 32, 32, 2),
            "medium": ExtractSizes("resnet18", 512, 224, 32, 3),
            "full": ExtractSizes("resnet50", 1_024, 224, 32, 4),
        },
    ),
}


def run(
    stage: str = "solvers",
    sizes: str = DEFAULT_SIZES,
    *,
    memory: str = DEFAULT_MEMORY,
    device: str = "auto",
    backend: str = "torch",
    progress: Callable[..., None] | None = None,
) -> Report:
    """Return the `Report` of a stage, whose answers have been checked.

    Arguments:
        stage: a key of `STAGES`.
        sizes: "small", "medium" or "full", or numbers such as "rows=50000,classes=100".
        memory: what the arrays of probes may take.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback.

    Raises:
        UsageError: an argument cannot be used.
        Disagreement: the answers that were timed are wrong.
    """
    if stage not in STAGES:
        raise UsageError(f"stage is {stage!r}; choose {', '.join(STAGES)}")
    entry = STAGES[stage]
    parse(memory)
    where = arrays.backend(backend, device) if entry.solves else Backend()
    return entry.measure(chosen(entry.sizes, sizes), Setup(where, memory, progress or silent))
