"""Ways that a device takes and a CPU does not: the same numbers, fewer launches and copies."""

import warnings

import numpy as np
import pytest
import torch
from problems import clusters

from benchmarks import pretend_device
from featstore import probe
from featstore.probe.arrays import Backend, as_given, on_device, to_host
from featstore.probe.errors import DeviceWarning
from featstore.probe.kernels.cuda import Recorded
from featstore.probe.memory import Settings
from featstore.probe.moments import Moments, moments
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers.logistic import products
from featstore.probe.solvers.logistic.lbfgs import Curvature
from featstore.probe.subsets import Axes, random_chain

CPU, CUDA = Backend("torch", "cpu"), Backend("torch", "cuda")
EXACT, ROUNDED = (9, 0), (8, 9)  # an H100 multiplies float64 as fast as float32, an L40 does not


def blocks_of(problem, targets=False):
    x, y = problem.x.copy(), problem.y
    x[:, 3] = 7.5  # never changes
    return ArrayBlocks(x, problem.x[:, :2].astype(np.float64) if targets else y)


def moments_of(blocks, backend, memory=1 << 30) -> Moments:
    return moments(blocks, Settings(memory=memory, backend=backend))


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("capability", [EXACT, ROUNDED])
def test_sums_of_a_device_stay_there(capability, targets):
    blocks = blocks_of(clusters(700, 1, 40, 5), targets)
    exact = moments(blocks, Settings(), precise=True)
    with pretend_device.installed(capability=capability) as log:
        found = moments_of(blocks, CUDA)
        assert log.waits == 2  # whether all is finite, and the sums and squares
        covariance, cross = found.covariance_there(), found.cross_there()
        assert on_device(covariance)
        assert on_device(cross)
        assert log.waits == 2
        known = exact.covariance(), exact.cross()
        for ours, theirs, host in zip(
            (covariance, cross), known, ("gram", "class_sums"), strict=True
        ):
            bound = 1e-12 if capability == EXACT else 3e-6
            np.testing.assert_allclose(to_host(ours), theirs, atol=bound * np.abs(theirs).max())
            assert isinstance(getattr(found, host), np.ndarray)
        assert (to_host(covariance)[3] == 0).all()
    assert found.products == ("float64" if capability == EXACT else "float32")
    assert found.precision == "float32"
    np.testing.assert_allclose(found.variance, exact.variance, rtol=1e-5)


def test_sums_that_are_large_beside_the_memory_come_to_the_host():
    blocks = blocks_of(clusters(400, 1, 60, 3))
    with pretend_device.installed():
        found = moments_of(blocks, CUDA, memory=800_000)
    assert isinstance(as_given(found, "gram"), np.ndarray)
    np.testing.assert_allclose(found.gram, moments_of(blocks, CPU).gram, rtol=1e-4, atol=1e-2)


def test_sums_are_added_and_taken_away_on_the_device():
    problem = clusters(600, 1, 20, 4)
    whole, part = (ArrayBlocks(problem.x[:n], problem.y[:n], 4) for n in (600, 200))
    known = moments(whole, Settings(), precise=True) - moments(part, Settings(), precise=True)
    with pretend_device.installed() as log:
        ours = moments_of(whole, CUDA), moments_of(part, CUDA)
        before = log.waits
        rest = ours[0] - ours[1]
        both = rest + ours[1]
        # no more than the squares, of which a subtraction leaves some rounding
        assert log.waits <= before + 1
        for found in (rest, both):
            assert on_device(as_given(found, "gram"))
        np.testing.assert_allclose(rest.gram, known.gram, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(both.gram, ours[0].gram, rtol=1e-9, atol=1e-9)
        # beside sums of the host they come to the host
        mixed = ours[0] - moments(part, Settings(), precise=True)
        np.testing.assert_allclose(mixed.gram, known.gram, rtol=1e-9, atol=1e-9)


def test_an_array_is_put_where_another_backend_computes():
    with pretend_device.installed() as log:
        there = CUDA.put(np.arange(3.0))
        before = log.copies
        assert CUDA.put(there) is there
        assert CUDA.put(there, "float32").dtype == torch.float32
        assert log.copies == before
        assert CPU.put(there).tolist() == [0, 1, 2]
        assert Backend("numpy", "cpu").put(there).tolist() == [0, 1, 2]


def test_a_ridge_sweep_copies_no_matrix():
    """Copies to the host have far fewer numbers than D x D, of a layer of D features."""
    problem, copied = clusters(500, 100, 90, 3), []
    taken = pretend_device.DeviceTensor.cpu

    def cpu(self):
        copied.append(self.numel())
        return taken(self)

    with pretend_device.installed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretend_device.DeviceTensor, "cpu", cpu)
        how = {"fractions": [0.2, 0.7], "seeds": 2, "l2": 1e-2, "device": "cuda"}
        for solver in ("ridge", "lda", "logistic"):
            probe.sweep(problem.train, problem.test, solver=solver, **how)
    assert 0 < max(copied) < 90 * 90 / 2


