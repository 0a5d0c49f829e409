"""Results to report on, made up: curves whose numbers are known."""

import numpy as np
import pandas as pd

HOSTILE = (
    "<script>window.attacked = 1</script>",
    '</script><img src=x onerror="window.attacked = 1">',
    "<b>bold</b> %{x} & <a href='https://example.org/'>link</a>",
    "\"'`${window.attacked = 1}`\u2028<!--",
)
"""Names that would do harm, or only look wrong, wherever they are taken for markup."""


def probes(
    stores=("resnet.zarr",),
    modes=("random",),
    seeds=(1, 2, 3, 4, 5),
    fractions=(0.01, 0.05, 0.1, 0.5, 1.0),
    features=1000,
    **columns,
) -> pd.DataFrame:
    """One row a probe; accuracy is 0.9 - 0.8 / k^(1/2) and a little noise below the full layer."""
    random = np.random.default_rng(0)
    rows = []
    for store in stores:
        for mode in modes:
            for seed in seeds:
                for fraction in fractions:
                    noise = 0 if fraction == 1 else 0.01 * random.normal()
                    k = int(fraction * features)
                    rows.append({
                        "store": store, "tap": "penultimate", "mode": mode, "solver": "ridge",
                        "l2": 0.01, "l2_choice": "given", "seed": seed, "fraction": fraction,
                        "k": k, "n_train": 500, "n_test": 100,
                        "accuracy": 0.9 - 0.8 / np.sqrt(k) + noise, "status": "ok",
                        "options": "standardize=True data=0123",
                    })  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def by_class(table: pd.DataFrame, classes) -> pd.DataFrame:
    """Accuracies by class of the probes of a table: later classes are harder."""
    names = list(classes)
    rows = table.loc[table.index.repeat(len(names))].reset_index(drop=True)
    place = np.tile(np.arange(len(names)), len(table)) / len(names)
    shares = rows["accuracy"] ** (1 + place)
    keys = ["store", "tap", "mode", "solver", "l2", "l2_choice", "seed", "fraction", "k"]
    return rows[keys].assign(**{"class": names * len(table), "class_accuracy": shares})
