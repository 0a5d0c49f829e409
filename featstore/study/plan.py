"""Parts that a study still has to make, and how long they take."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from featstore import data, models
from featstore.data import files
from featstore.errors import BadStudy, FeatstoreError, StudyError
from featstore.extraction import inference
from featstore.models import taps
from featstore.probe.modes import modes_of
from featstore.probe.plans import described
from featstore.probe.solvers import SGD
from featstore.study.features import Feature, features_of, sources
from featstore.study.outside import is_outside
from featstore.study.records import Records
from featstore.study.spec import Study, several
from featstore.study.sweeps import Sweep, arguments_of, solver_of, sweeps_of

ANALYSES = "analyses"
"""Word that chooses tables, figures and page alone."""


@dataclass(frozen=True)
class Planned:
    """A feature and what hangs on it.

    Attributes:
        feature: it.
        chosen: whether it, or one of its sweeps, is to be made if it is missing.
        dim, rows, classes: of its store; 0 as long as there is none.
        sweeps: of it, by names; what they are of is known once there is a store.
        todo: names of the sweeps that are chosen and missing, or whose inputs changed.
        reason: why it cannot be had.
    """

    feature: Feature
    chosen: bool
    extracted: bool
    sweeps: tuple[str, ...]
    todo: tuple[str, ...]
    dim: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """A study in a folder, as it stands."""

    study: Study
    folder: Path
    features: list[Planned]

    @property
    def complete(self) -> bool:
        """True if every chosen store and sweep is there."""
        return not any(each.chosen and (each.todo or not each.extracted) for each in self.features)


def plan(study: Study, folder: str | Path, only: str | None = None) -> Plan:
    """Return what there is and what is missing; nothing is extracted, solved or written.

    Arguments:
        study: as `spec.read` gives it.
        folder: of its outputs.
        only: names or patterns of features, of probes, or of "FEATURE.PROBE", with commas between;
            "analyses" for tables, figures and page, which are otherwise left to a run of all.

    Raises:
        UsageError: the study asks for what cannot be, or `only` chooses nothing.
    """
    for name in study.probes:
        arguments_of(study, name)
    made = Records(Path(folder))
    planned = [_planned(study, feature, made, only) for feature in features_of(study)]
    nothing = not any(each.chosen for each in planned)
    if only is not None and nothing and ANALYSES not in several(only):
        names = ", ".join(each.feature.name for each in planned)
        raise BadStudy(
            f"--only {only} chooses nothing: features are {names}; probes are "
            f"{', '.join(study.probes)}; {ANALYSES} are tables, figures and page"
        )
    return Plan(study, Path(folder), planned)


def chosen(only: str | None, feature: str, probe: str) -> bool:
    """Return whether a sweep is chosen by a pattern.

    >>> chosen("lite0-*", "lite0-digits", "ridge"), chosen("ridge", "lite0-digits", "ridge")
    (True, True)
    >>> chosen("*.lda", "lite0-digits", "ridge"), chosen(None, "lite0-digits", "ridge")
    (False, True)
    """
    if only is None:
        return True
    names = (feature, probe, f"{feature}.{probe}")
    return any(fnmatchcase(name, word) for word in several(only) for name in names)


def _planned(study: Study, feature: Feature, made: Records, only: str | None) -> Planned:
    wanted = tuple(
        name
        for name, each in study.probes.items()
        if any(fnmatchcase(feature.name, pattern) for pattern in several(each.features))
        and chosen(only, feature.name, name)
    )
    is_chosen = bool(wanted) or chosen(only, feature.name, "")
    try:
        store = feature.found(made)
    except (FeatstoreError, StudyError) as error:
        return Planned(feature, is_chosen, False, wanted, wanted, reason=str(error))
    if store is None:
        return Planned(feature, is_chosen, False, wanted, wanted, reason=feature.absent)
    sweeps = sweeps_of(study, feature.name, sources(feature, store))
    todo = tuple(each.name for each in sweeps if of_probe(each) in wanted and not fresh(each, made))
    spec = store.spec
    rows = {split.name: split.n_rows * split.views for split in spec.splits}
    names = tuple(each.name for each in sweeps)
    dim = max(tap.dim for tap in spec.taps)
    return Planned(feature, is_chosen, True, names, todo, dim, rows, spec.n_classes)


def fresh(sweep: Sweep, made: Records) -> bool:
    """Return whether the results of a sweep are there, and of what they would be of now."""
    return made.fresh(sweep.part, sweep.fingerprint())


def of_probe(sweep: Sweep) -> str:
    """Return the name of a sweep's probe."""
    return sweep.name.rpartition(".")[2]


def todo(sweeps: Sequence[Sweep], feature: str, made: Records, only: str | None) -> list[Sweep]:
    """Return the sweeps of a feature that are chosen and not fresh."""
    return [s for s in sweeps if chosen(only, feature, of_probe(s)) and not fresh(s, made)]


