"""`featstore probe`, `predict` and `quickstart`."""

import contextlib
import sys
from functools import partial
from pathlib import Path

import click

from featstore.cli import screen
from featstore.cli.common import (
    BACKEND,
    FILE,
    FOLDS,
    GROUPS,
    LABEL,
    MEMORY,
    ON,
    SCALED,
    SCORE,
    STORE,
    TEST_SHARE,
    TEST_SPLIT,
    Command,
    Names,
    NumberList,
    OutFile,
    renamed,
    seeds,
    solver_of,
    takes_solver,
)
from featstore.cli.extract import run_extract
from featstore.cli.screen import Progress, first_notice, notice, tested_on


@click.command(cls=Command)
@click.argument("store", type=STORE)
@renamed(
    "--probes",
    "weights",
    old="--weights",
    type=FILE,
    required=True,
    metavar="FILE",
    help="What `probe --save-weights` wrote.",
)
@renamed(
    "--split",
    old="--test-split",
    help="Split whose rows are taken.  [default: test, or validation]",
)
@MEMORY
@click.option(
    "--out",
    type=OutFile(".csv", ".parquet", ".npz"),
    metavar="FILE",
    help="Save the class, or the labels, that each probe predicts for each row: .csv, .parquet or "
    ".npz.",
)
def predict(store, weights, split, memory, out) -> None:
    """Apply saved probes to the rows of a store.

    The store must hold the features that the probes were fitted on: the same backbone, weights,
    transform and tap. Accuracy is shown where the classes are the same too; of several labels at
    once, F1 and the share of labels that are right.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.1 --seeds 1 \\
        --save-weights probes.safetensors
      featstore predict mine.zarr --probes probes.safetensors --split test \\
        --out predictions.csv
    """
    import featstore
    from featstore.probe import load_weights, predict

    opened, saved = featstore.open(store), load_weights(weights)
    split = tested_on(opened, split)
    tap = saved.source.get("tap", opened.spec.taps[0].name)
    with Progress() as progress:
        predicted = predict(
            saved,
            opened.tap(split, tap),
            source=opened.spec.of_tap(tap),
            classes=opened.spec.classes or opened.spec.targets,
            memory=memory,
            progress=progress,
        )
    if out:
        predicted.save(out)
    screen.show(*screen.of_sweep(predicted.table, predicted.correct))
    if predicted.correct is None:
        notice("no scores: the classes of this store are not those of the probes")
    if out:
        notice(f"wrote {out}")