def axes_of(n_features, sizes, seeds=(1, 2)):
    fractions = [size / n_features for size in sizes]
    return Axes(tuple(random_chain(n_features, fractions, seed) for seed in seeds), (1e-2,))


def test_segments_are_wider_on_a_device():
    axes = axes_of(1500, range(50, 700, 50))
    for backend, least in ((CPU, 128), (CUDA, 512)):
        with pretend_device.installed():
            (sheet,) = products.lay_out(axes, np.arange(len(axes)), 1500, 8, backend)
        lengths = [cut.stop - cut.start for span in sheet.spans for cut in span.cuts[:-1]]
        assert lengths
        assert min(lengths) >= least
        assert max(lengths) < least + 64


@pytest.mark.parametrize("thrice", [False, True])
def test_logits_are_written_over_whatever_was_there(thrice):
    random, axes = np.random.default_rng(0), axes_of(700, [40, 300, 600, 700])
    tile = np.concatenate([np.ones((1, 30)), random.normal(size=(700, 30))]).astype(np.float32)
    found = {}
    with pretend_device.installed() as log:
        for backend in (CPU, CUDA):
            there = thrice and backend == CUDA
            sheets = products.lay_out(axes, np.arange(len(axes)), 700, 3, backend)
            count = sum(map(len, sheets))
            logits = backend.put(np.full((count, 3, 30), np.nan, np.float32))
            weights, rows, places, done = [], [], [], 0
            for sheet in sheets:
                shape = (len(sheet), 3, sheet.length)
                w = np.random.default_rng(len(sheet)).normal(size=shape).astype(np.float32)
                w *= np.arange(sheet.length) < sheet.sizes[:, None, None]
                arranged, taken = sheet.arranged(backend.put(w)), sheet.taken(backend.put(tile))
                if there:
                    arranged = products.split(arranged, low=2, inner=True).flatten(-2)
                    taken = [products.split(one, low=1).flatten(0, 1) for one in taken]
                weights.append(arranged)
                rows.append(taken)
                places.append(slice(done, done + len(sheet)))
                done += len(sheet)
            before = log.named("fill_")
            products.set_logits(sheets, weights, rows, logits, places)
            found[backend.device] = to_host(logits)
            assert log.named("fill_") == before
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-4)


def test_rows_that_chains_take_are_gathered_once():
    problem = clusters(300, 1, 60, 3)
    chains = [random_chain(60, [0.2, 0.4], seed) for seed in (1, 2)]

    def gathered(steps, memory):
        how = probe.Logistic(l2=1e-3, tol=1e-12, max_iter=steps)
        with pretend_device.installed() as log:
            probe.fit(problem.train, chains, solver=how, device="cuda", memory=memory)
        wanted = "probe/solvers/logistic/products.py"
        return sum(e.name == "index_select" and e.site.startswith(wanted) for e in log.events)

    assert gathered(3, "1GiB") == gathered(7, "1GiB") == 2


def test_rows_are_kept_as_far_as_there_is_room():
    kept = products.TakenRows(room=100)
    first, second = np.arange(20.0).reshape(10, 2)[:5], np.ones((3, 2))
    held = kept.add("a", first)
    assert held is not first
    assert (kept.find("a", 4) == first[:4]).all()
    assert kept.find("a", 6) is None
    assert kept.find("b", 1) is None
    assert kept.add("b", second) is second  # 80 of 100 bytes are taken


@pytest.mark.parametrize(("length", "parts"), [(960, 15), (127, 1), (64, 1), (4096, 64)])
def test_curvature_of_long_vectors_is_multiplied_in_parts(length, parts):
    random = np.random.default_rng(0)
    bend = np.linspace(0.1, 3, length).astype(np.float32)
    known, moved = Curvature(torch.zeros(3, length), 2), np.array([True, False, True])
    with pretend_device.installed():
        found = Curvature(CUDA.put(np.zeros((3, length), np.float32)), 2, part=64)
        assert len(found._basis) == 3 * parts
        for turn in range(5):
            step, gradient = random.normal(size=(2, len(moved), length)).astype(np.float32)
            given = step, step * bend, gradient
            theirs = known.advance(moved, *map(torch.from_numpy, given))
            ours = found.advance(moved, *map(CUDA.put, given))
            np.testing.assert_allclose(to_host(ours[0]), theirs[0], rtol=1e-3, atol=1e-4)
            for a, b in zip(ours[1:], theirs[1:], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4)
            if turn == 2:
                for learnt in (known, found):
                    learnt.keep(moved)
                    learnt.change(lambda x: 2 * x, lambda g: g / 2)
                moved = moved[moved]


