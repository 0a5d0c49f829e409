"""One sentence that says how much of the full layer's accuracy a fraction of it keeps."""

import pandas as pd


def sentence(table: pd.DataFrame, fraction: float | None = None) -> str:
    """Return what share of the whole layer's accuracy the features of one fraction keep.

    Arguments:
        table: result rows in long form, with columns fraction, k, seed, l2 and accuracy, for the
            whole layer (fraction 1) too.
        fraction: which; by default the one nearest to 0.1 among those below 1.

    Returns:
        The mean over seeds of accuracy(fraction) / accuracy(1), with its standard deviation in
        percentage points.

    Example:
        >>> rows = {"seed": [1, 2, 1, 2], "fraction": [0.1, 0.1, 1, 1], "k": [6, 6, 64, 64],
        ...         "l2": 0.001, "accuracy": [0.81, 0.72, 0.9, 0.9]}
        >>> sentence(pd.DataFrame(rows))
        "10 % of the features (6 of 64) keep 85.0 % +- 7.1 of the full layer's accuracy (2 seeds)"
    """
    if table["l2"].nunique() > 1:
        table = table[table["l2"] == _best_penalty(table)]
    below = sorted(set(table.loc[table["fraction"] < 1, "fraction"]))
    whole = table[table["fraction"] == 1]
    if not below or whole.empty:
        return f"The full layer reaches an accuracy of {100 * table['accuracy'].mean():.1f} %"
    if fraction is None:
        fraction = min(below, key=lambda f: abs(f - 0.1))
    part = table[table["fraction"] == fraction]
    full = whole.drop_duplicates("seed").set_index("seed")["accuracy"]
    kept = 100 * part["accuracy"].to_numpy() / full.reindex(part["seed"]).to_numpy()
    seeds = f"{len(kept)} seed" + "s" * (len(kept) > 1)
    spread = f" +- {kept.std(ddof=1):.1f}" if len(kept) > 1 else ""
    return (
        f"{100 * fraction:g} % of the features ({part['k'].iloc[0]} of {whole['k'].iloc[0]}) keep "
        f"{kept.mean():.1f} %{spread} of the full layer's accuracy ({seeds})"
    )


def _best_penalty(table: pd.DataFrame) -> float:
    """Return the penalty of the best whole layer: only used to choose which line to tell."""
    whole = table[table["fraction"] == 1]
    return (table if whole.empty else whole).groupby("l2")["accuracy"].mean().idxmax()
