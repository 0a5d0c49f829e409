"""`featstore extract`, `taps` and `import`: stores are made."""

import contextlib
import sys
from pathlib import Path

import click

from featstore.cli.common import (
    COMPRESSION,
    DTYPE,
    FILE,
    FORMAT,
    MEMORY,
    OVERWRITE,
    STORE,
    Command,
    Names,
    OutFile,
    renamed,
)
from featstore.cli.screen import Progress, notice

# Rows that could not be read and are named; the others are counted.
_NAMED = 20


@click.command(cls=Command)
@click.option(
    "--model",
    required=True,
    help="A timm model, torchvision:NAME, hf:NAME, open_clip:NAME or onnx:FILE; or"
    " import:MODULE:NAME, which runs your own code.",
)
@click.option(
    "--dataset",
    required=True,
    help="A torchvision data set, digits, mnist5k, folder:DIR (class folders), npz:FILE,"
    " csv:FILE, parquet:FILE, jsonl:FILE, hf:NAME or wds:PATTERN; or import:FILE.py:NAME, which"
    " runs your own code.",
)
@click.option("--weights", type=FILE, help="A local .pth, .pt or .safetensors, not the hub's.")
@click.option("--weights-key", help="The entry of a checkpoint that holds the network: teacher.")
@click.option("--weights-prefix", help="What stands before the network's keys there: backbone.")
@click.option("--pretrained/--no-pretrained", default=True, help="Trained or random weights.")
@click.option(
    "--transform", type=FILE, help="How images become input, a TOML file, where nothing says so."
)
@click.option(
    "--trust", type=click.Choice(["none"]), default="none", help="No code of a checkpoint is run."
)
@click.option(
    "--weights-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    help="What the weights of an hf: model are kept and computed in.",
)
@click.option(
    "--device-map",
    type=click.Choice(["auto", "balanced", "sequential"]),
    help="Lay the layers of an hf: model on all GPUs.",
)
@click.option("--prompt", help='What stands before each text, as "query: ".')
@click.option(
    "--long-texts",
    type=click.Choice(["truncate", "chunk", "error"]),
    default="truncate",
    help="Cut texts that are too long, average their parts, or stop.",
)
@click.option(
    "--taps",
    type=Names(),
    default="penultimate",
    help="Layers, or all; h.3@last,h.3@mean pools one in two ways.",
)
@click.option(
    "--pool",
    type=Names(),
    help="How maps become vectors: max, or layer1=flatten.  [default: the model's way, or avg]",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files lie.")
@click.option("--splits", type=Names(), default="train,test", help="Which splits to extract.")
@click.option("--label-column", help="The labels of a table.  [default: a usual name]")
@click.option("--image-column", help="The image files of a table.  [default: a usual name]")
@click.option("--text-column", help="The texts of a table.  [default: a usual name]")
@click.option("--split-column", help="What split each row of a table is in.")
@click.option(
    "--keep-columns",
    "keep",
    type=Names(),
    help="Columns of texts or whole numbers to be kept in the store.",
)
@click.option(
    "--label-kind",
    type=click.Choice(["class", "number"]),
    help="What labels are, where they do not tell.",
)
@click.option(
    "--delimiter", help="What parts the cells of a CSV file.  [default: as its head says]"
)
@click.option("--encoding", help="Of a CSV file, such as cp1252.  [default: UTF-8]")
@click.option(
    "--bit-depth",
    type=click.Choice(["8", "10", "12", "14", "16"]),
    help="How many bits of 16-bit images count.",
)
@click.option(
    "--target-columns",
    type=Names(),
    help="Numbers to regress on, not labels; or, with --label-kind class, labels of 0 and 1.",
)
@click.option("--limit", type=click.IntRange(1), help="Rows of each split, evenly spaced.")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    help="Stop at a row that cannot be read or lacks a label, or leave such out.",
)
@renamed(
    "--left-out",
    old="--report",
    type=OutFile(".csv"),
    metavar="FILE",
    help="Save which rows were left out, and why: .csv.",
)
@click.option(
    "--views", type=click.IntRange(1), default=1, help="Augmented passes of train; 1 is clean."
)
@click.option("--augment", help="How views are made.  [default: paper, for several]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the views.")
@click.option("--out", type=STORE, help="The store.  [default: named under the store root]")
@click.option("--format", type=FORMAT, default="zarr", help="Format of the store.")
@COMPRESSION
@click.option("--dtype", type=DTYPE, default="float16", help="Type of the stored features.")
@renamed(
    "--rows-are",
    "rows",
    old="--rows",
    type=click.Choice(["items", "tokens", "patches"]),
    default="items",
    help="What a row is: an item, a word of a text, or a patch of an image.",
)
@click.option("--map-column", help="Of a table, files with a class or number for each pixel.")
@click.option(
    "--map-labels",
    type=click.Choice(["majority", "nearest", "mean"]),
    default="majority",
    help="A patch's label: the class of most of its pixels, of the middle one, or their mean.",
)
@click.option(
    "--map-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of a patch's pixels that have to have its class; else it is left out.",
)
@click.option(
    "--map-ignore", type=float, help="Value of pixels without a label.  [default: 255 of classes]"
)
@OVERWRITE
@click.option("--image-size", type=click.IntRange(1), help="Pixels.  [default: the weights' own]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    help="What computes.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="What the model computes in.  [auto: float16 on CUDA, else float32]",
)
@click.option("--compile", is_flag=True, default=None, help="Pass the model to torch.compile.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images at once.  [default: 64, or what the store was begun with]",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that decode; 0: threads.  [default: 0 on the CPU, cores - 1 with CUDA]",
)
@click.option(
    "--decode",
    type=click.Choice(["host", "device"]),
    default="host",
    help="Where JPEGs are decoded: by Pillow, or by nvJPEG on the GPU.",
)
def extract(**options) -> None:
    """Run a data set through a backbone once and store its features.

    Killed and run again, it goes on where it stopped; run once more, it has nothing to do. Under
    torchrun or srun, every process does its share.

    \b
    Example:
      featstore extract --model resnet50 --dataset cifar100
      featstore extract --model vit_small_patch16_224 --weights vit.pth \\
        --dataset folder:flowers --image-size 224 --out flowers.zarr
      torchrun --nproc-per-node 8 -m featstore extract --model resnet50 \\
        --dataset cifar100
      featstore extract --model import:nets.py:make_net --taps features.3,output \\
        --dataset import:nets.py:digits --out mine.zarr

    import:package.module:NAME and import:FILE.py:NAME are a network or data set of your own, or
    make one. They run that code, with your rights; nothing else here ever runs code of yours or of
    a checkpoint.
    """
    run_extract(maps=_maps(options), columns=_columns(options), **options)


