"""Changes that must not change an answer do not: or it is an error, or the status says so.

Parametrised by the registries, so that a new solver, mode or metric is covered by itself.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import featstore
from featstore import probe
from featstore.probe import statuses, subsets
from featstore.probe.errors import ProbeError
from featstore.probe.metrics import METRICS, OF_CLASSES, OF_TARGETS
from featstore.probe.modes import MODES
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import declared, value_of
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.statuses import Status

N, N_TEST, D, C = 150, 90, 16, 6
CLASSES = OF_CLASSES
COUNTED = (
    *("accuracy", "mean_per_class", "balanced_accuracy", "top5"),
    *("macro_f1", "weighted_f1", "kappa"),
)
OPTIONS = {"sgd": {"epochs": 3}, "knn": {"k": [1, 9]}}
FIELDS = [each.name for each in declared()]
CLOSED = [name for name, entry in SOLVERS.items() if not entry.raw]
AFFINE = [name for name in CLOSED if SOLVERS[name].affine]
OF_NUMBERS = [name for name, entry in SOLVERS.items() if entry.targets]


def drawn():
    """Train and test rows whose features are multiples of 1/64 below 8: sums are exact."""
    random = np.random.default_rng(3)
    y = np.r_[np.arange(N) % C, random.integers(0, C, N_TEST)]
    x = 0.7 * random.normal(size=(C, D))[y] + random.normal(size=(N + N_TEST, D))
    x = np.round(64 * np.clip(x @ (np.eye(D) + 0.3), -7.9, 7.9)) / 64
    return (x[:N], y[:N]), (x[N:], y[N:])


TRAIN, TEST = drawn()
ROWS = np.random.default_rng(0).permutation(N)
NAMES = np.array([3, 0, 5, 1, 4, 2])


def features(change):
    return lambda x, y, train: (change(x), y)


def rescaled(x):
    """Give every feature a size of its own."""
    return x * 10.0 ** np.linspace(-6, 6, D)


# rows in, rows out; whether they are the train rows
SAME = {
    "plus 1": features(lambda x: x + 1),
    "plus 1e3": features(lambda x: x + 1e3),
    "plus 1e6": features(lambda x: x + 1e6),
    "plus 1e9": features(lambda x: x + 1e9),
    "times 2^-99": features(lambda x: x * 2.0**-99),
    "times 2^99": features(lambda x: x * 2.0**99),
    "times 1e-30": features(lambda x: x * 1e-30),
    "times 1e-23": features(lambda x: x * 1e-23),
    "times 1e30": features(lambda x: x * 1e30),
    "rows": lambda x, y, train: (x[ROWS], y[ROWS]) if train else (x[::-1], y[::-1]),
    "rows twice": lambda x, y, train: (np.tile(x, (2, 1)), np.tile(y, 2)),
    "classes": lambda x, y, train: (x, NAMES[y]),
}
# what float32 cannot hold of multiples of 1/64
BEYOND_FLOAT32 = ("plus 1e6", "plus 1e9")
# each change in one dtype, and in both where the range of dtypes might decide; probes that are
# found step by step are of the same moments
CHANGES = [
    (solver, name, dtype)
    for solver in CLOSED
    for name in SAME
    for dtype in ("float32", "float64")
    if (
        (dtype == "float64") == (name in BEYOND_FLOAT32)
        or (SOLVERS[solver].every_prefix and name.startswith("times"))
    )
    # of rows that are there twice, k are half as many
    if solver in AFFINE or name != "rows twice"
]
# the mode depends on the zero of the features, or on the order of the classes' moments
NOT_OF = {"plus": ("pca-uncentred",)}


def modes_for(name=""):
    left = NOT_OF.get(name.split(" ")[0], ())
    return [mode for mode in MODES if mode not in left]


def penalties_for(solver):
    """A penalty that decides, and for closed forms one so small that rounding might."""
    return [1e-6, 1e-2] if SOLVERS[solver].every_prefix else 1e-2


def swept(train, test, solver, metrics=CLASSES, modes=("random",), **changes):
    told = {"l2": penalties_for(solver), "fractions": [0.5], "device": "cpu"}
    told |= OPTIONS.get(solver, {}) | changes
    if not SOLVERS[solver].affine:
        told["l2"] = None
    options = {name: told.pop(name) for name in FIELDS if name in told}
    value = value_of(solver, options)
    return probe.sweep(train, test, solver=value, mode=list(modes), metrics=metrics, **told).table


def assert_same(found, plain, n_test=N_TEST, tolerance=2e-3):
    """Hold the solved probes of a table against those of another, metric by metric."""
    assert found["mode"].tolist() == plain["mode"].tolist()
    told = [statuses.has(table["status"], statuses.SOLVED) for table in (found, plain)]
    both = told[0] & told[1]
    assert both.any()
    for metric in (*METRICS, "cka"):
        if metric not in plain or metric not in found:
            continue
        ours, theirs = found[metric][both], plain[metric][both]
        # a row on the edge between two classes may fall to either
        off = {"rtol": tolerance, "atol": 2e-3}
        if metric in COUNTED:
            off = {"atol": 1.01 * C / n_test}
        if metric == "kappa":  # two rows that fall otherwise, of one class
            off = {"atol": 2 * C / n_test}
        if metric == "ece":  # a row near the edge of a bin
            off = {"atol": 0.02}
        np.testing.assert_allclose(ours, theirs, err_msg=metric, **{"rtol": 0, **off})


@pytest.fixture(scope="module")
def plain():
    """The table of every solver and mode of the rows as they are."""
    kept = {}

    def table(solver):
        if solver not in kept:
            modes = ["random"] if SOLVERS[solver].raw else modes_for()
            kept[solver] = swept(TRAIN, TEST, solver, modes=modes, cka=True)
        return kept[solver]

    return table


def of_modes(table, modes):
    return table[table["mode"].isin(modes)].reset_index(drop=True)


@pytest.mark.parametrize(("solver", "name", "dtype"), CHANGES)
def test_rows_and_features_otherwise_written(plain, solver, name, dtype):
    train, test = (
        (x.astype(dtype), y) for x, y in (SAME[name](*TRAIN, True), SAME[name](*TEST, False))
    )
    modes = modes_for(name)
    found = swept(train, test, solver, modes=modes, cka=True)
    assert found["cka"].notna().all()
    assert_same(found, of_modes(plain(solver), modes))


@pytest.mark.parametrize("solver", CLOSED)
def test_each_feature_at_a_size_of_its_own(plain, solver):
    modes = [mode for mode in modes_for() if mode != "variance"]
    train, test = ((rescaled(x).astype(np.float32), y) for x, y in (TRAIN, TEST))
    # CKA is of features at the scale that they have
    found = swept(train, test, solver, modes=modes)
    assert_same(found, of_modes(plain(solver), modes))


# every dtype in blocks that fit nothing, and one in a block that holds all rows
@pytest.mark.parametrize(
    ("block_rows", "dtype"), [(7, "float16"), (7, "float32"), (7, "float64"), (1000, "float32")]
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_blocks_and_dtypes(plain, solver, block_rows, dtype):
    train, test = (ArrayBlocks(x.astype(dtype), y, block_rows=block_rows) for x, y in (TRAIN, TEST))
    found = swept(train, test, solver)
    assert_same(found, of_modes(plain(solver), ["random"]))


@pytest.mark.parametrize("how", ["numpy", "2 threads", "small memory"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_backends_threads_and_memory(plain, solver, how):
    before = torch.get_num_threads()
    changes = {"numpy": {"backend": "numpy"}, "small memory": {"memory": "2MB"}}.get(how, {})
    try:
        torch.set_num_threads(2 if how == "2 threads" else 1)
        found = swept(TRAIN, TEST, solver, **changes)
    finally:
        torch.set_num_threads(before)
    assert_same(found, of_modes(plain(solver), ["random"]))


@pytest.mark.parametrize("solver", AFFINE)
def test_columns_permuted_with_the_chain_and_repeated(solver):
    order = np.random.default_rng(1).permutation(D)
    chain = probe.random_chain(D, [0.25, 0.5, 1.0], 1)
    moved = replace(chain, order=np.argsort(order)[chain.order])
    options = {"solver": solver, "l2": penalties_for(solver), "device": "cpu"}
    plain = probe.fit(TRAIN, [chain], **options).score(TEST, CLASSES).table
    train, test = ((x[:, order], y) for x, y in (TRAIN, TEST))
    assert_same(probe.fit(train, [moved], **options).score(test, CLASSES).table, plain)
    # a column twice is one of twice the reach: its penalty is half of what it was
    twice = [(np.concatenate([x, x], 1), y) for x, y in (TRAIN, TEST)]
    whole = probe.fit(TRAIN, [subsets.first_chain(D, [1.0])], **{**options, "l2": [1e-2]})
    double = probe.fit(twice[0], [subsets.first_chain(2 * D, [1.0])], **{**options, "l2": [2e-2]})
    if solver != "lda":  # where the penalty also stands in the density
        assert_same(double.score(twice[1], CLASSES).table, whole.score(TEST, CLASSES).table)


@pytest.mark.parametrize("name", ["plus 1e9", "times 1e-30", "times 1e30", "rows", "rows twice"])
@pytest.mark.parametrize("solver", CLOSED)
def test_more_features_than_rows(solver, name):
    if solver not in AFFINE and name == "rows twice":
        pytest.skip("neighbours that are there twice vote twice")
    random = np.random.default_rng(5)
    wide = random.normal(size=(D, 400))
    (x, y), (x_test, y_test) = TRAIN, TEST
    few = np.arange(60)
    rows = [(x[few] @ wide, y[few]), (x_test @ wide, y_test)]
    changed = []
    for (features_, labels), is_train in zip(rows, (True, False), strict=True):
        order = few[::-1] if is_train and name == "rows" else slice(None)
        pair = features_[order], labels[order]
        changed.append(SAME[name](*pair, is_train) if name != "rows" else pair)
    options = {"l2": 1e-1, "fractions": [0.4]}
    assert_same(swept(*changed, solver, **options), swept(*rows, solver, **options))


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y + 1e9,
        lambda y: y * 1e36,
        lambda y: y * 1e-45,
        lambda y: y * 1e-150,
        lambda y: -3 * y,
        lambda y: y * 1e160,
        lambda y: y * 1e-160,
    ],
)
@pytest.mark.parametrize("select", [None, "loo"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("solver", OF_NUMBERS)
def test_targets_of_any_mean_and_size(solver, change, select, wide):
    (x, _), (x_test, _) = TRAIN, TEST
    if wide:
        spread = np.random.default_rng(5).normal(size=(D, 300))
        x, x_test = x[:60] @ spread, x_test @ spread
    y, y_test = (np.sin(rows[:, 0]) + rows[:, 1] for rows in (x, x_test))
    options = {"metrics": OF_TARGETS, "select": select}
    plain = swept((x, y), (x_test, y_test), solver, **options)
    train, test = (x, change(y)), (x_test, change(y_test))
    if not 1e-152 < np.ptp(train[1]) < 1e152:
        with pytest.raises(ProbeError, match=r"too (much|little) for squared errors"):
            swept(train, test, solver, **options)
    else:
        found = swept(train, test, solver, **options)
        size = np.ptp(train[1]) / np.ptp(y)
        told = found.assign(mse=found["mse"] / size / size, mae=found["mae"] / size)
        assert_same(told, plain)


def test_stores_arrays_and_predictions_agree(tmp_path):
    for name, array in {"x": TRAIN[0], "y": TRAIN[1], "t": TEST[0], "u": TEST[1]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    pairs = [(tmp_path / f"{a}.npy", tmp_path / f"{b}.npy") for a, b in ("xy", "tu")]
    store = featstore.import_arrays(*pairs, out=tmp_path / "store")
    taps = [store.tap(split, "features") for split in ("train", "test")]
    for solver in AFFINE:
        chain = probe.random_chain(D, [0.5, 1.0], 1)
        result = probe.fit(taps[0], [chain], solver=solver, l2=1e-2, device="cpu")
        scored = result.score(taps[1]).table
        assert_same(scored, probe.fit(TRAIN, [chain], solver=solver, l2=1e-2).score(TEST).table)
        probe.save_weights(result, tmp_path / f"{solver}.safetensors")
        for table in (
            result.predict(taps[1]).table,
            probe.predict(tmp_path / f"{solver}.safetensors", taps[1]).table,
        ):
            assert_same(table, scored)


@pytest.mark.parametrize("l2", [1e100, 1e300, 1e-30, 0.0])
@pytest.mark.parametrize("solver", AFFINE)
def test_penalties_of_any_size_are_solved_or_said_not_to_be(solver, l2):
    # softmax probes that take many steps are said not to be solved
    few = {} if SOLVERS[solver].every_prefix else {"max_iter": 100}
    try:
        table = swept(TRAIN, TEST, solver, l2=l2, **few)
    except ProbeError:
        return
    majority = np.bincount(TEST[1]).min() / N_TEST
    solved = statuses.has(table["status"], statuses.SOLVED)
    assert (table["accuracy"][solved] >= majority).all()
    assert table["accuracy"][statuses.has(table["status"], [Status.NOT_FINITE])].isna().all()