IMAGES = 4  # of one batch, which is passed twice
TEXT = "A short sentence, about as long as the title of a book or the description of a package."


@dataclass(frozen=True)
class Rate:
    """Return a backbone's rows per second without decoding, and features of its widest tap."""

    rows: float
    dim: int


def of_backbone(feature: Feature) -> Rate:
    """Return the rate of a feature's backbone on this machine, without fetching any weights.

    Raises what loading it raises.
    """
    request = dict(feature.request)
    model, weights = request["model"], request.get("weights")
    local = model.startswith("onnx:")
    options = {"image_size": request.get("image_size"), "transform": request.get("transform")}
    tap_options = (tuple(request.get("taps", ("penultimate",))), request.get("pool"))
    key = (model, str(weights) if local else "", repr(options), repr(tap_options))
    if key not in _KNOWN:
        backbone = models.load(model, pretrained=local, **options)
        reader = taps.resolve(backbone, *tap_options)
        _KNOWN[key] = _measured(backbone, reader, request.get("device", "auto"))
    return _KNOWN[key]


_KNOWN: dict[tuple, Rate] = {}


def _measured(backbone: models.Backbone, reader: taps.Taps, device: str) -> Rate:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    batch = backbone.encode_batch([image if backbone.modality == "image" else TEXT] * IMAGES)
    where = inference.device_for(device, 0)
    infer = inference.Inference(backbone, reader, where)
    with torch.inference_mode():
        infer(batch)  # the first pass chooses algorithms
        _wait(where)
        started = time.perf_counter()
        infer(batch)
        _wait(where)
    seconds = time.perf_counter() - started
    return Rate(IMAGES / seconds, max(tap.dim for tap in reader.taps))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def products(size: int = 1024) -> float:
    """Return operations a second of float32 matrix products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(size, size, device=device)
    a @ a
    _wait(a.device)
    started, times = time.perf_counter(), 3
    for _ in range(times):
        a @ a
    _wait(a.device)
    return times * 2 * size**3 / (time.perf_counter() - started)


SETS = {
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "mnist": (60_000, 10_000, 10),
    "fashion_mnist": (60_000, 10_000, 10),
    "kmnist": (60_000, 10_000, 10),
    "svhn": (73_257, 26_032, 10),
    "stl10": (5_000, 8_000, 10),
    "flowers102": (1_020, 6_149, 102),
    "dtd": (1_880, 1_880, 47),
    "oxford_iiit_pet": (3_680, 3_669, 37),
    "food101": (75_750, 25_250, 101),
    "fgvc_aircraft": (3_334, 3_333, 100),
    "eurosat": (21_600, 5_400, 10),
    "gtsrb": (26_640, 12_630, 43),
    "imagenet": (1_281_167, 50_000, 1000),
}
"""Rows of train and test, and classes, of sets that may have to be downloaded first."""

UNKNOWN_RATE = 30.0
"""Rows a second where a backbone cannot be tried: an assumption."""

PASSES = 120
"""Passes over the rows of softmax probes (measured: 60 to 150), and epochs of the paper's SGD."""

TRIED = 8
"""Penalties that are tried where they are chosen, as usual."""

SHARES = {"ridge": 0.3, "lda": 0.3, "logistic": 0.2, "sgd": 0.15}
"""Share of this machine's rate of matrix products that solvers reach: an assumption."""


