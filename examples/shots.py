"""Draw k-shot curves: accuracy against the rows of each class, with all features and with a tenth.

    pip install "featstore-probe[sklearn]"
    python examples/shots.py

A store's taps stand in place of the arrays: `featstore.open("mine.zarr").tap("train", "last")`.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from featstore.probe import learning_curve
from featstore.probe.figures import accuracy_against_rows

features, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    features, labels, test_size=0.5, random_state=0, stratify=labels
)
found = learning_curve(
    (train_x, train_y), (test_x, test_y), shots=[1, 5, 20], draws=3, fractions=0.25
)
table = found.by_amount()
accuracy_against_rows(table, "shots.png")
for row in table.itertuples():
    print(f"{row.shots} shots, {row.k} features: {row.accuracy:.3f} ({row.ratio:.0%} of all)")
