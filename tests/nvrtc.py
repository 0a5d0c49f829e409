"""NVRTC, NVIDIA's run-time compiler, which needs no device: it comes with torch's CUDA wheels.

Not collected: a module of helpers that the tests import.
"""

import ctypes
import importlib.util
from pathlib import Path


def located() -> Path | None:
    """Return the path of the library, or None where it is not installed."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations if found else []
    libraries = (path for folder in folders for path in Path(folder).rglob("libnvrtc.so.*"))
    return next(libraries, None)


def compiled(source: str, architecture: str, options: tuple[str, ...]) -> bytes:
    """Return the machine code of a CUDA source, or raise what the compiler says of it."""
    nvrtc = ctypes.CDLL(str(located()))
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None
    )
    assert not created
    flags = [option.encode() for option in (*options, f"--gpu-architecture={architecture}")]
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    if failed:
        raise SyntaxError(_fetched(nvrtc, program, "ProgramLog").decode())
    return _fetched(nvrtc, program, "CUBIN")


def _fetched(nvrtc, program, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, content)
    return content.raw