@click.command(cls=Command)
@click.argument("store", type=STORE, required=False)
@click.option(
    "--fractions",
    type=NumberList(float, "0.01,0.05,0.1"),
    metavar="LIST",
    help="Shares of the features, in (0, 1]; the full layer comes by itself.  "
    "[required, or --every-k]",
)
@click.option(
    "--every-k",
    is_flag=True,
    help="Every number of features in place of --fractions; with --solver ridge or lda.",
)
@seeds(required=True)
@click.option(
    "--mode",
    type=Names(),
    default="random",
    metavar="LIST",
    help="Which features: random, independent, first, last, variance, fisher, greedy, "
    "drop-one, shapley, indices:FILE, universality:STORE#TAP; or directions: "
    "basis:FILE|STORE#TAP, pca, pca-least, pca-uncentred, "
    "random-projection, random-projection-orthogonal, random-projection-uniform.",
)
@takes_solver
@click.option(
    "--metrics",
    type=Names(),
    metavar="LIST",
    help="Scores to keep: accuracy, balanced_accuracy (or mean_per_class), top5 (or any top<k>), "
    "macro_f1, weighted_f1, kappa, auroc, average_precision, nll, ece; of numbers r2, mse, mae.  "
    "[default: accuracy, or r2]",
)
@SCORE
@click.option(
    "--cka", is_flag=True, help="Compare what each probe sees with the whole layer, on test rows."
)
@renamed(
    "--taps",
    "tap",
    old="--tap",
    type=Names(),
    metavar="LIST|all",
    help="Layers, or all; of several, accuracy by layer.  [default: the first]",
)
@TEST_SPLIT
@FOLDS
@TEST_SHARE
@LABEL
@GROUPS
@SCALED
@MEMORY
@ON
@BACKEND
@click.option(
    "--out",
    type=OutFile(".csv", ".json", ".parquet"),
    metavar="FILE",
    help="Save one row a probe: .csv, .json or .parquet.",
)
@click.option("--resume", is_flag=True, help="Solve only the probes that --out does not have.")
@click.option(
    "--plot",
    type=OutFile(".png", ".svg", ".pdf"),
    metavar="FILE",
    help="Draw accuracy against fraction, or of several taps against layer: .png, .svg or .pdf.",
)
@click.option(
    "--by-layer",
    type=OutFile(".csv", ".json", ".parquet"),
    metavar="FILE",
    help="Of several taps, save each one's accuracy with its interval: .csv, .json or .parquet.",
)
@click.option(
    "--save-weights",
    type=OutFile(".safetensors"),
    metavar="FILE",
    help="Save the probes themselves, for `featstore predict`: .safetensors.",
)
@click.option(
    "--save-predictions",
    type=OutFile(".csv", ".parquet", ".npz"),
    metavar="FILE",
    help="Save the class that each probe predicts for each test row: .csv, .parquet or .npz.",
)
@renamed(
    "--save-per-class",
    "per_class",
    old="--per-class",
    type=OutFile(".csv", ".json", ".parquet"),
    metavar="FILE",
    help="Save each probe's accuracy on each class: .csv, .json or .parquet.",
)
def probe(
    store,
    out,
    plot,
    by_layer,
    save_weights,
    save_predictions,
    per_class,
    test_split,
    solver,
    tap,
    **options,
) -> None:
    """Solve a linear probe for every (fraction, seed) at once.

    Prints the test accuracy and its share of the full layer's, with intervals over seeds and test
    rows, and says before it starts how long it will take.

    STORE is a path; without it, the newest complete store under the store root is taken,
    one that was made in this folder before all others.
    Features are drawn at random, nested along the fractions of one seed, unless --mode says
    otherwise.

    \b
    Example:
      featstore probe --fractions 0.01,0.05,0.1 --seeds 5
      featstore probe mine.zarr --fractions 0.1,0.5 --seeds 3,7 --l2 0.01 \\
        --out results.csv --plot accuracy.pdf
      featstore probe mine.zarr --fractions 0.1 --seeds 5 \\
        --save-weights probes.safetensors
      featstore probe mine.zarr --every-k --seeds 5 --solver ridge --score auroc
      featstore probe mine.zarr --folds 5 --fractions 0.1 --seeds 5 --solver ridge
      featstore probe scenes.zarr --label dog --fractions 0.1 --seeds 5 \\
        --groups id:^[^/]+
      featstore probe layers.zarr --taps all --fractions 1 --seeds 1 \\
        --plot layers.pdf
      torchrun --nproc-per-node 8 -m featstore probe --fractions 0.1 --seeds 5
    """
    if options["resume"] and not out:
        raise click.UsageError("--resume goes on with a results file: name it with --out")
    if options["resume"] and (save_weights or save_predictions or per_class):
        raise click.UsageError(
            "--resume reads finished probes from the results file, which holds neither weights "
            "nor predictions: leave it out to solve every probe"
        )
    first_notice(f"reading {store or 'the newest complete store'}")
    import featstore
    from featstore.probe.memory import joined, rank
    from featstore.probe.solvers.registry import SOLVERS

    with joined():
        if rank() > 0:
            click.get_current_context().meta["quiet"] = True
        heading = ""
        if store is None:
            chosen = featstore.newest_complete()
            notice(f"probing the newest complete store: {chosen.path}")
            heading = _taken(chosen)
        else:
            chosen = featstore.open(store)
        parted = _parted(test_split, options, save_predictions)
        tested = "train" if parted else tested_on(chosen, test_split)
        solver = solver_of(solver)
        if save_weights and not SOLVERS[solver.solver].affine:
            raise click.UsageError(
                f"solver {solver.solver} has no weights to save: leave out --save-weights"
            )
        _refuse_classes(chosen, save_predictions, per_class)
        taps = _taps(chosen, tap)
        if len(taps) > 1:
            given = {
                "--save-weights": save_weights,
                "--save-predictions": save_predictions,
                "--save-per-class": per_class,
            }
            for option in (name for name, file in given.items() if file):
                raise click.UsageError(
                    f"{option} is of the probes of one tap, and {len(taps)} are named: name one"
                )
            run_layers(
                chosen, taps, out, plot, by_layer, tested, solver=solver, heading=heading, **options
            )
            return
        if by_layer:
            raise click.UsageError("--by-layer is of several taps: give --taps all, or a list")
        result = run_probe(
            chosen, out, plot, split=tested, heading=heading, solver=solver, tap=taps[0], **options
        )
        if rank() == 0 and (save_weights or save_predictions or per_class):
            _save(
                result,
                chosen,
                tested,
                save_weights,
                save_predictions,
                per_class,
                options["memory"],
                options["label"],
                options["groups"],
            )


