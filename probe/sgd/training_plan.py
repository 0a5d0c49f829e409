"""Which chains are trained together: those of equal prefix sizes, as many as the memory holds."""

import numpy as np

from probe.axes import Axes
from probe.blocks import RowBlocks, validation_of
from probe.budget import text
from probe.errors import MemoryBudgetError
from probe.sgd.stack import Layout
from probe.sgd.training import precision


def layout_of(axes: Axes, chain: int, n_classes: int) -> Layout:
    """Return the layout of a chain's probes."""
    sizes = tuple(1 + size for size in axes.chains[chain].sizes)
    return Layout(sizes, len(axes.penalties), n_classes)


def grouped(axes: Axes, train: RowBlocks, rows: int, memory: int) -> list[list[int]]:
    """Return the chains in groups to be trained one after the other.

    Minibatches are drawn from all rows, so that all of train is held, in its own precision; beside
    it the best coefficients of every probe, and what the probes in training need.

    Arguments:
        axes: all probes.
        train: all rows.
        rows: rows picked at a time.
        memory: bytes that arrays may take.

    Raises:
        MemoryBudgetError: not even one chain fits; the message says how much would do.
    """
    stored, dtype = precision(train)
    item, width = np.dtype(dtype).itemsize, train.n_features + 1
    layouts = [layout_of(axes, chain, train.n_classes) for chain in range(len(axes.chains))]
    # rows, labels and orders; a block as it is read, and one ahead; a piece as it is picked,
    # cast and transposed; the best coefficients
    held = validation_of(train)
    rows_held = train.n_rows + (held.n_rows if held is not None else 0)
    fixed = (rows_held + 2 * train.block_rows) * (np.dtype(stored).itemsize * width + 40)
    fixed += 4 * item * rows * width
    fixed += item * sum(layout.entries for layout in layouts)
    costs = {layout: _cost(layout, rows, item) for layout in layouts}
    if memory < fixed + max(costs.values()):
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for sgd, which draws minibatches from all "
            f"{train.n_rows} train rows: allow at least {text(fixed + max(costs.values()))}"
        )
    groups = []
    for layout, cost in costs.items():
        chains = [number for number, own in enumerate(layouts) if own == layout]
        count = (memory - fixed) // cost
        groups += [chains[start : start + count] for start in range(0, len(chains), count)]
    return groups


def _cost(layout: Layout, rows: int, item: int) -> int:
    """Return the bytes that one chain in training takes.

    Its coefficients, their momentum, and a copy while the best are kept; its rows of a piece, the
    logits of these, and as much twice again for what is made of logits.
    """
    return item * (3 * layout.entries + rows * (layout.sizes[-1] + 3 * layout.columns))
