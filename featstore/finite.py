"""Whether features are finite, at the speed memory is read, and whether a dtype resolves them."""

import numpy as np

# All exponent bits set: an infinity or a NaN. NumPy's isfinite is ten times slower on float16.
_EXPONENT = {2: np.uint16(0x7C00), 4: np.uint32(0x7F800000)}
_ROWS_IN_CACHE_BYTES = 1 << 18


def first_nonfinite_row(features: np.ndarray) -> int | None:
    """Index of the first row of `features` (n, D) float16|float32 that is not finite, or None.

    >>> first_nonfinite_row(np.array([[1, 2], [3, np.nan]], dtype="float16"))
    1
    """
    step = max(1, _ROWS_IN_CACHE_BYTES // max(1, features[:1].nbytes))
    exponent = _EXPONENT[features.itemsize]
    bits = features.view(exponent.dtype)
    for start in range(0, len(bits), step):
        if (bits[start : start + step] & exponent).max() == exponent:
            rows = np.isfinite(features[start : start + step]).all(axis=1)
            return start + int(np.argmin(rows))
    return None


# Rounding, root mean square, that a feature may have as a share of its deviation.
_KEPT = 0.05
# Changes of a feature, as a share of its size, that are rounding of what computed it in float64.
_NOISE = 2.0**-45


class Rounding:
    """What is lost of each feature where rows are stored in a narrower dtype, summed over rows.

    A feature is lost where rounding moves it by a twentieth of its deviation or more, as float32
    does at 1e9 or float16 below 1e-7: classes that it told apart would lie in the noise.

    >>> rounding = Rounding("float32")
    >>> x = np.array([[1e9, 0.0], [1e9 + 3, 1.0]])
    >>> rounding.add(x, x.astype("float32"))
    >>> rounding.lost()
    'feature 0 changes by 1.5 around 1e+09, which float32 does not resolve: subtract its mean'
    """

    def __init__(self, dtype: str):
        self._dtype, self._n = dtype, 0

    def add(self, rows: np.ndarray, stored: np.ndarray) -> None:
        """Take some rows (n, D) as they are, and as they are stored."""
        if not self._n:
            self._first = rows[0].copy()
            self._sums, self._squares, self._errors, self._most = np.zeros((4, rows.shape[1]))
        with np.errstate(all="ignore"):  # infinite values are named elsewhere
            if rows.dtype.kind in "iu":
                away = rows.astype(np.longdouble) - self._first.astype(np.longdouble)
                moved = rows.astype(np.longdouble) - stored.astype(np.longdouble)
                away, moved = away.astype(np.float64), moved.astype(np.float64)
            else:
                wide = rows.astype(np.float64)
                away, moved = wide - self._first, wide - stored
            if not self._n:
                largest = np.abs(away).max(0)
                known = (largest > 0) & np.isfinite(largest)
                # squares of numbers of about 1, which do not vanish
                self._unit = np.where(known, largest, 1.0)
            away, moved = away / self._unit, np.where(np.isfinite(stored), moved, 0) / self._unit
            self._sums += away.sum(0)
            self._squares += (away * away).sum(0)
            self._errors += (moved * moved).sum(0)
            self._most = np.maximum(self._most, np.abs(rows).max(0))
        self._n += len(rows)

    def lost(self) -> str | None:
        """What is wrong with the feature that loses most, and what to do; None if none is lost."""
        mean = self._sums / self._n
        variance = np.maximum(self._squares / self._n - mean * mean, 0)
        changes = np.sqrt(variance) * self._unit > _NOISE * self._most
        share = np.where(changes, self._errors / self._n / np.where(changes, variance, 1), 0)
        worst = int(np.argmax(share))
        if not share[worst] > _KEPT**2:
            return None
        deviation = np.sqrt(variance[worst]) * self._unit[worst]
        around = float(self._first[worst]) + mean[worst] * self._unit[worst]
        wider = "store float32 (--dtype float32), or " if self._dtype == "float16" else ""
        if self._most[worst] < np.finfo(self._dtype).smallest_normal:
            return (
                f"feature {worst} is {self._most[worst]:.2g} at most, too small for {self._dtype}:"
                f" {wider}multiply the features by a constant"
            )
        return (
            f"feature {worst} changes by {deviation:.2g} around {around:.4g}, which {self._dtype}"
            f" does not resolve: {wider}subtract its mean"
        )
