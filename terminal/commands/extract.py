"""`featstore extract`: a data set through a backbone, once, into a store."""

import contextlib
import sys
from pathlib import Path

import click

from terminal.failures import Command
from terminal.progress import Progress, notice
from terminal.values import DEVICE, FILE, FORMAT, STORE, Names


@click.command(cls=Command)
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
    run_extract(**options)


def run_extract(**options):
    """Extract as the options say, tell what was done, and return the store."""
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
