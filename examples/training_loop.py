"""How does redundancy change while a network trains? Its features of each epoch, as it trains.

A loop of one's own appends features to a store for each epoch; killed and run again, it goes on.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import featstore
from featstore import probe

X, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
X, parts = X.float() / 16, {"train": range(1200), "test": range(1200, 1797)}
torch.manual_seed(0)
body = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
net = nn.Sequential(body, nn.Linear(128, 10))
optimizer = torch.optim.Adam(net.parameters())

for epoch in range(3):
    with featstore.writer(f"epoch{epoch}.zarr", name="mlp", version=f"epoch {epoch}") as writer:
        for split, rows in parts.items():
            for batch in torch.tensor(rows).split(100):
                with torch.no_grad():
                    writer.append(body(X[batch]), y[batch], ids=batch.tolist(), split=split)
    taps = [writer.store.tap(split, "features") for split in parts]
    result = probe.sweep(*taps, fractions=[0.05, 0.1, 0.2], seeds=3, solver="ridge")
    print(f"epoch {epoch}:", probe.sentence(result))
    for batch in torch.randperm(1200).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X[batch]), y[batch]).backward()
        optimizer.step()