def _maps(options: dict):
    from featstore.data.maps import Maps

    asked = {name: options.pop(f"map_{name}") for name in ("labels", "share", "ignore")}
    made = Maps(asked.pop("labels"), **asked)
    return None if made == Maps() and not options["map_column"] else made


def _columns(options: dict):
    from featstore.data.columns import Columns

    names = ("label", "image", "text", "split", "map")
    chosen = {name: options.pop(f"{name}_column") for name in names}
    chosen["kind"] = options.pop("label_kind")
    chosen |= {name: options.pop(name) for name in ("delimiter", "encoding")}
    chosen["keep"] = tuple(options.pop("keep") or ())
    return Columns(**chosen, targets=options.pop("target_columns") or ())


def run_extract(left_out: Path | None = None, **options):
    """Extract as the options say, tell what was done, and return the store."""
    from featstore import data
    from featstore.extraction.request import Request
    from featstore.factories import is_named

    if options.get("bit_depth"):
        options["bit_depth"] = int(options["bit_depth"])
    # Before torch is imported, which takes seconds, and anything is fetched.
    asked = Request(**options)
    if not is_named(asked.dataset):
        data.check(asked.dataset, asked.splits, data_dir=asked.data_dir, columns=asked.columns)
    from featstore import extract
    from featstore.extraction.ranks import Ranks

    # torch.hub announces its downloads on stdout, which is for tables
    with Progress() as progress, contextlib.redirect_stdout(sys.stderr):
        done = extract(**options, progress=progress if Ranks.of().rank == 0 else False)
    if done.ranks.rank == 0:
        _tell_of_inputs(done)
        if left_out:
            data.save_report(left_out, done.unreadable)
    if done.reused and done.ranks.rank == 0:
        notice(f"reusing {done.store.path}: complete and intact, nothing to extract")
    elif not done.reused:
        _tell_what_was_done(done)
    return done.store


