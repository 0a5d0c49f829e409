"""Every solver on a real CUDA device against the CPU; without one these tests are skipped."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from problems import clusters

from featstore import probe
from featstore.errors import UsageError
from featstore.extraction.loading import _of_jpegs, check_decoder
from featstore.probe import kernels
from featstore.probe.arrays import Backend, as_given, cholesky, full_precision, to_host
from featstore.probe.errors import DeviceWarning
from featstore.probe.memory import Settings
from featstore.probe.moments import moments
from featstore.probe.pieces import gathered
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers.logistic import products

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PROBLEM = clusters(6_000, 1_500, 300, 7)
SWEEPS = {
    "ridge": {"solver": "ridge", "l2": [1e-2, 1.0]},
    "ridge by leave-one-out": {"solver": "ridge", "l2": [1e-2, 1.0], "select": "loo"},
    "ridge of unequal subsets": {"solver": "ridge", "l2": 1e-2, "mode": "independent"},
    "lda": {"solver": "lda", "l2": 1e-2},
    "logistic": {"solver": "logistic", "l2": 1e-2},
    "logistic, first in TF32": {"solver": probe.Logistic(l2=1e-2, fast=True)},
    "sgd": {"solver": probe.SGD(epochs=2, validate_every=1)},
    "directions": {"solver": "ridge", "l2": 1e-2, "mode": ["pca", "random-projection-orthogonal"]},
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_that_of_the_cpu(name):
    arguments = {"fractions": [0.1, 0.5], "seeds": 2, "metrics": ["accuracy"], **SWEEPS[name]}
    found, known = (
        probe.sweep(PROBLEM.train, PROBLEM.test, device=device, **arguments)
        for device in ("cuda", "cpu")
    )
    assert list(found.table["status"]) == list(known.table["status"])
    off = np.abs(found.table["accuracy"] - known.table["accuracy"])
    assert off.max() <= 0.003
    ours, theirs = (result.weights(0).coef for result in (found, known))
    assert np.abs(ours - theirs).max() <= 5e-3 * np.abs(theirs).max()


def test_rows_that_overlap_with_what_is_computed_arrive_as_they_are():
    """A race between streams would show as rows of another block."""
    x = np.arange(60_000 * 64, dtype=np.float32).reshape(60_000, 64)
    blocks = ArrayBlocks(x, np.zeros(len(x), int), 1, block_rows=777)
    done, work = 0, torch.ones(4096, 4096, device="cuda")
    for piece, _ in gathered(blocks, 5_000, Backend("torch", "cuda"), "float32", np.zeros(64), "x"):
        work @ work  # so that copies run ahead
        assert bool((piece == torch.from_numpy(x[done : done + len(piece)]).cuda()).all())
        done += len(piece)
    assert done == len(x)


def test_products_are_of_full_precision():
    a = torch.randn(512, 512, device="cuda")
    exact = a.double() @ a.double()
    with full_precision():
        assert float((a @ a - exact).abs().max() / exact.abs().max()) < 1e-6


def test_a_factor_that_does_not_exist_is_known_among_others():
    matrices = np.stack([np.eye(5), -np.eye(5), 2 * np.eye(5)])
    _, exists = cholesky(Backend("torch", "cuda").put(matrices))
    assert to_host(exists).tolist() == [True, False, True]


def test_the_kernels_serve_where_cupy_is():
    pytest.importorskip("cupy")
    kernels.on_cuda.cache_clear()
    assert kernels.on_cuda("torch").__name__ == "featstore.probe.kernels.cuda"


def test_three_tf32_products_are_as_good_as_one_of_float32():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the device has no TF32")
    products.thrice_serves.cache_clear()
    assert products.thrice_serves(torch.cuda.get_device_name())


def test_recorded_steps_are_the_steps_bit_by_bit(monkeypatch):
    how = probe.SGD(epochs=3, step_every=2, batch_size=512)
    chains = [probe.random_chain(300, [0.1, 0.5, 1.0], seed) for seed in (1, 2)]

    def trained():
        return probe.fit(PROBLEM.train, chains, solver=how, device="cuda")

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeviceWarning)
        found = trained()

    def unable(*args, **kwargs):
        raise RuntimeError("not here")

    monkeypatch.setattr(torch.cuda, "graph", unable)
    with pytest.warns(DeviceWarning, match="cannot be recorded"):
        known = trained()
    assert found.table["train_loss"].equals(known.table["train_loss"])
    for row in range(len(found)):
        assert (found.weights(row).coef == known.weights(row).coef).all()


def test_sums_that_stay_on_the_device_are_those_of_the_host():
    blocks = ArrayBlocks(*PROBLEM.train, PROBLEM.n_classes)
    known = moments(blocks, Settings(), precise=True)
    found = moments(blocks, Settings(backend=Backend("torch", "cuda")))
    assert as_given(found, "gram").is_cuda
    for ours, theirs in ((found.covariance(), known.covariance()), (found.cross(), known.cross())):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_nvjpeg_decodes_nearly_what_pillow_does():
    device = torch.device("cuda")
    try:
        check_decoder(device)
    except UsageError as error:
        pytest.skip(str(error))
    image = Image.fromarray(
        np.kron(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, np.ones((32, 32, 1), np.uint8))
    )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    (found,) = _of_jpegs([file.getvalue()], device)
    known = np.asarray(Image.open(file)).transpose(2, 0, 1).astype(int)
    assert np.abs(found.cpu().numpy().astype(int) - known).mean() < 2
