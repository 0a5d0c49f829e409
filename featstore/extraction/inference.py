"""A backbone on its device: from decoded batches to the features of every tap.

A batch is what `Backbone.encode_batch` made: a tensor of pixels, or a dictionary of token tensors.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch

from featstore.errors import BackboneError, UsageError
from featstore.extraction.request import PRECISIONS
from featstore.models import own
from featstore.models.network import Backbone
from featstore.models.taps import Taps

Batch = torch.Tensor | Mapping[str, torch.Tensor]


class Inference:
    """Batches to {tap: features (b, D) float32} on `device`, computed in `precision`.

    Weights of another dtype than float32 compute in it by themselves, on the devices where they
    lie already if the backbone is `placed`. Otherwise, under "bfloat16" and "float16", torch's
    autocast decides which layers compute in it, and float32 is float32: without TF32, which cuDNN's
    convolutions take otherwise.

    Whether a network of the user's is random is seen on the first batch, in a second pass of all of
    it, or in two of its first rows: no more than `spare` rows are passed for that.
    """

    def __init__(
        self,
        backbone: Backbone,
        reader: Taps,
        device: torch.device,
        precision: str = "float32",
        compiled: bool = False,
        spare: int = 8,
    ):
        self._spare = spare
        self._backbone, self._device, self._precision = backbone, device, precision
        self._read = torch.compile(reader.read) if compiled else reader.read
        # On two cores EfficientNet-Lite0 passes twice the images with channels last in memory.
        last = backbone.modality == "image" or getattr(backbone.transform, "channels_last", False)
        layout = {"memory_format": torch.channels_last} if last else {}
        if not backbone.placed:
            backbone.model.to(device, **layout)

        ours = backbone.modality == "tensor"
        self._state = own.state(backbone.model) if ours else None
        # taps that differ in a second pass of the first rows; None before it is known
        self.random: tuple[str, ...] | None = None if ours else ()

    def check_unchanged(self, rows: str) -> None:
        """Raise `BackboneError` where a network of the user's is another than before."""
        if self._state is None:
            return
        now = own.state(self._backbone.model)
        changed = [name for name in (self._state | now) if self._state.get(name) != now.get(name)]
        if changed:
            raise BackboneError(
                f"{self._backbone.name} changes itself while it computes: {changed[0]} is another"
                f" after {rows}, and the store would not be of one network; take that out of its"
                " forward pass"
            )

    @property
    def pinned(self) -> bool:
        """Return whether batches should lie in pinned memory, to be copied while others compute."""
        return self._device.type == "cuda"

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Features of one batch, still on the device: what is not needed yet is not waited for."""
        inputs = self._backbone.prepare(_moved(batch, self._device))
        with self._computing():
            found = self._read(inputs) if self.random is not None else self._compared(inputs)
        return {name: features.float().to(self._device) for name, features in found.items()}

    def _compared(self, inputs: Batch) -> dict[str, torch.Tensor]:
        """Return the features of the first batch, and note the taps at which two passes differ."""
        n_rows = len(inputs if isinstance(inputs, torch.Tensor) else next(iter(inputs.values())))
        few = n_rows > self._spare
        # a network may write into what it is given
        kept = own.copied(own.head_of(inputs, self._spare // 2) if few else inputs)
        again = own.copied(kept) if few else kept
        found = self._read(inputs)
        self.random = own.differing(self._read(kept) if few else found, self._read(again))
        return found

    def fed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each copied to the device while the one before it is computed."""
        if self._device.type != "cuda":
            yield from batches
            return
        side, here = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        waiting = None
        for batch in batches:
            with torch.cuda.stream(side):
                coming = _moved(batch, self._device), side.record_event()
            if waiting is not None:
                yield _arrived(*waiting, here)
            waiting = coming
        if waiting is not None:
            yield _arrived(*waiting, here)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(full_precision())
            reduced = self._precision not in ("float32", self._backbone.dtype)
            if reduced or torch.is_autocast_enabled(self._device.type):
                dtype = getattr(torch, self._precision) if reduced else None
                stack.enter_context(torch.autocast(self._device.type, dtype, enabled=reduced))
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise BackboneError(
                    f"{self._device} has no memory for a batch ({str(error).splitlines()[0]});"
                    " give a smaller --batch-size"
                ) from None


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from rounding float32 factors, whatever the process lets it do.

    On a CUDA device they would become TF32, in convolutions by default, on a CPU bfloat16. The
    process's own settings are put back.
    """
    cuda, cudnn, on_cpu = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    if not hasattr(on_cpu, "matmul"):  # before torch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=False):
                yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    # torch's older settings raise where these were used, and never the other way round
    places = [cuda.matmul, cudnn.conv, cudnn.rnn, on_cpu.matmul, on_cpu.conv, on_cpu.rnn]
    values = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, value in zip(places, values, strict=True):
            # "none" stands for what a wider setting says, which is how the process may have had it
            place.fp32_precision = "none"
            if place.fp32_precision != value:
                place.fp32_precision = value


def change(reduced: Inference, exact: Inference, batch: Batch) -> dict[str, float]:
    """By tap, the largest ||a - b|| / ||b|| of a row, `reduced` against `exact` on one batch.

    Raises `BackboneError` where `reduced` overflows.
    """
    ours, theirs = reduced(batch), exact(batch)
    found = {}
    for name, right in theirs.items():
        off = (ours[name] - right).norm(dim=1) / right.norm(dim=1).clamp_min(1e-30)
        found[name] = float(off.max())
        if not torch.isfinite(off).all():
            raise BackboneError(
                f"features at {name} are not finite in reduced precision on the first batch;"
                " compute with --precision float32, or bfloat16, which has float32's range"
            )
    return found


def check_engine(backbone: Backbone, precision: str, compiled: bool | None) -> None:
    """Raise `UsageError` where what torch alone can do is asked of another engine."""
    if backbone.engine == "torch":
        return
    asked = "--compile" if compiled else f"--precision {precision}"
    if compiled or precision not in ("auto", "float32"):
        raise UsageError(
            f"{backbone.name} is run by {backbone.engine}, as its file says and in float32; leave"
            f" {asked} out"
        )


def precision_for(asked: str, device: torch.device) -> str:
    """The precision that "auto" stands for on a device: float16 on CUDA, float32 on the CPU.

    >>> precision_for("auto", torch.device("cpu")), precision_for("bfloat16", torch.device("cpu"))
    ('float32', 'bfloat16')
    """
    if asked not in PRECISIONS:
        raise UsageError(f"there is no precision {asked!r}; choose {', '.join(PRECISIONS)}")
    if asked != "auto":
        return asked
    # float16 keeps as many digits as the TF32 that cuDNN computes float32 in by default, and eight
    # times as fine as bfloat16; where its range is too small, the first batch shows it.
    return "float16" if device.type == "cuda" else "float32"


def device_for(name: str, local_rank: int = 0) -> torch.device:
    """The device called "cpu", "mps", "cuda", "cuda:N" or "auto"; a rank has CUDA's of its number.

    "auto" is CUDA where there is any, and the CPU otherwise: "mps", a Mac's own, is to be named.

    Raises `UsageError` for a device that does not exist.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    kind, _, index = name.partition(":")
    wrong = index and not index.isdigit()
    if kind not in ("cpu", "cuda", "mps") or wrong:
        raise UsageError(f"there is no device {name!r}; choose auto, cpu, cuda or mps")
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError(
                "there is no device 'mps' here, which Macs with Apple's processors have; leave"
                " --device out, or give --device cpu"
            )
        return torch.device("mps")
    if not count:
        raise UsageError("there is no CUDA device here; leave --device out, or give --device cpu")
    number = int(index) if index else local_rank % count
    if number >= count:
        raise UsageError(f"there is no device {name!r}: there are cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", number)


def _moved(batch: Batch, device: torch.device) -> Batch:
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _arrived(batch: Batch, there: torch.cuda.Event, here: torch.cuda.Stream) -> Batch:
    """The batch, for work on the stream `here`, which waits until its bytes are there."""
    here.wait_event(there)
    for tensor in [batch] if isinstance(batch, torch.Tensor) else batch.values():
        tensor.record_stream(here)
    return batch
