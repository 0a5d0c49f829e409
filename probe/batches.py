"""Which systems are factorised, held and run over the rows together."""

from dataclasses import dataclass, replace

from probe.axes import Axes
from probe.basis import FEATURES, Basis
from probe.budget import SolvePlan, SystemSize


@dataclass(frozen=True)
class Batch:
    """Systems, each a (chain, penalty), whose chains have one basis and the same prefix sizes."""

    systems: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    basis: Basis = FEATURES

    @property
    def length(self) -> int:
        """The number of features of the largest prefix."""
        return self.sizes[-1]


def grouped(axes: Axes, plan: SolvePlan, largest: SystemSize) -> list[list[Batch]]:
    """Return all systems in batches, and the batches in groups whose factors are held together.

    Chains of other prefix sizes never share a batch, so that nothing is padded, nor do those on
    other bases.
    """
    alike: dict[tuple[Basis, tuple[int, ...]], list[tuple[int, int]]] = {}
    for number, chain in enumerate(axes.chains):
        systems = [(number, penalty) for penalty in range(len(axes.penalties))]
        alike.setdefault((chain.basis, chain.sizes), []).extend(systems)
    groups: list[list[Batch]] = [[]]
    held = 0
    for (basis, sizes), systems in alike.items():
        width = largest.width if basis != FEATURES else 0
        size = replace(largest, length=sizes[-1], n_prefixes=len(sizes), width=width)
        count = _batch_size(size, plan)
        for start in range(0, len(systems), count):
            batch = Batch(tuple(systems[start : start + count]), sizes, basis)
            needed = len(batch.systems) * size.held
            if groups[-1] and held + needed > plan.held:
                groups.append([])
                held = 0
            groups[-1].append(batch)
            held += needed
    return groups


def _batch_size(size: SystemSize, plan: SolvePlan) -> int:
    by_factor = plan.transient // size.transient
    by_rows = plan.working // (plan.rows * size.row)
    return max(1, min(by_factor, by_rows, plan.held // size.held))
