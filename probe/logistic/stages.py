"""In what precision softmax probes are minimised: in full alone, or first in a fast one."""

from dataclasses import dataclass

from probe.arrays import Backend, Precision, full_precision, reduced_precision

# Factors of 11 bits stand for coefficients W that are off by dW, where dW'H dW is about 1e-7 of the
# objective f: a gradient norm under some 3e-4 says nothing then, nor do differences of 1e-4 f
FAST_TOL, FAST_NOISE = 1e-3, 1e-4


@dataclass(frozen=True)
class Stage:
    """A stretch of the descent.

    Attributes:
        precision: of its products.
        least_tol: the smallest gradient norm that this precision can tell.
        noise: share of the objective under which differences of it say nothing; None for that of
            the numbers themselves.
    """

    precision: Precision
    least_tol: float = 0.0
    noise: float | None = None


FULL = Stage(full_precision)
FAST = Stage(reduced_precision, FAST_TOL, FAST_NOISE)


def stages(fast: bool, backend: Backend, dtype: str) -> tuple[Stage, ...]:
    """Return the stages; the last one, whose certificate is reported, is in full precision.

    Only float32 products of torch on a CUDA device can be rounded; elsewhere nothing changes.
    """
    rounded = backend.name == "torch" and backend.device == "cuda" and dtype == "float32"
    return (FAST, FULL) if fast and rounded else (FULL,)