def _refuse_classes(store, save_predictions, per_class) -> None:
    """Refuse to keep what is of classes and labels alone where labels are numbers."""
    if (save_predictions or per_class) and store.spec.targets and not store.spec.binary:
        raise click.UsageError(
            f"the labels of {store.path} are numbers, and "
            f"{'--save-predictions' if save_predictions else '--save-per-class'} is for classes "
            "alone: leave it out; --save-weights keeps the probes"
        )


def _parted(test_split, options, save_predictions) -> bool:
    """Return whether train rows are tested, by folds or a share of them; refuse what cannot be."""
    asked = [name for name in ("folds", "test_share") if options[name] is not None]
    if not asked:
        return False
    option = f"--{asked[0].replace('_', '-')}"
    if test_split or len(asked) > 1:
        other = "--test-split" if test_split else "--test-share"
        raise click.UsageError(f"{option} and {other} both say what to test on: give one")
    given = {"--save-predictions": save_predictions}
    if options["folds"]:
        given = {"--cka": options["cka"]}
    for name in (name for name, file in given.items() if file):
        raise click.UsageError(f"{name} is of the probes of a split, not of {option}: leave it out")
    return True


def _taken(store) -> str:
    """Say which store was taken where none was named, and whose it is if not of this folder."""
    import os

    folder = store.provenance.get("folder")
    elsewhere = f", made in {folder}" if folder and folder != os.getcwd() else ""
    return f"Store: {store.path}, the newest complete one{elsewhere}.\n"


def _save(result, store, split, weights, predictions, per_class, memory, label, groups) -> None:
    from featstore.probe import per_class_table, save_weights
    from featstore.probe.cross_validation import CrossValidated
    from featstore.probe.results.files import save_table

    tap = result.table["tap"].iloc[0]
    rows = rows_of(store, split, tap, label, groups)
    classes = rows.classes or None
    written = [weights]
    if weights and isinstance(result, CrossValidated):
        written = []
        for number, one in enumerate(result.results, 1):
            written.append(weights.with_suffix(f".{number}-of-{len(result.results)}.safetensors"))
            source = {**store.spec.of_tap(tap), "fold": f"{number} of {len(result.results)}"}
            save_weights(one, written[-1], source=source, classes=classes)
    elif weights:
        save_weights(result, weights, source=store.spec.of_tap(tap), classes=classes)
    if per_class:
        save_table(per_class_table(result, classes), per_class, digest=True)
    if predictions:
        result.predict(rows, memory).save(predictions)
    for path in filter(None, (*written, per_class, predictions)):
        notice(f"wrote {path}")


def _taps(store, asked) -> list[str]:
    """Return the taps of a store that are meant, "all" for every one."""
    known = [tap.name for tap in store.spec.taps]
    if not asked:
        return known[:1]
    if "all" in asked and "all" not in known:
        return known
    return [store.spec.tap(name).name for name in dict.fromkeys(asked)]


def run_layers(
    store,
    taps,
    out,
    plot,
    by_layer,
    split,
    *,
    solver,
    heading="",
    resume=False,
    score=None,
    **options,
):
    """Sweep several taps of an open store, show accuracy by layer, and return the sweeps.

    `out` is written anew after each tap, so that a run that is killed goes on with the next.
    """
    from tempfile import TemporaryDirectory

    from featstore.probe import LayerSweep, accuracy_by_layer
    from featstore.probe.layers import parted
    from featstore.probe.memory import rank
    from featstore.probe.results import scored_by
    from featstore.probe.results.files import save_table
    from featstore.probe.results.sentences import warnings

    results, held = [], set()
    with TemporaryDirectory(prefix="featstore-layers-") as folder, Progress() as progress:
        suffix = out.suffix if out else ""
        files = {tap: Path(folder, f"{number}{suffix}") for number, tap in enumerate(taps)}
        if resume and out.exists():
            held = parted(out, files)
        expected = _forecasts(store, taps, split, solver, options)
        for number, tap in enumerate(taps, 1):
            progress("layers", number - 1, len(taps), seconds=expected)
            part = files[tap] if out else None
            again = resume if options["folds"] else bool(part and part.exists())
            found = swept(
                store,
                part,
                split=split,
                tap=tap,
                solver=solver,
                resume=again,
                score=score,
                progress=partial(progress, layer=tap),
                folder=_of_folds(out, tap),
                **options,
            )
            results.append(found)
            # what the file has of later taps stays in it until they are solved
            if out and rank() == 0 and held <= set(taps[:number]):
                LayerSweep(tuple(results)).save(out)
        progress("layers", len(taps), len(taps), seconds=expected)
    joined = LayerSweep(tuple(results))
    if rank() > 0:
        return joined
    if out:
        from featstore.report import provenance

        provenance.write(out, [store], sys.argv)
    shown, correct = joined.to_pandas(), joined.evidence(score)
    if score:
        shown = scored_by(shown, score)
    table = accuracy_by_layer(shown, correct)
    if by_layer:
        save_table(table, by_layer)
    if plot:
        from featstore.probe.figures import accuracy_against_layer

        accuracy_against_layer(shown, plot, correct=correct)
    screen.show(*filter(None, [heading]), *screen.of_layers(joined.to_pandas(), table))
    for each in warnings(joined.to_pandas()):
        click.echo(f"Warning: {each}", err=True)
    for path in filter(None, (out, plot, by_layer)):
        notice(f"wrote {path}")
    return joined


