"""Make the study's untrained controls: `python controls.py [FOLDER]`.

`untrained-S.pth` is EfficientNet-Lite0 as timm initialises it under seed S; its batch norms divide
by a variance of 1, whatever the activations' is. `calibrated-TASK-S.pth` has the same weights, and
the means and variances of its batch norms are those of activations on 2,000 train images of the
task, as they would be after one epoch with a learning rate of 0.

With both, what comes of random weights can be told from what comes of their scale.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from featstore import data, models

HERE = Path(__file__).parent
MODEL, IMAGE_SIZE, SEEDS, ROWS, BATCH = "tf_efficientnet_lite0", 96, (0, 1, 2), 2000, 100
TASKS = {
    "fashion": ("fashion_mnist", Path("/usr/share/datasets/fashion-mnist")),
    "clipart": (f"csv:{HERE / 'clipart.csv'}", Path("/usr/share/openclipart/png")),
}


def pixels(task: str, backbone: models.Backbone) -> torch.Tensor:
    """Return evenly spaced train images of a task as the backbone sees them, uint8 (n, H, W, 3)."""
    name, folder = TASKS[task]
    rows = data.load(name, "train", data_dir=folder)
    chosen = np.linspace(0, len(rows) - 1, ROWS).astype(int)
    return torch.cat([backbone.encode_batch([rows[int(row)][0]]) for row in chosen])


def calibrate(backbone: models.Backbone, images: torch.Tensor) -> None:
    """Set the statistics of every batch norm to the mean over batches of images."""
    norms = [m for m in backbone.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for batch in images[order].split(BATCH):
            backbone.model(backbone.prepare(batch))
    for norm in norms:
        norm.eval()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    seen: dict[str, torch.Tensor] = {}
    for seed in SEEDS:
        for task in ("", *TASKS):
            path = folder / f"{f'calibrated-{task}' if task else 'untrained'}-{seed}.pth"
            backbone = models.load(MODEL, pretrained=False, image_size=IMAGE_SIZE, seed=seed)
            if task:
                if task not in seen:
                    seen[task] = pixels(task, backbone)
                calibrate(backbone, seen[task])
            torch.save(backbone.model.state_dict(), path)
            print(path)
