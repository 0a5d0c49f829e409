"""The command line: every command parses, calls one public function of a library, prints.

Tables go to stdout, progress and notices to stderr. The libraries are imported inside the
commands, so that `featstore --help` answers at once.
"""

import contextlib
import sys
from pathlib import Path

import click

from terminal import tables
from terminal.failures import SWITCHES, Group
from terminal.progress import Progress, notice
from terminal.solver_options import solver_option, solver_options
from terminal.values import Names, NumberList, OutFile, Penalties, Seeds

QUICKSTART_FOLDER = Path("featstore-quickstart")

STORE = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FORMAT = click.Choice(["zarr", "hdf5"])
DEVICE = click.Choice(["auto", "cpu", "cuda"])


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(package_name="featstore")
def main() -> None:
    """Extract a backbone's features once, then probe hundreds of subsets of them at once.

    \b
    Example:
      featstore extract --model resnet50 --dataset cifar100
      featstore probe --fractions 0.01,0.05,0.1 --seeds 5
    """


main.params += SWITCHES


@main.command()
@click.option("--model", required=True, help="A timm model, or torchvision:NAME.")
@click.option(
    "--dataset",
    required=True,
    help="A torchvision data set, digits, folder:DIR (class folders) or npz:FILE.",
)
@click.option("--weights", type=FILE, help="A local .pth, .pt or .safetensors, not the hub's.")
@click.option("--pretrained/--no-pretrained", default=True, help="Trained or random weights.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files lie.")
@click.option("--splits", type=Names(), default="train,test", help="Which splits to extract.")
@click.option("--out", type=STORE, help="The store.  [default: named under the store root]")
@click.option("--format", type=FORMAT, default="zarr")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16")
@click.option(
    "--batch-size", type=click.IntRange(1),
    help="Images at once.  [default: 64, or what the store was begun with]",
)  # fmt: skip
@click.option("--image-size", type=click.IntRange(1), help="Pixels.  [default: the weights' own]")
@click.option("--device", type=DEVICE, default="auto")
@click.option("--limit", type=click.IntRange(1), help="Rows of each split, evenly spaced.")
@click.option("--overwrite", is_flag=True, help="Replace a store that holds something else.")
def extract(**options) -> None:
    """Run a data set through a backbone once and store its features.

    Killed and run again, it goes on where it stopped; run once more, it has nothing to do.

    \b
    Example:
      featstore extract --model resnet50 --dataset cifar100
      featstore extract --model vit_small_patch16_224 --weights vit.pth \\
        --dataset folder:flowers --image-size 224 --out flowers.zarr
    """
    _extract(**options)


def _extract(**options):
    from featstore import extract

    # torch.hub announces its downloads on stdout, which is for tables
    with Progress() as progress, contextlib.redirect_stdout(sys.stderr):
        done = extract(**options, progress=progress)
    for note in done.notes:
        notice(note)
    before = f" ({done.images_reused:,} were there already)" if done.images_reused else ""
    if done.reused:
        notice(f"reusing {done.store.path}: complete and intact, nothing to extract")
    else:
        notice(
            f"stored {done.images_done:,} images{before} in {done.seconds:.1f} s, "
            f"{done.images_done / done.seconds:,.0f} images/s: {done.store.path}"
        )
    return done.store


@main.command("import")
@click.option("--train-features", type=FILE, required=True, help=".npy of shape (rows, features).")
@click.option("--train-labels", type=FILE, required=True, help=".npy of integers from 0.")
@click.option("--test-features", type=FILE, required=True, help=".npy, as many features.")
@click.option("--test-labels", type=FILE, required=True, help=".npy of integers from 0.")
@click.option("--out", type=STORE, required=True, help="The store.")
@click.option("--format", type=FORMAT, default="zarr")
def import_(train_features, train_labels, test_features, test_labels, out, format) -> None:
    """Make a store of features that were computed elsewhere.

    The files are memory-mapped and never loaded whole.

    \b
    Example:
      featstore import --train-features X.npy --train-labels y.npy \\
        --test-features Xt.npy --test-labels yt.npy --out mine.zarr
    """
    import featstore

    with Progress() as progress:
        store = featstore.import_arrays(
            train=(train_features, train_labels),
            test=(test_features, test_labels),
            out=out,
            format=format,
            progress=progress,
        )
    notice(f"stored {sum(split.n_rows for split in store.spec.splits):,} rows: {store.path}")


