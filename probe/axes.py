"""The probe axis: which integer stands for which (chain, penalty, prefix)."""

from dataclasses import dataclass

import numpy as np

from probe.chains import Chain
from probe.errors import UsageError


@dataclass(frozen=True)
class Axes:
    """Probes numbered chain by chain, within it penalty by penalty, within it prefix by prefix.

    The prefixes of one (chain, penalty) are thus neighbours, which is how they are solved.

    Attributes:
        chains: the orderings, of any lengths and numbers of prefixes.
        penalties: (R,) the l2 values, each tried on every prefix.

    Example:
        >>> from probe.chains import random_chain
        >>> axes = Axes((random_chain(10, [0.1, 0.5], seed=1),), (1e-3, 1e-2))
        >>> axes.chain, axes.penalty, axes.prefix
        (array([0, 0, 0, 0]), array([0, 0, 1, 1]), array([0, 1, 0, 1]))
    """

    chains: tuple[Chain, ...]
    penalties: tuple[float, ...]

    def __post_init__(self):
        if not self.chains:
            raise UsageError("no chain given: a fit needs at least one ordering of features")
        if not self.penalties:
            raise UsageError("no penalty given: a fit needs at least one l2")

    def __len__(self) -> int:
        return len(self.penalties) * sum(map(len, self.chains))

    @property
    def chain(self) -> np.ndarray:
        """The chain of each probe, int64 (P,)."""
        counts = [len(self.penalties) * len(chain) for chain in self.chains]
        return np.repeat(np.arange(len(self.chains)), counts)

    @property
    def penalty(self) -> np.ndarray:
        """The position of each probe's penalty in `penalties`, int64 (P,)."""
        per_chain = (np.repeat(np.arange(len(self.penalties)), len(chain)) for chain in self.chains)
        return np.concatenate(list(per_chain))

    @property
    def prefix(self) -> np.ndarray:
        """The position of each probe's prefix in its chain's `sizes`, int64 (P,)."""
        per_chain = (np.tile(np.arange(len(c)), len(self.penalties)) for c in self.chains)
        return np.concatenate(list(per_chain))

    @property
    def size(self) -> np.ndarray:
        """The number of features k of each probe, int64 (P,)."""
        return np.concatenate([np.tile(c.sizes, len(self.penalties)) for c in self.chains])

    def prefixes(self, chain: int, penalty: int) -> range:
        """Return the probes of one (chain, penalty), smallest prefix first."""
        before = len(self.penalties) * sum(len(c) for c in self.chains[:chain])
        count = len(self.chains[chain])
        start = before + penalty * count
        return range(start, start + count)

    def features(self, probe: int) -> np.ndarray:
        """Return the features that one probe sees, int64 (k,), in its chain's order."""
        return self.chains[self.chain[probe]].features(self.prefix[probe])