def _tell_of_inputs(done) -> None:
    for note in done.notes:
        notice(note)
    for one in done.notices:
        notice(str(one))
    for row in done.unreadable[:_NAMED]:
        notice(f"left out: {row.why}")
    if len(done.unreadable) > _NAMED:
        notice(
            f"left out: {len(done.unreadable) - _NAMED:,} more; the store's provenance names all"
        )


def _tell_what_was_done(done) -> None:
    before = f" ({done.images_reused:,} were there already)" if done.images_reused else ""
    who = f"rank {done.ranks.rank} of {done.ranks.count} " if done.ranks.count > 1 else ""
    notice(
        f"{who}stored {done.images_done:,} {done.modality}s{before} in {done.seconds:.1f} s, "
        f"{done.images_done / done.seconds:,.0f} {done.modality}s/s: {done.store.path}"
    )


@click.command(cls=Command)
@click.argument("model")
@click.option("--modules", is_flag=True, help="Every layer that runs, not the stages alone.")
@click.option("--image-size", type=click.IntRange(1), help="Pixels.  [default: the weights' own]")
@click.option("--transform", type=FILE, help="How images become input, a TOML file.")
def taps(model: str, modules: bool, image_size: int | None, transform: Path | None) -> None:
    """List the layers of a model: their shapes, and the features they give.

    The weights do not matter here and are not fetched. Any path in the list may stand after --taps
    of extract; `all` there stands for the list without --modules. Of a network of your own,
    import:MODULE:NAME, which runs that code, it is every module.

    \b
    Example:
      featstore taps resnet50
      featstore taps import:nets.py:make_net
      featstore extract --model resnet50 --dataset cifar100 \\
        --taps penultimate,layer4,layer1 --pool layer1=flatten
    """
    from rich.table import Table

    from featstore import factories, models
    from featstore.cli.tables import PLAIN, show
    from featstore.models.taps import layers, modules_of

    if factories.is_named(model):
        shown = Table(title=model, **PLAIN)
        shown.add_column("tap", no_wrap=True)
        shown.add_column("module")
        shown.add_column("weights", justify="right", no_wrap=True)
        for path, kind, count in modules_of(factories.network(model)[0]):
            shown.add_row(path, kind, f"{count:,}")
        show(shown)
        notice("what a module of your own gives depends on the rows, which extract has")
        return
    backbone = models.load(
        model,
        pretrained=model.startswith("onnx:"),
        image_size=image_size,
        transform=transform,
    )
    shown = Table(title=backbone.name, **PLAIN)
    shown.add_column("tap", no_wrap=True)
    shown.add_column("shape", justify="right", no_wrap=True)
    shown.add_column("pooling")
    shown.add_column("features", justify="right", no_wrap=True)
    for layer in layers(backbone, modules=modules):
        shape = " x ".join(f"{side:,}" for side in layer.shape)
        if backbone.modality == "text" and layer.kind == "tokens":
            shape = f"tokens x {layer.shape[1]:,}"
        shown.add_row(layer.path, shape, layer.pooling, f"{layer.dim:,}")
    show(shown)
    if not modules:
        notice("--modules lists every layer that runs")


