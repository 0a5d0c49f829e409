"""Grants of memory, and what happens when a device turns out to have less."""

import cupy_stand_in
import pytest
import torch
from problems import clusters

from featstore import probe
from featstore.probe import memory, metrics
from featstore.probe.arrays import Backend
from featstore.probe.errors import DeviceWarning, MemoryBudgetError, UsageError
from featstore.probe.memory import Grant, grant, out_of_memory
from featstore.probe.solvers import dual, prefixes
from featstore.probe.solvers.logistic import products

HOST = Backend("torch", "cpu")


def cupy_error():
    error = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})
    return error("Out of memory allocating 1,024 bytes (allocated so far: 0 bytes).")


ERRORS = {
    "torch": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "cupy": cupy_error(),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_device_without_memory_is_known_by_what_its_library_raises(name):
    assert out_of_memory(ERRORS[name])


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        MemoryError("out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not out_of_memory(error)


def failing_above(limit, error):
    seen = []

    def attempt(memory):
        seen.append(memory)
        if memory > limit:
            raise error
        return memory

    return attempt, seen


@pytest.mark.parametrize("name", ERRORS)
def test_memory_is_halved_until_it_suffices_and_stays_so(name):
    attempt, seen = failing_above(300, ERRORS[name])
    granted = Grant(1000, HOST)
    with pytest.warns(DeviceWarning, match="the device ran out of memory .* going on") as caught:
        assert granted.spend(attempt) == 250
    assert seen == [1000, 500, 250]
    assert len(caught) == 2
    assert granted.spend(attempt) == 250  # what has been learnt is kept
    assert grant(granted, HOST) is granted


def test_when_nothing_fits_the_error_says_what_to_do():
    def attempt(memory):
        if memory < 300:
            raise MemoryBudgetError("too little for one chain")
        raise ERRORS["torch"]

    with (
        pytest.warns(DeviceWarning),
        pytest.raises(MemoryBudgetError, match="free memory on it, or compute on the cpu"),
    ):
        Grant(1000, HOST).spend(attempt)


def test_a_rank_among_others_does_not_go_on_alone(monkeypatch):
    monkeypatch.setattr(memory, "world", lambda: 2)
    monkeypatch.setattr(memory, "rank", lambda: 0)
    attempt, seen = failing_above(300, ERRORS["torch"])
    with pytest.raises(MemoryBudgetError, match=r"of rank 0 ran out of memory .* smaller memory"):
        Grant(1000, HOST).spend(attempt)
    assert seen == [1000]


def test_ranks_plan_with_what_the_poorest_has(monkeypatch):
    monkeypatch.setattr(memory, "world", lambda: 2)
    monkeypatch.setattr(memory, "rank", lambda: 0)
    monkeypatch.setattr(memory, "free", lambda backend: 1000)
    monkeypatch.setattr(memory, "all_sum", lambda free: free.__setitem__(1, 500))
    assert Grant("auto", Backend("torch", "cuda")).memory == 450


def test_errors_of_another_kind_pass():
    attempt, seen = failing_above(0, KeyError("x"))
    with pytest.raises(KeyError):
        Grant(1000, HOST).spend(attempt)
    assert seen == [1000]
    attempt, seen = failing_above(0, MemoryBudgetError("allow at least"))
    with pytest.raises(MemoryBudgetError, match="allow at least"):
        Grant(1000, HOST).spend(attempt)
    assert seen == [1000]


def test_auto_is_nine_tenths_of_what_is_free_on_host_and_device_each(monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 1 << 30)
    here, there = Grant("auto", HOST), Grant("2GiB", Backend("torch", "cuda"))
    assert (here.memory, here.on_host) == (int(0.9 * (1 << 30)),) * 2
    assert (there.memory, there.on_host) == (2 << 30,) * 2
    with cupy_stand_in.installed(free=1 << 34):
        assert Grant("auto", Backend("cupy", "cuda")).on_host == int(0.9 * (1 << 30))
        assert Grant("auto", Backend("cupy", "cuda")).memory == int(0.9 * (1 << 34))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10_000, 20_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 5_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3_000)
    assert Grant("auto", Backend("torch", "cuda")).memory == 10_800
    assert Grant("2GiB", Backend("torch", "cuda")).memory == 2 << 30
    with pytest.raises(UsageError, match="is not a size"):
        Grant("lots", HOST)


def test_ranks_share_what_is_free_on_their_host(monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 1000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert memory.parse("auto") == 300


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 5000 << 10), (str(4000 << 10), 2200 << 10), ("100", 0)]
)
def test_a_container_s_limit_counts_less_what_is_used_and_cannot_be_dropped(tmp_path, limit, free):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    for name, value in {
        "memory.max": limit,
        "memory.current": str(2000 << 10),
        "memory.stat": f"anon 7\ninactive_file {200 << 10}\nactive_file 1\n",
    }.items():
        (tmp_path / name).write_text(value + "\n")
    assert memory.free_on_host(tmp_path / "meminfo", tmp_path) == free


