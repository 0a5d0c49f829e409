"""`featstore taps`: the layers of a model that can be stored, with their shapes."""

from pathlib import Path

import click

from terminal.failures import Command
from terminal.progress import notice
from terminal.tables import PLAIN, show
from terminal.values import FILE


@click.command(cls=Command)
@click.argument("model")
@click.option("--modules", is_flag=True, help="Every layer that runs, not the stages alone.")
@click.option("--image-size", type=click.IntRange(1), help="Pixels.  [default: the weights' own]")
@click.option("--transform", type=FILE, help="How images become input, as for extract.")
def taps(model: str, modules: bool, image_size: int | None, transform: Path | None) -> None:
    """List the layers of a model: their shapes, and the features they give.

    The weights do not matter here and are not fetched. Any path in the list may stand after --taps
    of extract; `all` there stands for the list without --modules.

    \b
    Example:
      featstore taps resnet50
      featstore extract --model resnet50 --dataset cifar100 \\
        --taps penultimate,layer4,layer1 --pool layer1=flatten
    """
    from rich.table import Table

    from featstore import backbones
    from featstore.taps import layers

    backbone = backbones.load(
        model,
        pretrained=model.startswith("onnx:"),
        image_size=image_size,
        transform=transform,
    )
    shown = Table(title=backbone.name, **PLAIN)
    shown.add_column("tap", overflow="fold")
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