@main.command()
@click.argument("store", type=STORE, required=False)
@click.option(
    "--fractions", type=NumberList(float, "0.01,0.05,0.1"), required=True, metavar="LIST",
    help="Shares of the features, in (0, 1]; the full layer comes by itself.",
)  # fmt: skip
@click.option(
    "--seeds", type=Seeds(int, "3,7"), required=True, metavar="N|LIST",
    help="5 for seeds 1 to 5, or a list such as 3,7.",
)  # fmt: skip
@click.option("--solver", default="ridge", help="ridge, logistic, lda or sgd.")
@click.option(
    "--l2", type=Penalties(float, "0.001,0.01"), metavar="LIST|auto",
    help="The penalty of mean loss + (l2/2) ||W||^2; a list solves each; auto chooses for each "
    "probe.  [default: the solver's own]",
)  # fmt: skip
@click.option(
    "--select", type=click.Choice(["validation", "loo"]),
    help="Choose among the penalties on train rows: a held-out part, or leave-one-out (ridge).",
)  # fmt: skip
@click.option("--held-out", type=float, default=0.1, help="Share of train held out to choose.")
@click.option("--held-out-seed", type=int, default=0, help="Of the draw of that part.")
@click.option(
    "--metrics", type=Names(), default="accuracy", metavar="LIST",
    help="Scores to keep: accuracy, mean_per_class, top5, nll, ece.",
)  # fmt: skip
@click.option("--tap", help="Which tap of the store.  [default: its first]")
@click.option("--standardize/--no-standardize", default=True, help="Scale features to unit std.")
@click.option("--memory", default="4GiB", help="How much memory arrays may take.")
@click.option("--device", type=DEVICE, default="auto")
@click.option("--backend", type=click.Choice(["torch", "cupy", "numpy"]), default="torch")
@click.option(
    "--out", type=OutFile(".csv", ".json", ".parquet"), metavar="FILE",
    help="Save one row a probe: .csv, .json or .parquet.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Solve only the probes that --out does not have.")
@click.option(
    "--plot", type=OutFile(".png", ".svg", ".pdf"), metavar="FILE",
    help="Draw accuracy against fraction: .png, .svg or .pdf.",
)  # fmt: skip
@click.option(
    "--save-weights", type=OutFile(".safetensors"), metavar="FILE",
    help="Save the probes themselves, for `featstore predict`: .safetensors.",
)  # fmt: skip
@click.option(
    "--save-predictions", type=OutFile(".csv", ".parquet", ".npz"), metavar="FILE",
    help="Save the class that each probe predicts for each test row: .csv, .parquet or .npz.",
)  # fmt: skip
@click.option(
    "--per-class", type=OutFile(".csv", ".json", ".parquet"), metavar="FILE",
    help="Save each probe's accuracy on each class: .csv, .json or .parquet.",
)  # fmt: skip
@solver_option("--tol", type=float, help="logistic: gradient norm to stop at.")
@solver_option("--max-iter", type=int, help="logistic: most iterations.")
@solver_option("--epochs", type=int, help="sgd: passes over train.  [default: 100]")
@solver_option("--lr", type=float, help="sgd: first learning rate.  [default: 0.1]")
@solver_option("--momentum", type=float, help="sgd: momentum.  [default: 0.9]")
@solver_option("--step-every", type=int, help="sgd: epochs a rate.  [default: a fifth of all]")
@solver_option("--gamma", type=float, help="sgd: factor between rates.  [default: 0.1]")
@solver_option("--batch-size", type=int, help="sgd: rows a step.  [default: 256]")
@solver_option("--val-fraction", type=float, help="sgd: validation part.  [default: 0.1]")
@solver_option("--split-seed", type=int, help="sgd: of the validation draw.  [default: 0]")
@solver_option("--order-seed", type=int, help="sgd: of the order of rows.  [default: 0]")
def probe(store, out, plot, save_weights, save_predictions, per_class, **options) -> None:
    """Solve a linear probe for every (fraction, seed) at once.

    Prints mean and spread of the test accuracy over the seeds, and its share of the full layer's.

    STORE is a path; without it, the newest complete store under the store root is taken.
    Features are drawn at random, nested along the fractions of one seed.

    \b
    Example:
      featstore probe --fractions 0.01,0.05,0.1 --seeds 5
      featstore probe mine.zarr --fractions 0.1,0.5 --seeds 3,7 --l2 0.01 \\
        --out results.csv --plot accuracy.pdf
      featstore probe mine.zarr --fractions 0.1 --seeds 5 --l2 auto \\
        --save-weights probes.safetensors
    """
    import featstore

    if options["resume"] and (save_weights or save_predictions or per_class):
        raise click.UsageError(
            "--resume reads finished probes from the results file, which holds neither weights "
            "nor predictions: leave it out to solve every probe"
        )
    if store is None:
        chosen = featstore.newest_complete()
        notice(f"probing the newest complete store: {chosen.path}")
    else:
        chosen = featstore.open(store)
    result = _probe(chosen, out, plot, **options, **solver_options())
    if save_weights or save_predictions or per_class:
        _save(result, chosen, save_weights, save_predictions, per_class, options["memory"])


