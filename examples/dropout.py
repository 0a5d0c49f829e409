"""Does dropout make a network's layers more redundant? A CNN of one's own on digits.

It is trained with and without dropout; three layers are stored in one pass, and each is probed on
random shares of its features. DR(0.9) is the share of a layer that is not needed for 90 % of the
accuracy of all of it.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import featstore
from featstore import probe

X, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
data = torch.utils.data.TensorDataset(X.float().reshape(-1, 1, 8, 8) / 16, y)
train, test = torch.utils.data.random_split(data, [0.7, 0.3], torch.Generator().manual_seed(0))

for dropout in (0.0, 0.5):
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout))
    hidden = [nn.LazyLinear(256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 128), nn.ReLU()]
    net = nn.Sequential(conv, *hidden, nn.Linear(128, 10))
    net(train[0][0][None])
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(15):
        for images, labels in torch.utils.data.DataLoader(train, 64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    store = featstore.extract(
        net, {"train": train, "test": test}, taps=["0.1", "2", "5"], out=f"dropout{dropout}.zarr"
    ).store
    for tap in store.spec.taps:
        rows = store.tap("train", tap.name), store.tap("test", tap.name)
        result = probe.sweep(*rows, fractions=[0.02, 0.05, 0.1, 0.2, 0.5], seeds=5, solver="ridge")
        found = probe.diffused_redundancy(result, deltas=[0.9])
        print(f"dropout {dropout}, layer {tap.name} of {tap.dim} features", found.redundancy[0])
