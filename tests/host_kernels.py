"""CUDA sources compiled for the host and run there: what CuPy's RawModule is on a device.

Not collected: a module of helpers that the tests import.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")
LAUNCHER = Path(__file__).with_name("host_launch.hpp")
FAULTS = {
    1: "another number of arguments than the kernel has",
    2: "an argument of another size than the kernel's",
    3: "shared memory was used beyond what the launch granted",
}


@cache
def library(source: str) -> ctypes.CDLL:
    """Compile a CUDA source for the host, and return it loaded."""
    names = re.findall(r'^(?:KERNEL|extern "C" __global__ void) (\w+)\(', source, re.MULTILINE)
    wrappers = (
        f'extern "C" int launch_{name}(long long blocks, int threads, int bytes, void** arguments,'
        f" const int* sizes, int count) {{\n"
        f"    return launch({name}, blocks, threads, bytes, arguments, sizes, count);\n}}\n"
        for name in names
    )
    with tempfile.TemporaryDirectory() as folder:
        text, built = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        text.write_text("\n".join([f'#include "{LAUNCHER}"', source, *wrappers]))
        command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", str(text), "-o"]
        done = subprocess.run([*command, str(built)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return ctypes.CDLL(str(built))


class HostModule:
    """Stands where `cupy.RawModule` stands."""

    def __init__(self, *, code, options=()):
        self._code = code

    def get_function(self, name):
        """Return what launches the kernel of that name."""
        launch = getattr(library(self._code), f"launch_{name}")

        def kernel(grid, block, args, *, shared_mem=0):
            held = [_argument(value) for value in args]
            pointers = (ctypes.c_void_p * len(held))(*(array.ctypes.data for array in held))
            sizes = (ctypes.c_int * len(held))(*(array.nbytes for array in held))
            fault = launch(ctypes.c_longlong(grid[0]), block[0], shared_mem, pointers, sizes,
                           len(held))  # fmt: skip
            assert not fault, f"{name}: {FAULTS[fault]}"

        return kernel


def _argument(value):
    """Return an argument's bytes as the driver takes them: arrays by their address."""
    if isinstance(value, np.generic):
        return np.array(value)
    return np.array(value.data.ptr, np.uint64)
