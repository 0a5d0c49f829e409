"""Tables of features themselves: CKA, spectrum, geometry, universality, attribution, retrieval."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from featstore.errors import BadStudy
from featstore.probe import retrieval
from featstore.probe.attribution import agreement, attributed
from featstore.probe.errors import seeds_of
from featstore.probe.geometry import geometry_table, likeness_table, universality
from featstore.probe.layers import spectrum_of
from featstore.probe.memory import Progress, Settings, silent
from featstore.probe.moments import cached_moments
from featstore.probe.results.files import save_table
from featstore.probe.similarity import cka_pair_table, cka_table, pairwise_hsic
from featstore.probe.subsets import Chain, random_order
from featstore.study.features import Source
from featstore.study.layers import Layer
from featstore.study.records import VERSION, Part, content, digest
from featstore.study.spec import Analyses, Study, several


@dataclass(frozen=True)
class Asked:
    """Analyses that are asked of layers, and what they share.

    Attributes:
        analyses: which tables, and their options.
        fractions: of features, where the analysis has none of its own.
        seeds: of random features.
        progress: callback.
    """

    analyses: Analyses
    fractions: Sequence[float]
    seeds: Sequence[int]
    progress: Progress = field(default=silent, compare=False)

    @classmethod
    def by(cls, study: Study, progress: Progress = silent) -> "Asked":
        """Return what a study asks of its layers."""
        return cls(study.analyses, study.fractions, list(seeds_of(study.seeds)), progress)

    def of(self, name: str) -> list:
        """Return what decides about an analysis beside the layers."""
        asked = self.analyses
        if name == "spectrum":
            return [name]
        if name == "cka":
            fractions = list(asked.cka_fractions or self.fractions)
            rows = asked.cka_rows if asked.cka_rows_from == "spread" else f"first {asked.cka_rows}"
            return [name, fractions, list(asked.cka_sizes), rows, list(self.seeds)]
        options = getattr(asked, SWITCH.get(name, name))
        shared = [list(self.fractions), list(self.seeds), asked.level]
        return [name, options.model_dump(), shared]


SWITCH = {"likeness": "geometry", "agreement": "attribution"}
"""Tables of pairs of layers that come with a table of each layer."""


def joined(folder: Path, names: list[str], kind: str) -> pd.DataFrame:
    """Return one table of all sources, in their order."""
    files = [_file(folder, name, kind) for name in names]
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


def cka(layer: Layer, asked: Asked) -> list[pd.DataFrame]:
    """Return CKA of random subsets with the layer, and with each other.

    It is linear and biased, on test rows and features at their own scale, as published.
    """
    analyses, store = asked.analyses, layer.store
    settings = Settings(moments_cache=store.moments_folder, progress=asked.progress)
    spread = analyses.cka_rows_from == "spread"
    blocks = layer.some(store.test_split(), analyses.cka_rows, spread)
    hsic = pairwise_hsic(cached_moments(blocks, settings, "test"))
    _, fractions, sizes, _, seeds = asked.of("cka")
    subsets = chains(len(hsic), fractions, sizes, seeds)
    return [cka_table(hsic, subsets), cka_pair_table(hsic, subsets)]


def spectrum(layer: Layer, asked: Asked) -> list[pd.DataFrame]:
    """Return the spectrum of the correlations of train rows, in numbers and whole."""
    settings = Settings(moments_cache=layer.store.moments_folder, progress=asked.progress)
    found = spectrum_of(cached_moments(layer.store.tap("train", layer.tap), settings))
    index = np.arange(1, len(found.eigenvalues) + 1)
    eigenvalues = pd.DataFrame({"index": index, "eigenvalue": found.eigenvalues})
    return [pd.DataFrame([found.numbers]), eigenvalues]


def geometry(layer: Layer, asked: Asked) -> list[pd.DataFrame]:
    """Return in how many dimensions test rows lie, by all features and by random ones."""
    own = asked.analyses.geometry
    rows = layer.some(layer.store.test_split(), own.rows)
    table, _ = geometry_table(
        {layer.name: rows},
        own.fractions or asked.fractions,
        asked.seeds,
        k=own.neighbours,
        metric=own.metric,
        progress=asked.progress,
    )
    return [table.drop(columns="name")]


def likeness(layers: Sequence[Layer], asked: Asked) -> pd.DataFrame:
    """Return what pairs of layers of the same test rows have in common."""
    own = asked.analyses.geometry
    return likeness_table(
        {layer.name: layer.some(layer.store.test_split(), own.rows) for layer in layers},
        k=own.neighbours,
        metric=own.metric,
        permutations=own.permutations,
        progress=asked.progress,
    )


def predicted(layer: Layer, other: Layer, asked: Asked) -> pd.DataFrame:
    """Return how well each feature of a layer is predicted from another layer of the same rows."""
    train, test = (
        tuple(each.rows(split) for each in (layer, other))
        for split in ("train", layer.store.test_split())
    )
    l2 = asked.analyses.universality.l2
    return universality(train, test, l2=l2, progress=asked.progress)


def attribution(layer: Layer, asked: Asked) -> list[pd.DataFrame]:
    """Return what each feature is worth, left out, by Shapley value and alone."""
    own = asked.analyses.attribution
    table, _ = attributed(
        layer.rows("train"),
        layer.rows(layer.store.test_split()),
        moments_cache=layer.store.moments_folder,
        level=asked.analyses.level,
        progress=asked.progress,
        **own.model_dump(),
    )
    return [table]


def retrieved(layer: Layer, asked: Asked) -> list[pd.DataFrame]:
    """Return how well fewer dimensions rank rows of the class of test rows."""
    own, tested = asked.analyses.retrieval, layer.store.test_split()
    corpus = "train" if own.corpus == "train" else tested
    found = retrieval(
        layer.rows(tested),
        layer.rows(corpus),
        own.fractions or asked.fractions,
        asked.seeds,
        mode=several(own.modes),
        within=corpus == tested,
        cutoff=own.cutoff,
        depth=own.depth,
        metric=own.metric,
        standardize=own.standardize,
        progress=asked.progress,
    )
    return [found.curves(own.measure, asked.analyses.level)]


OF_LAYERS: dict[str, tuple[Callable[[Layer, Asked], list[pd.DataFrame]], tuple[str, ...]]] = {
    "cka": (cka, ("cka", "cka_pairs")),
    "spectrum": (spectrum, ("spectrum", "eigenvalues")),
    "geometry": (geometry, ("geometry",)),
    "attribution": (attribution, ("attribution",)),
    "retrieval": (retrieved, ("retrieval",)),
}
"""Analyses of one layer, and the tables that each makes."""

OF_CLASSES = ("attribution", "retrieval")
"""Analyses that take classes; of layers with other labels they are left out."""


def wanted(layer: Layer, analyses: Analyses) -> Iterator[str]:
    """Yield the analyses of one layer that are asked for and can be made."""
    for name in OF_LAYERS:
        if getattr(analyses, name) and (name not in OF_CLASSES or layer.store.spec.n_classes):
            yield name


def alike(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Return layers of the same train and test rows together, of two layers or more."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        ids = [layer.store.ids(split) for split in ("train", layer.store.test_split())]
        groups.setdefault(digest(ids), []).append(layer)
    return [group for group in groups.values() if len(group) > 1]


def of_one_network(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Return layers whose features are the same, of other rows, together; of two layers or more."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(digest(layer.store.spec.of_tap(layer.tap)), []).append(layer)
    return [group for group in groups.values() if len(group) > 1]


def agreeing(tables: Sequence[dict[str, pd.DataFrame]], level: float) -> pd.DataFrame:
    """Return how far attributions of the same features agree, a row a pair of layers.

    By Shapley value where there is one, else by the loss without the feature.
    """
    found = []
    for group in tables:
        known = all("shapley" in table for table in group.values())
        found.append(agreement(group, "shapley" if known else "loss_change", level))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def tables_of(layers: Sequence[Layer], asked: Asked) -> dict[str, pd.DataFrame]:
    """Return each analysis that is asked for as one table, with a column `name` of layers.

    Raises:
        UsageError: universality is asked of layers of which no two have the same rows.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for layer in layers:
        for name in wanted(layer, asked.analyses):
            table = OF_LAYERS[name][0](layer, asked)[0]
            found.setdefault(name, []).append(table.assign(name=layer.name))
    every = {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}
    groups = alike(layers) if asked.analyses.geometry or asked.analyses.universality else []
    if asked.analyses.geometry and groups:
        pairs = [likeness(group, asked) for group in groups]
        every["likeness"] = pd.concat(pairs, ignore_index=True)
    if asked.analyses.universality:
        if not groups:
            raise BadStudy("universality is of two layers of the same rows, and no two are named")
        pairs = [
            predicted(layer, other, asked).assign(name=layer.name, other=other.name)
            for group in groups
            for layer, other in permutations(group, 2)
        ]
        every["universality"] = pd.concat(pairs, ignore_index=True)
    if "attribution" in every:
        known = {name: rows.reset_index() for name, rows in every["attribution"].groupby("name")}
        groups = [{each.name: known[each.name] for each in g} for g in of_one_network(layers)]
        if groups:
            every["agreement"] = agreeing(groups, asked.analyses.level)
    return every


