"""Taps of timm: one small model of each of its module files, checked against timm.

python -m benchmarks.taps_survey [--models NAME,NAME | --choose] [--write]

The models are those of the table in docs/timm.md, or with --choose the smallest of each file anew,
which takes minutes. --write puts the table there. Weights are random and nothing is downloaded.
"""

import argparse
import gc
import re
from pathlib import Path

import timm
import torch
from PIL import Image

from benchmarks.performance import markdown
from featstore import models
from featstore.errors import FeatstoreError
from featstore.measurements import Row, table
from featstore.models import taps
from featstore.models.network import Backbone
from featstore.probe.results.files import written_whole

DOCUMENT = Path(__file__).parents[1] / "docs" / "timm.md"
BLOCK = re.compile(r"<!-- survey -->\n.*?<!-- end -->\n", re.DOTALL)
# of features computed twice by the same layers, in another order at most
WORST_ERROR = 1e-4


def smallest(module: str) -> str:
    """Return the model of a module file of timm with the fewest parameters."""

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in timm.create_model(name).parameters())

    return min(timm.list_models(module=module), key=parameters)


def images(backbone: Backbone) -> torch.Tensor:
    """Return the model's input for two different images of noise."""
    pixels = torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    rows = [Image.fromarray(image.to(torch.uint8).numpy()) for image in pixels]
    return backbone.prepare(backbone.encode_batch(rows))


def surveyed(name: str) -> Row:
    """Return the row of one model: how many layers are listed, and whether what they give is right.

    Every tap of "all" has the width that was said and is finite; penultimate is what timm's own
    `forward_head(..., pre_logits=True)` gives. Of what fails the row holds the message.
    """
    backbone = models.load(name, pretrained=False)
    row: dict[str, object] = {"module": _module(name), "model": name}
    try:
        with torch.inference_mode():
            layers, reader = taps.layers(backbone), taps.resolve(backbone, ["all"])
            batch = images(backbone)
            features = reader.read(batch)
            own = backbone.model.forward_head(
                backbone.model.forward_features(batch), pre_logits=True
            )
    except (FeatstoreError, RuntimeError, NotImplementedError) as error:
        return {
            **row,
            "layers": "",
            "penultimate": "",
            "remark": f"{type(error).__name__}: {error}",
        }
    remark = "; ".join(_wrong(layers, reader.taps, features, own))
    return {**row, "layers": len(layers), "penultimate": layers[-1].dim, "remark": remark or "ok"}


def _module(name: str) -> str:
    return timm.models._registry._model_to_module[name]


def _wrong(layers, tapped, features: dict[str, torch.Tensor], own: torch.Tensor) -> list[str]:
    """Return what is not as it should be."""
    found = []
    if [layer.dim for layer in layers] != [tap.dim for tap in tapped]:
        found.append("all is not what is listed")
    for tap in tapped:
        values = features[tap.name]
        if values.shape != (2, tap.dim) or not values.isfinite().all():
            found.append(f"{tap.name} is {tuple(values.shape)} or not finite")
    if (features["penultimate"] - own).abs().max() > WORST_ERROR * own.abs().max():
        found.append("penultimate is not the head's")
    return found


def committed() -> list[str]:
    """Return the models of the document's table."""
    rows = re.findall(r"^\| \w+ \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return [name for name in rows if timm.is_model(name)]


def main() -> None:
    """Survey models one after another, print the table, and on request write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=lambda text: text.split(","))
    parser.add_argument("--choose", action="store_true", help="the smallest model of each file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/timm.md")
    options = parser.parse_args()
    names = options.models or committed()
    if options.choose:
        names = [smallest(module) for module in timm.list_modules()]
    rows = []
    for name in names:
        rows.append(surveyed(name))
        print(" ".join(map(str, rows[-1].values())), flush=True)
        gc.collect()
    print(table(rows, f"timm {timm.__version__}"))
    if options.write:
        text = BLOCK.sub(
            lambda _: f"<!-- survey -->\n{markdown(rows)}<!-- end -->\n", DOCUMENT.read_text()
        )
        with written_whole(DOCUMENT) as aside:
            aside.write_text(text)


if __name__ == "__main__":
    main()
