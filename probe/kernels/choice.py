"""What serves an array: the kernels where they are there and right, else the reference."""

import importlib.util
import warnings
from functools import cache
from types import ModuleType

from array_api_compat import is_cupy_array

from probe.arrays import Array, on_device
from probe.errors import DeviceWarning
from probe.kernels import reference


def serving(array: Array) -> ModuleType:
    """Return the module whose functions compute with this array."""
    if not on_device(array) or str(array.dtype).removeprefix("torch.") not in reference.DTYPES:
        return reference
    return on_cuda("cupy" if is_cupy_array(array) else "torch")


@cache
def on_cuda(library: str) -> ModuleType:
    """Return what serves that library's arrays on a CUDA device: `cuda`, once it has been checked.

    Without CuPy the reference serves. It also does, after one warning that names the cause, where
    the kernels do not compile, do not run, or do not give what the reference gives.
    """
    if importlib.util.find_spec("cupy") is None:
        return reference
    try:
        from probe.kernels import check, cuda

        check.held_against_reference(cuda, library)
    except Exception as error:
        cause = next(iter(str(error).splitlines()), "")
        warnings.warn(
            f"the CUDA kernels are not used ({type(error).__name__}: {cause}): {library}'s own "
            "operations serve in their place, more slowly",
            DeviceWarning,
            stacklevel=2,
        )
        return reference
    return cuda
