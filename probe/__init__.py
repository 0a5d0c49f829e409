"""Linear probes on any feature blocks."""

from probe.blocks import ArrayBlocks, RowBlocks
from probe.chains import Chain, first_chain, ordered_chain, random_chain, subset_chain
from probe.result import ProbeResult
from probe.summary import sentence
from probe.sweep import fit, sweep
from probe.weights import Weights

__all__ = [
    "ArrayBlocks",
    "Chain",
    "ProbeResult",
    "RowBlocks",
    "Weights",
    "first_chain",
    "fit",
    "ordered_chain",
    "random_chain",
    "sentence",
    "subset_chain",
    "sweep",
]
