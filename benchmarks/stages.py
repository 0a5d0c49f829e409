"""The stages that can be measured, and the one function that measures any of them."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from featstore import bench
from featstore.bench import DEFAULT_MEMORY
from featstore.probe.errors import UsageError


@dataclass(frozen=True)
class Stage:
    """One entry of the registry.

    Attributes:
        module: where it lies, with its `SIZES` and its `measure(sizes, setup)`.
        about: what it measures.
        loops: what it can be compared with, each a name in `loops.PACKAGES`.
        solves: whether it computes as probes do, and so takes a memory, a device and a backend.
        stored: whether it can take its rows from a store.
    """

    module: str
    about: str
    loops: tuple[str, ...] = ()
    solves: bool = False
    stored: bool = False


STAGES = {
    "probe": Stage(
        "bench_probe", "every solver on the same sweep", ("sklearn", "torch-loop"), solves=True
    ),
    "ridge": Stage(
        "bench_ridge", "ridge, stage by stage", ("sklearn", "torch-loop", "himalaya"), solves=True
    ),
    "modes": Stage("bench_modes", "all modes in one sweep, against random ones", solves=True),
    "neighbours": Stage("bench_neighbours", "votes of prefixes, against a product", solves=True),
    "logistic": Stage(
        "bench_logistic",
        "exact softmax regression",
        ("sklearn", "torch-loop", "cuml"),
        solves=True,
        stored=True,
    ),
    "binary": Stage(
        "bench_binary", "binary probes to their optimum", ("probekit",), solves=True, stored=True
    ),
    "optimum": Stage(
        "bench_optimum", "softmax objectives, against scikit-learn's to the last digit", solves=True
    ),
    "sgd": Stage("bench_sgd", "the paper's own training", ("torch-loop",), solves=True),
    "attribution": Stage("bench_attribution", "each feature left out, against refits", solves=True),
    "kernels": Stage("bench_kernels", "the fused CUDA steps, against eager ones", solves=True),
    "store": Stage("bench_store", "writing and reading stores, against numpy's files"),
    "remote": Stage("bench_remote", "reading a store at s3://, against plain GETs"),
    "extract": Stage("bench_extract", "extraction, against bare forward passes"),
    "memory": Stage("bench_memory", "memory of sweeps over stores", solves=True),
    "report": Stage("bench_report", "a page of results, in a browser"),
    "large": Stage("bench_large", "a store of 10,000,000 rows, sparse on the disk", solves=True),
}


@dataclass(frozen=True)
class Setup(bench.Setup):
    """Device of a stage, and what it is compared with.

    Attributes:
        against: the loops to run too.
        store: where train rows come from; None for made-up ones.
    """

    against: tuple[str, ...] = ()
    store: Path | None = None


def run(
    stage: str = "probe",
    sizes: str = "medium",
    *,
    against: Sequence[str] | None = None,
    store: str | Path | None = None,
    memory: str = DEFAULT_MEMORY,
    device: str = "auto",
    backend: str = "torch",
    progress: Any = None,
):
    """Return the `Report` of a stage, whose answers have been checked.

    Arguments:
        stage: a key of `STAGES`.
        sizes: "small", "medium" or "full", or numbers such as "rows=50000,classes=100".
        against: what to compare it with, most on a few probes: "sklearn", "torch-loop", "cuml",
            "himalaya", "probekit"; by default all that the stage has and that are installed, and
            nothing where it is empty.
        store: a store whose train rows are probed, in place of made-up ones.
        memory: what the arrays of probes may take.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback.

    Raises:
        UsageError: an argument cannot be used.
        Disagreement: the answers are not those of what they are compared with.
    """
    if stage not in STAGES:
        raise UsageError(f"no stage is called {stage!r}: there are {', '.join(STAGES)}")
    from benchmarks import loops
    from featstore.probe import arrays
    from featstore.probe.memory import parse as parse_memory, silent

    entry = STAGES[stage]
    if store is not None and not entry.stored:
        takers = ", ".join(name for name, other in STAGES.items() if other.stored)
        raise UsageError(f"stage {stage} makes up its rows: rows of a store are for {takers}")
    parse_memory(memory)
    module = import_module(f"benchmarks.{entry.module}")
    setup = Setup(
        arrays.backend(backend, device) if entry.solves else arrays.backend("torch", "cpu"),
        memory,
        progress or silent,
        loops.wanted(against, entry.loops),
        Path(store) if store else None,
    )
    return module.measure(bench.chosen(module.SIZES, sizes), setup)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main(stage: str) -> None:
    """Measure a stage as the command line of its module says, and print its report."""
    entry = STAGES[stage]
    parser = argparse.ArgumentParser(description=f"Measure {entry.about}.")
    parser.add_argument("--sizes", default="medium", help="small, medium, full, or rows=1000,...")
    parser.add_argument("--json", type=Path, help="write machine, sizes and results here")
    parser.add_argument("--figures", type=Path, help="draw growth into this folder, SVG")
    given = parser.add_argument_group("options of some stages")
    if entry.loops:
        offered = f"any of {','.join(entry.loops)}, or '' for none; by default what is installed"
        given.add_argument("--against", type=_names, help=f"what to compare with: {offered}")
    if entry.stored:
        given.add_argument("--store", type=Path, help="real features: the train split of a store")
    if entry.solves:
        given.add_argument("--memory", default=DEFAULT_MEMORY)
        given.add_argument("--device", default="auto")
        given.add_argument("--backend", default="torch")
    options = vars(parser.parse_args())
    path, figures = options.pop("json"), options.pop("figures")
    report = run(stage, **options)
    if path:
        report.save(path)
    print(report.text())
    if figures:
        from benchmarks.figures import growth_figures

        growth_figures(report, figures)