def parts_of_sources(
    study: Study, sources: Sequence[Source], folder: Path, progress: Progress = silent
) -> list[Part]:
    """Return the tables of each source."""
    asked, parts = Asked.by(study, progress), []
    for source in sources:
        for name in wanted(source, study.analyses):
            found, kinds = OF_LAYERS[name]
            files = [_file(folder, source.name, kind) for kind in kinds]
            fingerprint = digest([VERSION, source.identity(), asked.of(name)])

            def make(source=source, found=found, files=files) -> None:
                for table, path in zip(found(source, asked), files, strict=True):
                    save_table(table.assign(store=source.name, tap=source.tap), path)

            parts.append(Part(f"features/{name}.{source.name}", fingerprint, files, make))
    return parts


def parts_of_pairs(
    study: Study, sources: Sequence[Source], folder: Path, progress: Progress = silent
) -> list[Part]:
    """Return the tables of pairs of sources: of the same rows, or of the same features.

    Those of attributions are read from the tables of each source.
    """
    asked, analyses = Asked.by(study, progress), study.analyses
    rows = alike(sources) if analyses.geometry or analyses.universality else []
    parts = []
    for group in rows if analyses.universality else []:
        for source in group:
            others = [
                other
                for other in group
                if other is not source and _named(other.name, analyses.universality.others)
            ]
            if others:
                parts.append(_of_others(source, others, asked, folder))

    def part(name: str, groups: list, inputs: list, make: Callable[[], pd.DataFrame]) -> None:
        path = folder / "tables" / f"{name}.csv"
        fingerprint = digest([VERSION, asked.of(name), inputs])
        if groups:
            parts.append(
                Part(f"tables/{name}", fingerprint, [path], lambda: save_table(make(), path))
            )

    if analyses.geometry:
        identities = [[(each.name, each.identity()) for each in group] for group in rows]
        part(
            "likeness",
            rows,
            identities,
            lambda: pd.concat([likeness(group, asked) for group in rows], ignore_index=True),
        )
    if analyses.attribution:
        groups = [
            {each.name: _file(folder, each.name, "attribution") for each in group}
            for group in of_one_network(sources)
        ]
        groups = [group for group in groups if all(path.exists() for path in group.values())]
        inputs = [{name: content(path) for name, path in group.items()} for group in groups]
        part(
            "agreement",
            groups,
            inputs,
            lambda: agreeing(
                [{n: pd.read_csv(path) for n, path in group.items()} for group in groups],
                analyses.level,
            ),
        )
    return parts


def _of_others(source: Source, others: Sequence[Source], asked: Asked, folder: Path) -> Part:
    path = _file(folder, source.name, "universality")
    known = [source.identity(), [(other.name, other.identity()) for other in others]]

    def make() -> None:
        tables = [predicted(source, other, asked).assign(other=other.name) for other in others]
        joined = pd.concat(tables, ignore_index=True)
        save_table(joined.assign(store=source.name, tap=source.tap), path)

    fingerprint = digest([VERSION, asked.of("universality"), known])
    return Part(f"features/universality.{source.name}", fingerprint, [path], make)


def _named(name: str, patterns: str | tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in several(patterns))


def _file(folder: Path, source: str, kind: str) -> Path:
    return folder / "features" / f"{source}.{kind}.csv"