@dataclass(frozen=True)
class Line:
    """The cost of one feature.

    Attributes:
        name: of it.
        rows: passes through the backbone that are still to be done; None if nobody knows.
        published: what the published way would have cost in passes.
        probes: to be solved.
        extracting, probing: seconds, roughly; None if nobody knows.
        disk: bytes of the store that is still to be written.
        reason: why it cannot be had.
    """

    name: str
    rows: int | None = 0
    published: int | None = 0
    probes: int = 0
    extracting: float | None = 0.0
    probing: float | None = 0.0
    disk: int | None = 0
    reason: str | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of a study: a line a feature, and what the numbers rest on."""

    lines: list[Line]
    notes: list[str] = field(default_factory=list)

    def total(self, name: str) -> float:
        """Return the sum of a column over the lines in which it is known."""
        return sum(getattr(line, name) or 0 for line in self.lines if line.reason is None)


@dataclass(frozen=True)
class _Size:
    train: int
    test: int
    classes: int
    dim: int


def cost_of(plan: Plan, measure: bool = True) -> Cost:
    """Return what a plan will cost.

    Arguments:
        plan: of the study.
        measure: pass a batch of noise through each backbone that is still needed; otherwise
            30 rows a second are assumed.
    """
    notes: list[str] = []
    lines = [_line(plan.study, each, measure, notes) for each in plan.features if each.chosen]
    return Cost(lines, list(dict.fromkeys(notes)))


def _line(study: Study, each: Planned, measure: bool, notes: list[str]) -> Line:
    name = each.feature.name
    if each.reason:
        return Line(name, reason=each.reason)
    rate = None
    try:
        counts = _counts(each)
        if not each.extracted:
            rate = of_backbone(each.feature) if measure else None
    except (FeatstoreError, StudyError, OSError) as error:
        return Line(name, reason=str(error))
    if not each.extracted and rate is None:
        notes.append(f"{UNKNOWN_RATE:g} rows a second assumed, and 1,000 features")
    dim = each.dim or (rate.dim if rate else 1000)
    if counts is None:
        return Line(name, None, None, 0, None, None, None)
    size = _Size(*counts, dim)
    views = each.feature.request.get("views", 1)
    rows = 0 if each.extracted else size.train * views + size.test
    per_second = rate.rows if rate else UNKNOWN_RATE
    found = [_probes(study, probe, size) for probe in _todo(each)]
    width = 4 if each.feature.request.get("dtype") == "float32" else 2
    return Line(
        name,
        rows,
        _published(study, each.sweeps, size),
        sum(count for count, _ in found),
        rows / per_second,
        sum(seconds for _, seconds in found),
        rows * dim * width,
    )


def _todo(each: Planned) -> Iterator[str]:
    """Yield the probes of the sweeps that are to be solved, as often as there are taps."""
    for sweep in each.todo:
        yield sweep.rpartition(".")[2]


def _counts(each: Planned) -> tuple[int, int, int] | None:
    """Return rows of train and test, and classes; None for a set that is not here."""
    if each.extracted:
        rows = each.rows
        return rows.get("train", 0), rows.get("test", 0), each.classes or 1
    return counts_of(each.feature)


def counts_of(feature: Feature) -> tuple[int, int, int] | None:
    """Return rows of train and test, and classes, of a data set, without downloading anything."""
    request = feature.request
    name, limit = request["dataset"], request.get("limit")
    if name in SETS:
        train, test, classes = SETS[name]
    elif name in files.SHIPPED or _local(name):
        options = {key: request[key] for key in ("data_dir", "columns") if key in request}
        splits = [data.load(name, s, missing_ok=True, **options) for s in ("train", "test")]
        train, test = map(len, splits)
        classes = len(splits[0].classes) or 1
    else:
        return None
    return min(train, limit or train), min(test, limit or test), classes


def _local(name: str) -> bool:
    kind, colon, rest = name.partition(":")
    return bool(colon) and (kind != "hf" or Path(rest).exists())


def _probes(study: Study, probe: str, size: _Size) -> tuple[int, float]:
    """Return how many probes a sweep has, and about how many seconds they take."""
    arguments, modes = arguments_of(study, probe, size.dim)
    how, seeds = solver_of(arguments), len(arguments["seeds"])
    solver = how.name
    sizes = [int(f * size.dim) for f in arguments["fractions"] if f < 1]
    if arguments.get("every_k"):
        sizes = list(range(1, size.dim))
    outside = [mode for mode in modes if is_outside(mode)]
    known = modes_of([mode for mode in modes if mode not in outside]) if outside != modes else {}
    chains = len(outside) + sum(seeds if recipe.seeded else 1 for recipe in known.values())
    wholes = seeds if how.entry.depends_on_seed(how.options) else 1
    count = chains * len(sizes) + wholes
    summed, largest = chains * sum(sizes) + wholes * size.dim, max(sizes, default=0)
    penalties, _ = described(how)
    tries = 1 if penalties.chosen else len(penalties.values)
    if solver in ("ridge", "lda"):
        systems = [largest] * chains + [size.dim]
        each = sum(k**3 / 3 + k**2 * (size.classes + size.test / 2) for k in systems)
        tried = sum(k**3 / 3 + k**2 * size.train / 2 for k in systems) * TRIED * penalties.chosen
        operations = 2 * size.train * size.dim**2 + tries * each + tried
    else:
        passes = arguments.get("epochs", SGD.epochs) if solver == "sgd" else PASSES
        passes *= len(penalties.values) if solver == "sgd" else tries + penalties.chosen
        operations = passes * 4.0 * size.train * size.classes * summed
    return count, operations / (SHARES.get(solver, 0.2) * products())


def _published(study: Study, sweeps: Sequence[str], size: _Size) -> int:
    """Return image passes of a training a (mode, fraction, seed): epochs times train rows each.

    Probes of one solver are different trainings; of several solvers the most costly counts.
    """
    passes: dict[str, int] = {}
    for sweep in sweeps:
        name = sweep.rpartition(".")[2]
        arguments, modes = arguments_of(study, name, size.dim)
        fractions = [f for f in arguments["fractions"] if f < 1]
        trainings = len(modes) * len(fractions) * len(arguments["seeds"]) + 1
        solver = arguments["solver"]
        epochs = arguments.get("epochs", SGD.epochs)
        passes[solver] = passes.get(solver, 0) + trainings * epochs * size.train
    return max(passes.values(), default=0)