def test_three_rounded_products_are_one_of_full_precision():
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(40, 2000)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.T.astype(np.float64)

    def off(product):
        return np.linalg.norm(to_host(product) - exact) / np.linalg.norm(exact)

    with pretend_device.installed(), products.reduced_precision():
        left, right = CUDA.put(a), CUDA.put(b)
        parts = to_host(products.split(left, low=2))
        assert (parts[:, 0] + parts[:, 2] == a).all()
        assert (parts[:, 0] == parts[:, 1]).all()
        assert off(left @ right.T) > 1e-4
        three = products.split(left, low=2).flatten(1) @ products.split(right, low=1).flatten(1).T
        assert off(three) < 5e-7


@pytest.fixture
def asked_anew():
    products.thrice_serves.cache_clear()
    yield
    products.thrice_serves.cache_clear()


def test_the_certificate_is_of_three_rounded_products_where_they_are_good(asked_anew, monkeypatch):
    with pretend_device.installed(capability=(7, 5)):
        assert products.stages(True, CUDA, "float32") == (products.FAST, products.FULL)
    products.thrice_serves.cache_clear()
    with pretend_device.installed():
        assert products.stages(True, CUDA, "float32") == (products.FAST, products.THRICE)
        assert products.stages(False, CUDA, "float32") == (products.FULL,)
    products.thrice_serves.cache_clear()
    monkeypatch.setattr(products, "split", lambda array, low: torch.stack([array] * 3, -2))
    with pretend_device.installed(), pytest.warns(DeviceWarning, match="three TF32 ones are off"):
        assert products.stages(True, CUDA, "float32") == (products.FAST, products.FULL)


def test_fast_probes_end_where_those_of_full_precision_do(asked_anew):
    problem = clusters(900, 1, 60, 6)
    chains = [random_chain(60, [0.25, 0.5, 1.0], seed) for seed in (1, 2)]
    known = probe.fit(problem.train, chains, solver="logistic", l2=1e-2, device="cpu").table
    with pretend_device.installed():
        how = probe.Logistic(l2=1e-2, fast=True)
        found = probe.fit(problem.train, chains, solver=how, device="cuda")
        assert found.fitted._stages[-1] is products.THRICE
    assert (found.table["status"] == "converged").all()
    assert (found.table["gradient_norm"] <= 1e-4).all()
    objectives = found.table["objective"].to_numpy()
    assert objectives == pytest.approx(known["objective"].to_numpy(), rel=1e-6)


def trained(graphs, fused=False):
    problem = clusters(300, 60, 30, 4)
    # the last minibatch has fewer rows, and there are two rates
    how = probe.SGD(l2=[1e-4, 1e-2], epochs=4, step_every=2, batch_size=64, momentum=0.8)
    chains = [random_chain(30, [0.1, 0.5, 1.0], seed) for seed in (1, 2)]
    with pretend_device.installed(fused=fused, graphs=graphs) as log:
        result = probe.fit(problem.train, chains, solver=how, device="cuda")
        weights = [result.weights(row).coef for row in range(len(result))]
    return result.table, weights, log


@pytest.mark.parametrize("fused", [False, True])
def test_recorded_steps_are_the_steps_bit_by_bit(fused):
    with pytest.warns(DeviceWarning, match="cannot be recorded as a CUDA graph"):
        known, theirs, _ = trained(False, fused)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeviceWarning)
        found, ours, log = trained(True, fused)
    assert [(e.kind, e.name) for e in log.events].count(("wait", "graph")) == 2  # a rate each
    # of each epoch's four whole minibatches all but the first of a rate
    assert log.named("graph") == 2 + 2 * 7
    assert found["train_loss"].equals(known["train_loss"])
    for a, b in zip(ours, theirs, strict=True):
        assert (a == b).all()


def test_a_step_that_asks_the_host_is_taken_as_it_is():
    total = []
    with pretend_device.installed():
        recorded, rows = Recorded(), CUDA.put(np.arange(4))

        def step(rows):
            total.append(int(rows.sum()))

        recorded(step, rows)
        with pytest.warns(DeviceWarning, match="not permitted when a stream is capturing"):
            recorded(step, rows)
        recorded(step, rows)
    assert total == [6, 6, 6]


def test_what_is_recorded_is_done_when_it_is_replayed_and_not_before():
    with pretend_device.installed() as log:
        total, rows = CUDA.put(np.zeros(2)), CUDA.put(np.array([1, 2]))

        def step(rows):
            made = torch.zeros(2, dtype=torch.float64, device="cuda")
            made += rows * 2
            total.add_(made)

        recorded = Recorded()
        for expected in ([2, 4], [4, 8], [6, 12]):
            recorded(step, rows)
            assert total.tolist() == expected
        before = log.launches
        recorded(step, CUDA.put(np.array([10, 0])))
        assert log.launches == before + 2
        assert total.tolist() == [26, 12]