def _forecasts(store, taps, split, solver, options) -> list[float]:
    """Return about how many seconds a sweep of each tap takes."""
    from featstore.probe.arrays import backend
    from featstore.probe.plans import Shape, Wanted
    from featstore.probe.solvers.registry import chosen
    from featstore.study.outside import forecasts

    train, test = (store.spec.split(name) for name in ("train", split))
    rows = train.n_rows * train.views, test.n_rows * test.views
    outputs = max(len(store.spec.targets), store.spec.n_classes, 1)
    shapes = (Shape(*rows, outputs, store.spec.tap(tap).dim) for tap in taps)
    wanted = Wanted(options["fractions"], options["seeds"], options["mode"], options["every_k"])
    where = backend(options["backend"], options["device"])
    return forecasts(shapes, wanted, chosen(solver), where)


def _of_folds(out, tap) -> Path | None:
    """Return where results of single folds lie, beside those of all; None where none is kept."""
    return out and out.with_name(f"{out.name}.folds") / tap


def rows_of(store, split, tap, label=None, groups=None, view=None):
    """Return rows of a store, with one of several labels as their class, and of groups."""
    from featstore.probe.rows import Grouped, OneLabel
    from featstore.study.outside import groups_of

    rows = store.tap(split, tap, view=view)
    rows = OneLabel(rows, label) if label else rows
    return Grouped(rows, groups_of(store, split, groups)) if groups else rows


def pair_of(store, split, tap, label, groups, test_share):
    """Return train and test rows of a store, test being a share of train where that is asked."""
    from featstore.probe.cross_validation import rows_by_hash
    from featstore.probe.splits import every_view

    train = rows_of(store, "train", tap, label, groups)
    if test_share is None:
        return train, rows_of(store, split, tap, label, groups)
    ids, own = store.ids("train"), getattr(train, "groups", None)
    tested = rows_by_hash(ids, test_share, None if own is None else own[: len(ids)])
    notice(f"tested on {int(tested.sum()):,} of {len(tested):,} train rows, by a hash of their ids")
    return tuple(every_view(train, which.nonzero()[0]) for which in (~tested, tested))


def swept(
    store,
    out,
    *,
    solver,
    tap,
    split,
    score=None,
    label=None,
    groups=None,
    folds=None,
    folder=None,
    test_share=None,
    progress=None,
    **options,
):
    """Sweep one tap of an open store as the options say, and return the result."""
    from featstore.probe import sweep
    from featstore.probe.cross_validation import cross_validate

    if options.get("metrics") or score:
        # the table and the sentence are of this one
        main = "r2" if store.spec.targets else "accuracy"
        if store.spec.binary:
            main = "accuracy" if label else "auroc"
        asked = filter(None, (main, score, *(options.get("metrics") or ())))
        options["metrics"] = tuple(dict.fromkeys(asked))
    if solver.solver == "sgd" and not folds and test_share is None:
        from featstore.study.sweeps import departures_of, validation_rows

        own = validation_rows("sgd", store, tap, split)
        named = store.validation_split(split)
        options["validation"] = own and rows_of(store, named, tap, label, groups, view=0)
        for line in departures_of(store, tap, split, solver):
            notice(line)
    from featstore.study.outside import resolved

    with Progress() if progress is None else contextlib.nullcontext(progress) as progress:
        modes = options.get("mode", "random")
        modes = [modes] if isinstance(modes, str) else modes
        standardize = options.get("standardize", True)
        options["mode"] = resolved(modes, store, tap, standardize, progress)
        if folds:
            own = {name: each for name, each in options.items() if name != "cka"}
            rows = rows_of(store, "train", tap, label, groups)
            named = {"store": str(store.path), "tap": tap, "folder": folder, "progress": progress}
            found = cross_validate(rows, folds=folds, solver=solver, **named, **own)
            if out:
                found.save(out)
            return found
        return sweep(
            *pair_of(store, split, tap, label, groups, test_share),
            store=str(store.path),
            tap=tap,
            moments_cache=store.moments_folder,
            progress=progress,
            out=out,
            solver=solver,
            **options,
        )


