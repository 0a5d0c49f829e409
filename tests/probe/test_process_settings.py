"""Settings of torch in a process change no result, and stay as they were."""

import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from problems import clusters

from featstore import probe
from featstore.probe.arrays import full_precision, own_settings, reduced_precision
from featstore.probe.solvers import value_of

PROBLEM = clusters(200, 100, 40, 3)
PLACES = {
    "cuda products": torch.backends.cuda.matmul,
    "cpu products": torch.backends.mkldnn.matmul,
    "all": torch.backends,
}


@contextlib.contextmanager
def told(place, value):
    before = place.fp32_precision
    place.fp32_precision = value
    try:
        yield
    finally:
        place.fp32_precision = before


@contextlib.contextmanager
def called(function, value, usual):
    function(value)
    try:
        yield
    finally:
        function(usual)


SETTINGS = {
    "medium": lambda: called(torch.set_float32_matmul_precision, "medium", "highest"),
    "high": lambda: called(torch.set_float32_matmul_precision, "high", "highest"),
    "tf32 products": lambda: told(torch.backends.cuda.matmul, "tf32"),
    "tf32 everywhere": lambda: told(torch.backends, "tf32"),
    "bf16 on the cpu": lambda: told(torch.backends.mkldnn.matmul, "bf16"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: called(torch.set_default_dtype, torch.float64, torch.float32),
    "deterministic": lambda: called(torch.use_deterministic_algorithms, True, False),
    "inference": torch.inference_mode,
    "without autograd": torch.no_grad,
    "another device": lambda: torch.device("meta"),
}


def said():
    """Return what torch says of its settings in this process."""
    with contextlib.suppress(RuntimeError):  # where settings of both kinds were used
        torch.get_float32_matmul_precision()
    return {
        **{name: place.fp32_precision for name, place in PLACES.items()},
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "grad": torch.is_grad_enabled(),
        "device": torch.get_default_device().type,
    }


def computed():
    """A sweep of every solver, and the probes' weights and predictions."""
    tables = []
    for solver in ("ridge", "lda", "logistic", "sgd"):
        options = {"epochs": 2} if solver == "sgd" else {}
        result = probe.sweep(
            PROBLEM.train,
            PROBLEM.test,
            fractions=[0.3],
            mode=["random", "random-projection"],
            solver=value_of(solver, {"l2": 0.01, **options}),
            metrics=["accuracy", "nll"],
            device="cpu",
        )
        tables.append(result.table.drop(columns="options"))
    chain = probe.random_chain(40, [0.5, 1.0], 1)
    result = probe.fit(PROBLEM.train, [chain], solver="ridge", l2=1e-2, device="cpu")
    similar = probe.layer_similarity({"a": PROBLEM.test}, [0.5], device="cpu")
    spectrum = probe.layer_spectrum(PROBLEM.test, device="cpu")
    arrays = [result.weights(0).coef, result.predict(PROBLEM.test).by_probe]
    return [*tables, similar.to_full, *arrays, spectrum.eigenvalues]


@pytest.fixture(scope="module")
def usual():
    return computed()


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_change_no_bit_and_stay(usual, name):
    with SETTINGS[name]():
        before = said()
        found = computed()
        after = said()
    assert after == before
    for ours, theirs in zip(found, usual, strict=True):
        if isinstance(ours, pd.DataFrame):
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        else:
            assert np.array_equal(ours, theirs)


def stopped_half_way():
    cuda, on_cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    with own_settings(), reduced_precision():
        assert cuda.fp32_precision == "tf32"
        with full_precision():
            assert cuda.fp32_precision == "ieee"
        assert (cuda.fp32_precision, on_cpu.fp32_precision) == ("tf32", "ieee")
        raise KeyError


def test_a_setting_is_put_back_after_an_error_and_around_another():
    on_cpu = torch.backends.mkldnn.matmul
    before = on_cpu.fp32_precision
    with told(on_cpu, "bf16"):
        with pytest.raises(KeyError):
            stopped_half_way()
        assert on_cpu.fp32_precision == "bf16"
    assert on_cpu.fp32_precision == before


def test_a_wider_setting_that_was_inherited_still_is():
    with told(torch.backends, "tf32"):
        with full_precision():
            pass
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        torch.backends.fp32_precision = "tf32"
