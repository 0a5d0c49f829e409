"""Likelihood and calibration: how much the softmax of the logits can be believed."""

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.kernels import Judged

BINS = 15


class Calibration:
    """Negative log-likelihood, and expected calibration error of the top probability.

    With p = softmax(logits), `nll` is the mean of -log p[label] in nats, and

        ece = sum_b |sum over the rows of bin b of (hit - max p)| / N

    over 15 bins (i/15, (i+1)/15] of max p; a hit is as in `Accuracy`. Both speak of probabilities:
    of a least-squares score there are none, so `Scores` gives NaN for solvers without them.

    Attributes:
        surprise: float64 (P,), sum over rows of -log p[label].
        gaps: float64 (P, 15), sum over the rows of each bin of hit - max p.
        rows: int64 (P,), rows that each probe has seen.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    def __init__(self, n_probes: int, n_classes: int):
        self.surprise = np.zeros(n_probes)
        self.gaps = np.zeros((n_probes, BINS))
        self.rows = np.zeros(n_probes, np.int64)

    @property
    def sums(self) -> list[np.ndarray]:
        """What adds up over rows."""
        return [self.surprise, self.gaps, self.rows]

    def add(self, probes: np.ndarray, stand: Judged) -> None:
        """Sum -log p[label] and the gaps of each bin; sums are float64."""
        confidence = stand.confidence
        xp = array_namespace(confidence)
        gap = xp.astype(stand.among_first(1), xp.float64) - confidence
        bins = xp.ceil(confidence * BINS) - 1
        binned = [xp.sum(xp.where(bins == b, gap, xp.zeros_like(gap)), axis=1) for b in range(BINS)]
        self.surprise[probes] += to_host(xp.sum(stand.surprise, axis=1))
        self.gaps[probes] += to_host(xp.stack(binned, axis=1))
        self.rows[probes] += stand.n_rows

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are summed as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"nll": ..., "ece": ...}, float64 (P,) each."""
        nll = self.surprise / self.rows
        ece = np.abs(self.gaps).sum(1) / self.rows
        # logits that are not finite fall into no bin
        return {"nll": nll, "ece": np.where(np.isfinite(nll), ece, np.nan)}