class ArrayName(click.ParamType):
    """A file, or FILE:NAME of one that holds several arrays."""

    name = "array"

    def convert(self, value, param, ctx) -> str:
        """Return the text; refused where there is no such file."""
        from featstore.store import sources

        if not sources.exists(value):
            self.fail(f"there is no file {value!r}; give {sources.KINDS}", param, ctx)
        return value


ARRAY = ArrayName()


class NamedArray(click.ParamType):
    """NAME=ARRAY, a column and where it is."""

    name = "name=array"

    def convert(self, value, param, ctx) -> tuple[str, str]:
        """Return both; refused where there is no name, or no such file."""
        name, _, array = value.partition("=")
        if not (name and array):
            self.fail(f"{value!r} is no NAME=ARRAY; give both", param, ctx)
        return name, ARRAY.convert(array, param, ctx)


@click.command("import", cls=Command)
@click.option("--train-features", type=ARRAY, required=True, help="Numbers (rows, features).")
@click.option(
    "--train-labels",
    type=ARRAY,
    required=True,
    help="Integers from 0, texts, or 0 and 1 (rows, labels).",
)
@click.option("--train-ids", type=ARRAY, help="What each row is.  [default: its number]")
@click.option("--test-features", type=ARRAY, required=True, help="As many features.")
@click.option("--test-labels", type=ARRAY, required=True, help="Integers from 0, or texts.")
@click.option("--test-ids", type=ARRAY, help="What each row is.  [default: its number]")
@click.option("--out", type=STORE, required=True, help="The store.")
@click.option("--format", type=FORMAT, default="zarr", help="Format of the store.")
@click.option(
    "--dtype", type=DTYPE, help="Type of the stored features.  [default: float32, or as given]"
)
@click.option(
    "--train-column",
    "train_columns",
    type=NamedArray(),
    multiple=True,
    help="What is kept of each row: NAME=ARRAY, several times.",
)
@click.option(
    "--test-column", "test_columns", type=NamedArray(), multiple=True, help="The same of test."
)
@click.option("--targets", type=Names(), help="Labels are numbers to regress on, called so.")
@click.option("--classes", type=Names(), help="Names of the classes, or of several labels.")
@OVERWRITE
@MEMORY
def import_(
    train_ids, test_ids, train_columns, test_columns, out, format, memory, **options
) -> None:
    """Make a store of features that were computed elsewhere.

    An array is a file (.npy, .npz, .safetensors, .pt, .parquet, .arrow, .h5), a folder of Zarr or
    of Hugging Face's save_to_disk, and FILE:NAME where it holds several arrays, columns or tensors.
    They are read a slice at a time.

    \b
    Example:
      featstore import --train-features X.npy --train-labels y.npy \\
        --test-features Xt.npy --test-labels yt.npy --out mine.zarr
      featstore import --train-features a.parquet:embedding \\
        --train-labels a.parquet:class --test-features b.pt:features \\
        --test-labels b.pt:labels --out mine.zarr
    """
    import featstore
    from featstore.probe.memory import parse

    given = {
        split: (options.pop(f"{split}_features"), options.pop(f"{split}_labels"))
        for split in ("train", "test")
    }
    ids = {"train": train_ids, "test": test_ids}
    of_train, of_test = dict(train_columns), dict(test_columns)
    if one_sided := sorted(set(of_train) ^ set(of_test)):
        raise click.UsageError(f"column {one_sided[0]} is of one split alone: give both or none")
    with Progress() as progress:
        store = featstore.import_arrays(
            **{split: (*pair, ids[split]) if ids[split] else pair for split, pair in given.items()},
            out=out,
            format=format,
            memory=parse(memory),
            progress=progress,
            targets=options.pop("targets") or (),
            columns={name: (one, of_test[name]) for name, one in of_train.items()},
            **options,
        )
    notice(f"stored {sum(split.n_rows for split in store.spec.splits):,} rows: {store.path}")
