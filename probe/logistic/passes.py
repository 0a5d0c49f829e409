"""One pass over the rows: losses and gradients of all probes, whatever their chain and prefix."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Precision, full_precision, to_host
from probe.forward import like
from probe.kernels import residuals
from probe.logistic.sheets import Sheet
from probe.logistic.tiles import Tiles
from probe.ranks import all_sum

# tiles whose gradients are summed in the precision of the rows before they join the float64 sum
SUMMED = 16


def losses_and_gradients(
    tiles: Tiles, sheets: Sequence[Sheet], coefficients: Sequence[Array],
    precision: Precision = full_precision,
) -> tuple[list[np.ndarray], list[Array]]:  # fmt: skip
    """Return each sheet's losses (P,) and their gradients (P, C, 1 + m), float64, summed over rows.

    Each tile is met once: its logits, their softmax, and the products of the residuals with it
    while all of that is in cache. The softmax is one step for all sheets. Of several processes
    each passes over its own rows; the sums are of all.

    Arguments:
        tiles: the rows; labels among the C classes of the sheets.
        sheets: the probes.
        coefficients: for each sheet (P, C, 1 + m).
        precision: of the products; losses and sums are in that of the rows, or float64, always.
    """
    xp = array_namespace(coefficients[0])
    arranged = [sheet.arranged(w) for sheet, w in zip(sheets, coefficients, strict=True)]
    parts = [xp.zeros_like(array) for array in arranged]
    totals = [xp.zeros_like(array, dtype=xp.float64) for array in arranged]
    bounds = np.cumsum([0, *map(len, sheets)]).tolist()
    places = [slice(*pair) for pair in pairwise(bounds)]
    losses = xp.zeros(bounds[-1], dtype=xp.float64, device=arranged[0].device)
    logits = None
    with precision():
        for number, (tile, labels) in enumerate(tiles, start=1):
            if logits is None or logits.shape[2] != tile.shape[1]:
                shape = (bounds[-1], sheets[0].n_classes, tile.shape[1])
                logits = xp.empty(shape, **like(tile))
            rows = add_up_logits(sheets, arranged, tile, logits, places)
            losses += residuals(logits, labels)
            for sheet, own, part, place in zip(sheets, rows, parts, places, strict=True):
                sheet.add_gradient(logits[place], own, part)
            if number % SUMMED == 0:
                _flush(parts, totals)
        _flush(parts, totals)
    all_sum(losses, *totals)
    host = to_host(losses)
    gradients = [sheet.restored(total) for sheet, total in zip(sheets, totals, strict=True)]
    return [host[place] for place in places], gradients


def add_up_logits(
    sheets: Sequence[Sheet], arranged: Sequence[Array], tile: Array, out: Array,
    places: Sequence[slice],
) -> list[list[Array]]:  # fmt: skip
    """Write the logits of the sheets to `out` (all P, C, r); return the rows each has taken."""
    out[...] = 0
    rows = [sheet.taken(tile) for sheet in sheets]
    for sheet, own, weights, place in zip(sheets, rows, arranged, places, strict=True):
        sheet.add_logits(weights, own, out[place])
    return rows


def _flush(parts: list[Array], totals: list[Array]) -> None:
    for part, total in zip(parts, totals, strict=True):
        total += part
        part[...] = 0