def test_where_nothing_says_what_is_free_half_of_the_machine_counts(tmp_path):
    pages, size = memory.os.sysconf("SC_PHYS_PAGES"), memory.os.sysconf("SC_PAGE_SIZE")
    assert memory.free_on_host(tmp_path / "none") == pages * size // 2


def test_tiles_of_the_dual_are_bounded_by_the_host_whatever_the_device_has():
    """By the device's memory they were 69 GB of the host here."""
    rows, features = 20_000, 2_000_000
    of_device = dual.Problem(rows, features, 10, 1, memory=80 << 30, host=48 << 30)
    tile = of_device.tile(features, 4)
    assert dual.LEAST_TILE < tile < features
    assert 4 * rows * tile + of_device.dual_bytes(features) <= of_device.host
    assert tile == dual.Problem(rows, features, 10, 1, 48 << 30).tile(features, 4)


def test_what_the_libraries_keep_is_given_back(monkeypatch):
    freed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append("torch"))
    with cupy_stand_in.installed() as cupy:
        pool = cupy.get_default_memory_pool()
        monkeypatch.setattr(pool, "free_all_blocks", lambda: freed.append("cupy"))
        memory.release()
    assert freed == ["torch", "cupy"]


def running_out(monkeypatch, module, name, size_of, limit):
    """Let a function of a module run out of memory where its first argument is too large."""
    real, seen = getattr(module, name), []

    def seam(array, *rest):
        seen.append(size_of(array))
        if seen[-1] > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return real(array, *rest)

    monkeypatch.setattr(module, name, seam)
    return seen


@pytest.mark.parametrize(
    ("solver", "memory", "module", "name", "limit"),
    [
        ("ridge", "64MiB", prefixes, "factorise", 2),  # systems factorised together
        ("ridge", "64MiB", metrics, "judged", 2),  # systems scored together
        ("logistic", "2MiB", products, "residuals", 9),  # probes in a pass
    ],
)
def test_a_sweep_goes_on_with_smaller_batches(monkeypatch, solver, memory, module, name, limit):
    problem = clusters(300, 40, 60, 5)
    arguments = {
        "fractions": [0.2, 0.4, 0.6],
        "seeds": [1, 2, 3, 4],
        "solver": solver,
        "device": "cpu",
        "memory": memory,
        "l2": 1e-3,
    }
    known = probe.sweep(problem.train, problem.test, **arguments).table
    seen = running_out(monkeypatch, module, name, len, limit)
    with pytest.warns(DeviceWarning, match="going on with batches for"):
        found = probe.sweep(problem.train, problem.test, **arguments).table
    assert max(seen) > limit >= seen[-1]
    assert (found["status"] == known["status"]).all()
    assert found["accuracy"].to_numpy() == pytest.approx(known["accuracy"].to_numpy(), abs=0.03)


def test_cupy_without_a_driver_keeps_nothing_that_could_be_given_back(monkeypatch):
    def without_driver():
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver")

    with cupy_stand_in.installed() as cupy:
        pool = cupy.get_default_memory_pool()
        monkeypatch.setattr(pool, "free_all_blocks", without_driver)
        memory.release()
