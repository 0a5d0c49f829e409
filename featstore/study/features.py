"""The features of a study: models by data sets, and stores that are there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import featstore
from featstore.errors import BadStudy, FeatstoreError, PartMissing
from featstore.probe.errors import nearest
from featstore.study.layers import Layer
from featstore.study.records import Records, digest, stamp
from featstore.study.spec import Study, several, stated

_COLUMNS = {
    **{f"{name}_column": name for name in ("label", "image", "text", "split")},
    **{"label_kind": "kind", "delimiter": "delimiter", "encoding": "encoding"},
}
# Data sets that are files: their paths start where the study file lies.
_OF_FILES = ("folder", "npz", "csv", "parquet", "jsonl", "wds", "hf")


@dataclass(frozen=True)
class Feature:
    """Features of one model on one data set, to be had in a store.

    Attributes:
        name: of the study: "MODEL-DATASET", or a store's own.
        request: arguments of `featstore.extract`; empty for a store that is there.
        store: path of such a store.
        taps: which layers are probed; () is the store's first, ("all",) all of them.
        absent: why they cannot be had as the study stands.
    """

    name: str
    request: Mapping[str, Any] = field(default_factory=dict)
    store: Path | None = None
    taps: tuple[str, ...] = ()
    absent: str | None = None

    @property
    def part(self) -> str:
        """The name of its record."""
        return f"features/{self.name}"

    def fingerprint(self) -> str:
        """Return what the request is, and a stamp of each file and folder that it names."""
        paths = [self.request.get(name) for name in ("weights", "transform", "data_dir")]
        paths += [
            self.request[name].partition(":")[2].split("#")[0] for name in ("model", "dataset")
        ]
        stamps = [stamp(path) for path in paths if path and Path(str(path)).exists()]
        return digest([self.request, stamps])

    def found(self, made: Records) -> featstore.Store | None:
        """Return the complete store, without looking at the data; None if it must be extracted."""
        if self.store is not None:
            store = featstore.open(self.store)
            if not store.complete:
                raise PartMissing(f"{self.store} is incomplete: run what made it again")
            return store
        record = made.record(self.part)
        if record.get("fingerprint") != self.fingerprint():
            return None
        try:
            store = featstore.open(record["store"])
        except FeatstoreError:
            return None
        return store if store.spec.digest() == record["spec"] and store.complete else None


@dataclass(frozen=True)
class Source(Layer):
    """A tap of a store under the name that tables and figures give it."""

    def identity(self) -> list[str]:
        """Return what decides about its rows: the store's spec and the tap."""
        return [self.store.spec.digest(), self.tap]


def features_of(study: Study) -> list[Feature]:
    """Return the features of a study, in its order: groups of models and sets, then stores.

    Raises:
        UsageError: two have the same name, or a pattern of a probe matches none.
    """
    groups = study.features
    pairs = [(m, d) for m in study.models for d in study.datasets]
    if groups is not None:
        pairs = [(m, d) for group in groups for d in group.datasets for m in group.models]
    found = [_extracted(study, model, data) for model, data in dict.fromkeys(pairs)]
    found += [
        Feature(name, store=study.located(each.store), taps=tuple(several(each.taps)))
        for name, each in study.stores.items()
    ]
    names = [feature.name for feature in found]
    for name in names:
        if names.count(name) > 1:
            raise BadStudy(f"two features are called {name}: rename a model, a set or a store")
    for probe, each in study.probes.items():
        for pattern in several(each.features):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise BadStudy(
                    f"probe {probe} is of {pattern!r}, which is no feature; "
                    + nearest(pattern, names)
                )
    return found


def sources(feature: Feature, store: featstore.Store) -> list[Source]:
    """Return the taps of a feature that are probed; several are told apart by "@TAP"."""
    taps = feature.taps or (store.spec.taps[0].name,)
    taps = tuple(tap.name for tap in store.spec.taps) if taps == ("all",) else taps
    several_taps = len(taps) > 1
    return [
        Source(f"{feature.name}@{tap}" if several_taps else feature.name, store, tap)
        for tap in taps
    ]


def extract(feature: Feature, made: Records, progress) -> "featstore.Extraction":
    """Extract a feature's store, or find it complete, and note where it lies."""
    if feature.absent:
        raise PartMissing(feature.absent)
    fingerprint = feature.fingerprint()
    done = featstore.extract(**feature.request, progress=progress)
    facts = {"store": str(done.store.path), "spec": done.store.spec.digest()}
    facts |= {"seconds": done.seconds, "images": done.images_done}
    if done.reused:  # what it once took is known only where this study made it
        before = made.record(feature.part)
        known = before if before.get("spec") == facts["spec"] else {}
        facts |= {"seconds": known.get("seconds"), "images": known.get("images")}
    made.write(feature.part, fingerprint, **facts)
    return done


def _extracted(study: Study, model: str, data: str) -> Feature:
    options: dict[str, Any] = {}
    for part in (study.extract, study.datasets[data], study.models[model]):
        options |= stated(part)
    absent = options.pop("absent", None)
    columns = {name: options.pop(key) for key, name in _COLUMNS.items() if key in options}
    targets = tuple(several(options.pop("target_columns", ())))
    for key in ("taps", "splits", "pool"):
        if isinstance(options.get(key), str):
            options[key] = several(options[key])
    for key in ("weights", "transform", "data_dir"):
        if isinstance(options.get(key), str):
            options[key] = study.located(options[key])
    for key in ("model", "dataset"):
        options[key] = _located(study, options[key])
    if columns or targets:
        from featstore.data.columns import Columns

        options["columns"] = Columns(**columns, targets=targets)
    # in the store their names are safe ones; all that was asked for is there, and nothing else
    taps = (
        ("all",)
        if options.get("taps", "one") not in ("one", ["penultimate"], ("penultimate",))
        else ()
    )
    return Feature(f"{model}-{data}", options, taps=taps, absent=absent)


def _located(study: Study, name: str) -> str:
    """Return a name whose path, if it is one, starts from the study file's folder."""
    kind, colon, rest = name.partition(":")
    if not colon or kind not in (*_OF_FILES, "onnx"):
        return name
    path, hash_, tensor = rest.partition("#")
    here = study.located(path)
    relative = not os.path.isabs(path) and (here.exists() or "{" in path or "*" in path)
    return f"{kind}:{here}{hash_}{tensor}" if relative else name