def run_probe(
    store, out, plot, *, solver, tap=None, split="test", heading="", score=None, **options
):
    """Sweep an open store as the options say, show the table, and return the result."""
    from featstore.probe import sentence
    from featstore.probe.memory import rank
    from featstore.probe.results import scored_by
    from featstore.probe.results.sentences import warnings

    tap = tap or store.spec.taps[0].name
    kept = _of_folds(out, tap) if options.get("folds") else None
    given = {"solver": solver, "tap": tap, "split": split, "score": score, "folder": kept}
    result = swept(store, out, **given, **options)
    if rank() > 0:
        return result
    if out:
        from featstore.report import provenance

        provenance.write(out, [store], sys.argv)
    table, correct = result.to_pandas(), result.evidence(score)
    if score:
        table = scored_by(table, score)
    if plot:
        from featstore.probe.figures import accuracy_against_fraction

        accuracy_against_fraction(table, plot, correct)
    shown = [*filter(None, [heading]), *screen.of_sweep(table, correct)]
    screen.show(*shown, sentence(table, correct=correct))
    for each in warnings(table):
        click.echo(f"Warning: {each}", err=True)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")
    return result


QUICKSTART_FOLDER = Path("featstore-quickstart")


@click.command(cls=Command)
def quickstart() -> None:
    """Extract, probe and plot, on real weights and images.

    Needs no download: EfficientNet-Lite0 with its ImageNet weights on 5,000 handwritten digits of
    MNIST, both from packages that the extra `quickstart` installs. Says too what raw pixels and
    the network without its weights give. Writes ./featstore-quickstart/.

    \b
    Example:
      featstore quickstart
    """
    first_notice("extracting 5,000 digits under EfficientNet-Lite0, untrained and trained")
    from featstore.downloads import extraction
    from featstore.probe import Ridge

    given = extraction()
    # the trained one is the newest store then, which `probe` takes where none is named
    untrained = run_extract(**extraction(pretrained=False))
    store = run_extract(**given)
    QUICKSTART_FOLDER.mkdir(exist_ok=True)
    result = run_probe(
        store,
        QUICKSTART_FOLDER / "results.csv",
        QUICKSTART_FOLDER / "accuracy.png",
        fractions=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        seeds=(1, 2, 3, 4, 5),
        solver=Ridge(),
    )
    screen.show("", *_controls(result, untrained))


def _controls(trained, untrained) -> list:
    """Lay out what probes reach on raw pixels and without training, and say what that means."""
    import numpy as np

    from featstore import data
    from featstore.downloads import DATASET
    from featstore.probe import Ridge, sweep
    from featstore.probe.results.views import Column, View

    def of_pixels(split: str) -> tuple[np.ndarray, np.ndarray]:
        rows = data.load(DATASET, split)
        images = np.stack([np.asarray(rows[row][0])[..., 0] for row in range(len(rows))])
        return images.reshape(len(images), -1).astype(np.float32), rows.labels

    tap = untrained.spec.taps[0].name
    options = {"fractions": (0.1, 1.0), "seeds": 5, "solver": Ridge()}
    tables = [
        sweep(of_pixels("train"), of_pixels("test"), **options).table,
        sweep(untrained.tap("train", tap), untrained.tap("test", tap), **options).table,
        trained.table,
    ]
    part, whole = (
        [float(table.loc[table["fraction"] == share, "accuracy"].mean()) for table in tables]
        for share in (0.1, 1.0)
    )
    columns = [
        Column("probes of", "text", ["the raw pixels", "the untrained network", "the trained one"]),
        Column("features", "count", [int(table["k"].max()) for table in tables]),
        Column("a random tenth", "score", part),
        Column("all of them", "score", whole),
    ]
    pixels, random, learned = whole
    helps = learned > max(pixels, random)
    said = (
        f"Raw pixels give {pixels:.3f} and random weights {random:.3f}: what the network learned "
        f"from photographs {'helps' if helps else 'is no help'} here, with {learned:.3f}. How much "
        "a part of a layer keeps of all of it is another question, and it is the one above; ask "
        "both of your own network."
    )
    return [View(columns, "What all features are worth"), said]
