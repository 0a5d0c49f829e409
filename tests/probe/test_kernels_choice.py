"""Kernels are built by NVRTC, checked before they serve, and replaced where they are wrong."""

import sys
import warnings
from contextlib import nullcontext

import cupy_stand_in
import numpy as np
import nvrtc
import pytest
import torch
from host_kernels import needs_compiler
from problems import cupy_has_a_device

from featstore.probe import kernels
from featstore.probe.arrays import Backend, to_host
from featstore.probe.errors import DeviceWarning
from featstore.probe.kernels import reference

needs_nvrtc = pytest.mark.skipif(
    nvrtc.located() is None, reason="no NVRTC: torch was built without CUDA"
)
# of a multiprocessor, for the threads of all blocks on it
REGISTERS = 65536


@pytest.fixture
def cupy():
    with cupy_stand_in.installed() as module:
        yield module


def drawn(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(2, 5, 30)).astype(np.float32), random.integers(0, 5, size=30)


@needs_nvrtc
@pytest.mark.parametrize("name", ["softmax", "blocks"])
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"])
def test_nvrtc_compiles_every_source_and_a_block_of_1024_threads_fits(cupy, name, architecture):
    from featstore.probe.kernels import cuda

    source = (cuda.files("featstore.probe.kernels") / "sources" / f"{name}.cu").read_text()
    found = nvrtc.registers(nvrtc.compiled(source, architecture, cuda.OPTIONS))
    assert len(found) == {"softmax": 4, "blocks": 1}[name]
    assert 0 < max(found.values()) * cuda.MANY_THREADS <= REGISTERS


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_eight_blocks_of_the_softmax_step_share_a_multiprocessor(cupy, architecture):
    """A division or a 64-bit product for each logit takes registers, and half of the blocks."""
    from featstore.probe.kernels import cuda

    source = (cuda.files("featstore.probe.kernels") / "sources" / "softmax.cu").read_text()
    found = nvrtc.registers(nvrtc.compiled(source, architecture, cuda.OPTIONS))
    assert found["residuals_float32"] * cuda.THREADS * 8 <= REGISTERS


@needs_nvrtc
def test_nvrtc_says_what_it_does_not_compile():
    with pytest.raises(SyntaxError, match="error"):
        nvrtc.compiled("an error, and no program", "sm_90", ())


@needs_compiler
def test_on_a_device_the_kernels_serve_once_they_are_checked(cupy, monkeypatch):
    checked = []
    held = kernels.held_against_reference
    monkeypatch.setattr(
        kernels, "held_against_reference", lambda *args: (checked.append(args[1]), held(*args))
    )
    logits, labels = drawn()
    ours = cupy.asarray(logits)
    for _ in range(2):
        assert kernels.serving(ours).__name__ == "featstore.probe.kernels.cuda"
    assert checked == ["cupy"]
    losses = kernels.residuals(ours, cupy.asarray(labels))
    known = reference.residuals(logits, labels)
    np.testing.assert_allclose(to_host(losses), known, rtol=1e-6)
    np.testing.assert_allclose(to_host(ours), logits, rtol=1e-4, atol=1e-7)


@needs_compiler
def test_arrays_of_torch_are_shared_and_not_copied(cupy, monkeypatch):
    from featstore.probe.kernels import cuda

    monkeypatch.setattr(cuda, "current", lambda array: nullcontext())
    monkeypatch.setattr(kernels, "Backend", lambda library, device: Backend(library, "cpu"))
    kernels.held_against_reference(cuda, "torch")
    logits, labels = drawn()
    ours = torch.from_numpy(logits.copy())
    losses = cuda.residuals(ours, torch.from_numpy(labels))
    assert isinstance(losses, torch.Tensor)
    reference.residuals(logits, labels)
    np.testing.assert_allclose(ours.numpy(), logits, rtol=1e-4, atol=1e-7)


def test_the_stream_of_torch_is_told_to_cupy_as_its_version_wants_it(cupy, monkeypatch):
    from featstore.probe.kernels import cuda

    cupy.cuda.Stream.entered.clear()
    with cuda.stream(1234):  # a deprecation is an error here
        assert cupy.cuda.Stream.entered == [1234]
    monkeypatch.delattr(cupy.cuda.Stream, "from_external")  # CuPy 13
    with pytest.warns(DeprecationWarning, match="ExternalStream"), cuda.stream(1234):
        pass


@pytest.mark.skipif(not cupy_has_a_device(), reason="no CUDA device for CuPy")
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_the_kernels_serve_on_the_device_of_this_machine(library):
    kernels.on_cuda.cache_clear()
    assert kernels.on_cuda(library).__name__ == "featstore.probe.kernels.cuda"


def test_on_the_host_and_for_other_numbers_the_reference_serves(cupy):
    logits, _ = drawn()
    assert kernels.serving(logits) is reference
    assert kernels.serving(torch.from_numpy(logits)) is reference
    assert kernels.serving(cupy.asarray(logits.astype(np.float16))) is reference


def served_with_one_warning(cupy, cause):
    logits, labels = drawn()
    with pytest.warns(DeviceWarning, match=cause):
        kernels.residuals(cupy.asarray(logits), cupy.asarray(labels))
    # once: another warning would be an error
    losses = kernels.residuals(cupy.asarray(logits), cupy.asarray(labels))
    np.testing.assert_allclose(to_host(losses), reference.residuals(logits, labels), rtol=1e-6)


@needs_compiler
def test_a_source_that_does_not_compile_warns_once_and_is_replaced(cupy, monkeypatch):
    from featstore.probe.kernels import cuda

    broken = cupy.RawModule(code="an error, and no program")
    monkeypatch.setattr(cuda, "kernel", lambda source, name: broken.get_function(name))
    served_with_one_warning(cupy, "kernels are not used")


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("others.largest > own ?", "others.largest < own ?"),
        ("walk.number(k) > label", "walk.number(k) < label"),
        ("__syncthreads();\n        if (place.lane == 0", "if (place.lane == 0"),
        ("x == -infinity<T>() ? 0 :", ""),
    ],
)
def test_a_kernel_that_is_wrong_warns_once_and_is_replaced(cupy, monkeypatch, right, wrong):
    from featstore.probe.kernels import cuda

    source = (cuda.files("featstore.probe.kernels") / "sources" / "softmax.cu").read_text()
    assert right in source
    kernel, broken = cuda.kernel, cupy.RawModule(code=source.replace(right, wrong))
    monkeypatch.setattr(
        cuda,
        "kernel",
        lambda source, name: (
            broken.get_function(name) if source == "softmax" else kernel(source, name)
        ),
    )
    served_with_one_warning(cupy, "differs from its reference")


@needs_compiler
def test_a_launch_with_too_little_shared_memory_is_seen(cupy, monkeypatch):
    from featstore.probe.kernels import cuda

    launch = cuda.Launch.__call__
    monkeypatch.setattr(
        cuda.Launch,
        "__call__",
        lambda self, name, arguments, size: launch(self, name, arguments, size // 4),
    )
    logits, labels = drawn()
    with pytest.raises(AssertionError, match="shared memory was used beyond"):
        cuda.residuals(*map(cupy.asarray, (np.tile(logits, (1, 60, 1)), labels)))


def test_without_cupy_the_reference_serves_without_a_word(monkeypatch):
    kernels.on_cuda.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.on_cuda("torch") is reference
    kernels.on_cuda.cache_clear()