def _save(result, store, weights, predictions, per_class, memory) -> None:
    from probe import per_class_table, save_weights
    from probe.tables import save_table

    tap, classes = result.table["tap"].iloc[0], store.spec.classes
    if weights:
        save_weights(result, weights, source=store.spec.of_tap(tap), classes=classes)
    if per_class:
        save_table(per_class_table(result, classes), per_class)
    if predictions:
        result.predict(store.tap("test", tap), memory).save(predictions)
    for path in filter(None, (weights, per_class, predictions)):
        notice(f"wrote {path}")


def _probe(store, out, plot, *, tap=None, **options):
    from probe import sentence, sweep
    from probe.summaries import warnings

    tap = tap or store.spec.taps[0].name
    with Progress() as progress:
        result = sweep(
            store.tap("train", tap), store.tap("test", tap), store=str(store.path), tap=tap,
            moments_cache=store.path.with_name(store.path.name + ".moments"), progress=progress,
            out=out, **options,
        )  # fmt: skip
    table = result.to_pandas()
    if plot:
        from probe.plots import accuracy_against_fraction

        accuracy_against_fraction(table, plot)
    tables.show(*tables.of_sweep(table), sentence(table))
    for line in warnings(table):
        click.echo(f"Warning: {line}", err=True)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")
    return result


@main.command()
@click.argument("store", type=STORE)
@click.option("--weights", type=FILE, required=True, help="What `probe --save-weights` wrote.")
@click.option("--split", default="test", help="Which rows of the store.")
@click.option("--memory", default="4GiB", help="How much memory arrays may take.")
@click.option(
    "--out", type=OutFile(".csv", ".parquet", ".npz"), metavar="FILE",
    help="Save the class that each probe predicts for each row: .csv, .parquet or .npz.",
)  # fmt: skip
def predict(store, weights, split, memory, out) -> None:
    """Apply saved probes to the rows of a store.

    The store must hold the features that the probes were fitted on: the same backbone, weights,
    transform and tap. Accuracy is shown where the classes are the same too.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.1 --seeds 1 \\
        --save-weights probes.safetensors
      featstore predict mine.zarr --weights probes.safetensors --split test \\
        --out predictions.csv
    """
    import featstore
    from probe import load_weights, predict

    opened, saved = featstore.open(store), load_weights(weights)
    tap = saved.source.get("tap", opened.spec.taps[0].name)
    with Progress() as progress:
        predicted = predict(
            saved, opened.tap(split, tap), source=opened.spec.of_tap(tap),
            classes=opened.spec.classes, memory=memory, progress=progress,
        )  # fmt: skip
    if out:
        predicted.save(out)
    tables.show(*tables.of_sweep(predicted.table))
    if predicted.table["accuracy"].isna().all():
        notice("no accuracy: the classes of this store are not those of the probes")
    if out:
        notice(f"wrote {out}")


@main.command("ls")
def ls() -> None:
    """List the stores under the store root.

    The root is $FEATSTORE_HOME, or else the platform's folder for data.

    \b
    Example:
      featstore ls
    """
    import featstore

    found = featstore.stores()
    if not found:
        notice(f"no store under {featstore.store_root()}; `featstore extract` makes one")
        return
    notice(f"under {featstore.store_root()}")
    tables.show(tables.of_stores(found))


@main.command()
@click.argument("store", type=STORE)
def info(store) -> None:
    """Show what a store holds and how it was made.

    \b
    Example:
      featstore info mine.zarr
    """
    import featstore

    tables.show(tables.of_store(featstore.open(store)))


@main.command()
@click.argument("store", type=STORE)
def verify(store) -> None:
    """Hold every block of a store against its checksum.

    Names each bad block, and exits with status 1 where there is one.

    \b
    Example:
      featstore verify mine.zarr
    """
    import featstore

    opened = featstore.open(store)
    with Progress() as progress:
        damages = opened.verify(progress=progress)
    for damage in damages:
        click.echo(f"{damage.split} block {damage.block}, {damage.array}: {damage.why}")
    if damages:
        raise click.ClickException(
            f"{len(damages)} arrays of {opened.path} are damaged; "
            "run the command that made it again: it computes those blocks anew"
        )
    notice(f"{opened.path}: every committed block has its checksum")


@main.command()
def quickstart() -> None:
    """Extract, probe and plot, on real weights and images.

    Needs no download: EfficientNet-Lite0 with its ImageNet weights (a package that the extra
    `quickstart` installs) on scikit-learn's 1,797 handwritten digits. Writes
    ./featstore-quickstart/.

    \b
    Example:
      featstore quickstart
    """
    from featstore.quickstart import extraction

    store = _extract(**extraction())
    QUICKSTART_FOLDER.mkdir(exist_ok=True)
    _probe(
        store,
        QUICKSTART_FOLDER / "results.csv",
        QUICKSTART_FOLDER / "accuracy.png",
        fractions=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        seeds=(1, 2, 3, 4, 5),
        # 1,347 rows for 1,280 features: the right penalty differs from probe to probe
        l2="auto",
        select="loo",
    )


if __name__ == "__main__":
    main(prog_name="featstore")
