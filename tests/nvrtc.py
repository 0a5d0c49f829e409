"""NVRTC, NVIDIA's run-time compiler, which needs no device: it comes with torch's CUDA wheels.

Not collected: a module of helpers that the tests import.
"""

import ctypes
import importlib.util
import struct
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


REGISTER_COUNT = b"\x04\x2f\x08\x00"


def registers(cubin: bytes) -> dict[str, int]:
    """Return how many registers a thread of each kernel takes, by the kernel's name.

    Machine code is an ELF file; its section ".nv.info" tells them by the symbols of the kernels.
    """
    table, size, count, names = (
        *struct.unpack_from("<Q", cubin, 0x28), *struct.unpack_from("<3H", cubin, 0x3A)
    )  # fmt: skip
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]

    def called(strings: int, offset: int) -> str:
        start = sections[strings][4] + offset
        return cubin[start : cubin.index(b"\0", start)].decode()

    by_name = {called(names, section[0]): section for section in sections}
    symbols, strings = by_name[".symtab"][4], by_name[".symtab"][6]
    start, length = by_name[".nv.info"][4:6]
    info, found = cubin[start : start + length], {}
    at = info.find(REGISTER_COUNT)
    while at >= 0:
        symbol, number = struct.unpack_from("<II", info, at + len(REGISTER_COUNT))
        found[called(strings, *struct.unpack_from("<I", cubin, symbols + 24 * symbol))] = number
        at = info.find(REGISTER_COUNT, at + 12)
    return found
