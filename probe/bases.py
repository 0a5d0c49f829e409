"""Bases: linear maps of the features, whose directions are probed as features are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, Backend, solve_lower, to_host
from featstore.probe.moments import Moments, add_upper, mirror, panels
from featstore.probe.solvers.factor import checked_cholesky

PIECE = 64
"""Directions that are drawn at once, so that the first ones are the same however many follow."""


@dataclass(frozen=True)
class Basis:
    """What the features are seen through: z = R'((x - mean) / scale), R (D, m).

    Attributes:
        kind: "features", where R is the identity; or a key of `KINDS`.
        seed: what R is drawn with; None where it is not drawn.
    """

    kind: str
    seed: int | None = None


FEATURES = Basis("features")
"""The features themselves."""


@dataclass(frozen=True)
class Frame:
    """The train rows whose features a basis is of, and the form in which it meets them.

    Attributes:
        n_features: D.
        moments: returns the moments of these rows.
        standardize: whether features are divided by their deviation first.
        centred: whether their mean is subtracted; not where a solver takes features raw.
    """

    n_features: int
    moments: Callable[[], Moments]
    standardize: bool = True
    centred: bool = True

    @property
    def mean(self) -> np.ndarray:
        """What is subtracted from each feature, float64 (D,)."""
        return self.moments().mean if self.centred else np.zeros(self.n_features)

    @property
    def scale(self) -> np.ndarray:
        """What each feature is divided by, float64 (D,)."""
        scaled = self.standardize and self.centred
        return self.moments().scale(True) if scaled else np.ones(self.n_features)

    def covariance(self) -> np.ndarray:
        """Return the covariance of the features in this form, float64 (D, D)."""
        return self.moments().covariance(self.standardize and self.centred)


def directions(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Return the first `count` directions R of a basis, float64 (D, count), on the device.

    They are made from train rows, or drawn, and never from test rows. The directions of a smaller
    count are the leading ones of a larger. A feature that never changes in train takes no part
    where features are centred.
    """
    found = KINDS[basis.kind](basis, count, frame, backend)
    if frame.centred:
        constant = frame.moments().variance == 0
        if constant.any():
            found = found * backend.put(~constant, "float64")[:, None]
    return found


def _principal(basis: Basis, frame: Frame, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    """Return falling eigenvalues and the eigenvectors of the covariance, float64 (D,), (D, D).

    Or of the second moment about 0. The largest entry of each vector is positive.
    """
    centred, moments = basis.kind == "pca", frame.moments()
    key = ("principal", centred, frame.standardize and frame.centred)

    def make() -> tuple[np.ndarray, np.ndarray]:
        matrix = frame.covariance()
        if not centred:
            mean = moments.mean / moments.scale(key[2])
            matrix = matrix + np.outer(mean, mean)
        on_device = backend.put(matrix)
        values, vectors = map(to_host, array_namespace(on_device).linalg.eigh(on_device))
        vectors = vectors[:, ::-1]
        largest = np.abs(vectors).argmax(0)
        return values[::-1].copy(), vectors * np.sign(vectors[largest, np.arange(len(vectors))])

    return moments.once(key, make)


def _leading(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    return backend.put(_principal(basis, frame, backend)[1][:, :count])


def variances(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array | None:
    """Return the variance along each direction, float64 (count,), where they are uncorrelated.

    So principal directions are, and R'CR is diagonal; of other bases None is returned.
    """
    if basis.kind != "pca":
        return None
    return backend.put(_principal(basis, frame, backend)[0][:count])


def _gaussian(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Independent normal entries of variance 1/D: directions of length 1 on average."""
    return _drawn(torch.randn, basis, count, frame, backend) * frame.n_features**-0.5


def _orthogonal(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """The Gaussian directions of the same seed, made orthonormal one after another."""
    return orthonormalised(_gaussian(basis, count, frame, backend))


def _uniform(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Entries uniform in [0, 1), each direction then scaled to length 1."""
    drawn = _drawn(torch.rand, basis, count, frame, backend)
    xp = array_namespace(drawn)
    return drawn / xp.sqrt(xp.sum(drawn * drawn, axis=0))


def _drawn(
    draw: Callable[..., torch.Tensor], basis: Basis, count: int, frame: Frame, backend: Backend
) -> Array:
    """Return (D, count) of float32 draws from a generator of their own, in float64."""
    generator = torch.Generator().manual_seed(int(basis.seed))
    shape = (PIECE, frame.n_features)
    pieces = [draw(shape, generator=generator) for _ in range(-(-count // PIECE))]
    return backend.put(torch.cat(pieces)[:count].T.numpy(), "float64")


KINDS: dict[str, Callable[[Basis, int, Frame, Backend], Array]] = {
    "pca": _leading,
    "pca-uncentred": _leading,
    "random-projection": _gaussian,
    "random-projection-orthogonal": _orthogonal,
    "random-projection-uniform": _uniform,
}
"""How the directions of each kind come about."""


def orthonormalised(vectors: Array) -> Array:
    """Return what Gram and Schmidt make of independent columns (D, m), m <= D, float64.

    With U'U = L L' it is U L^-T, which products give in a tenth of the time of reflections; it is
    done twice where a nearly dependent column leaves rounding in the first result.
    """
    xp, width = array_namespace(vectors), vectors.shape[1]
    for _ in range(2):
        gram = xp.zeros((width, width), dtype=vectors.dtype, device=vectors.device)
        add_upper(gram, vectors, width)
        mirror(gram)
        lower, exists = checked_cholesky(gram[None])
        if not exists[0]:
            orthonormal, triangle = xp.linalg.qr(vectors)
            return orthonormal * xp.sign(xp.linalg.diagonal(triangle))
        vectors = solve_lower(lower, vectors.T[None])[0].T
        left = xp.linalg.diagonal(lower[0])
        if float(xp.min(left)) > INDEPENDENT * float(xp.max(left)):
            break
    return vectors


INDEPENDENT = 0.05
"""What of its length a direction keeps beside those before it where rounding is under 1e-11."""


def congruent(matrix: Array, found: Array) -> Array:
    """Return R'MR, (m, m), exactly symmetric, for symmetric M (D, D) and R (D, m)."""
    return symmetric_product(found, matrix @ found)


def symmetric_product(found: Array, product: Array) -> Array:
    """Return R'P, (m, m), exactly symmetric, where P = MR of a symmetric M; both (D, m)."""
    xp, width = array_namespace(found), found.shape[1]
    out = xp.empty((width, width), dtype=found.dtype, device=found.device)
    for columns in panels(width):
        out[columns, columns.start :] = found[:, columns].T @ product[:, columns.start :]
    mirror(out)
    return out
