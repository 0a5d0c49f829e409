"""What features show without any probe: similarity of subsets to the layer, and the spectrum."""

from pathlib import Path

import numpy as np
import pandas as pd

from probe.blocks import RowBlocks
from probe.chains import Chain, random_order
from probe.moments_cache import cached_moments
from probe.parts import RowSubset
from probe.settings import Settings, silent
from probe.similarity import cka_pair_table, cka_table, pairwise_hsic
from probe.spectrum import spectrum_of
from probe.tables import save_table
from studies.features import Source
from studies.made import VERSION, Made, digest
from studies.spec import Study, seeds_of

KINDS = ("cka", "cka_pairs", "spectrum", "eigenvalues")
"""The tables of each source, and of all of them together."""


def make(study: Study, source: Source, made: Made, progress=silent) -> list[str]:
    """Write a source's tables that are not there; return the names of those written.

    CKA is linear and biased, on test rows and features at their own scale, as published; the
    spectrum is of the correlations of the train rows, as probes see them.
    """
    written = []
    for name, wanted, found in (
        ("cka", study.analyses.cka, _similarity),
        ("spectrum", study.analyses.spectrum, _spectrum),
    ):
        part = f"features/{name}.{source.name}"
        files = [made.folder / "features" / f"{source.name}.{kind}.csv" for kind in KINDS
                 if kind in _OF[name]]  # fmt: skip
        fingerprint = digest([VERSION, source.identity(), _asked(study, name)])
        if not wanted or made.fresh(part, fingerprint):
            continue
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for table, path in zip(found(study, source, progress), files, strict=True):
            save_table(table.assign(store=source.name, tap=source.tap), path)
        made.write(part, fingerprint, files)
        written.append(f"{name} of {source.name}")
    return written


_OF = {"cka": ("cka", "cka_pairs"), "spectrum": ("spectrum", "eigenvalues")}


def _asked(study: Study, name: str) -> list:
    asked = study.analyses
    if name == "spectrum":
        return [name]
    fractions = list(asked.cka_fractions or study.fractions)
    rows = asked.cka_rows if asked.cka_rows_from == "spread" else f"first {asked.cka_rows}"
    return [name, fractions, list(asked.cka_sizes), rows, seeds_of(study.seeds)]


def joined(folder: Path, names: list[str], kind: str) -> pd.DataFrame:
    """Return one table of all sources, in their order."""
    files = [folder / "features" / f"{name}.{kind}.csv" for name in names]
    tables = [pd.read_csv(path) for path in files if path.exists()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def chains(dim: int, fractions: list[float], sizes: list[int], seeds: list[int]) -> list[Chain]:
    """Return for each seed the chain of random features with all these sizes, rising.

    >>> [(chain.sizes, chain.seed) for chain in chains(40, [0.1, 0.5], [4, 8, 99], [1])]
    [((4, 8, 20), 1)]
    """
    asked = {int(f * dim): f for f in fractions if 1 <= int(f * dim) <= dim}
    asked |= {k: asked.get(k, k / dim) for k in sizes if k <= dim}
    counts = tuple(sorted(asked))
    shares = tuple(asked[k] for k in counts)
    return [Chain(random_order(dim, seed), counts, shares, "random", seed) for seed in seeds]


def _similarity(study: Study, source: Source, progress) -> list[pd.DataFrame]:
    asked = study.analyses
    blocks: RowBlocks = source.store.tap(source.store.test_split(), source.tap)
    settings = Settings(moments_cache=source.store.moments_folder, progress=progress)
    if asked.cka_rows is not None and asked.cka_rows < blocks.n_rows:
        rows = np.arange(asked.cka_rows)
        if asked.cka_rows_from == "spread":
            rows = np.linspace(0, blocks.n_rows - 1, asked.cka_rows).round().astype(int)
        blocks = RowSubset(blocks, rows)
    hsic = pairwise_hsic(cached_moments(blocks, settings, "test"))
    _, fractions, sizes, _, seeds = _asked(study, "cka")
    subsets = chains(len(hsic), fractions, sizes, seeds)
    return [cka_table(hsic, subsets), cka_pair_table(hsic, subsets)]


def _spectrum(study: Study, source: Source, progress) -> list[pd.DataFrame]:
    settings = Settings(moments_cache=source.store.moments_folder, progress=progress)
    found = spectrum_of(cached_moments(source.store.tap("train", source.tap), settings))
    index = np.arange(1, len(found.eigenvalues) + 1)
    eigenvalues = pd.DataFrame({"index": index, "eigenvalue": found.eigenvalues})
    return [pd.DataFrame([found.numbers]), eigenvalues]
