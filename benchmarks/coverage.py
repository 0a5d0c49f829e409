"""Coverage of the intervals, and errors of the test of classes, by simulation.

    python -m benchmarks.coverage --out docs/coverage.md
    python -m benchmarks.coverage --repeats 4 --sizes small

The truth is known since the probes are made up. A probe of seed s on a part f of the features has
test row i right if

    skill_f + seed_sf > difficulty_i + rest_sfi

with a difficulty that all probes share, and a rest that parts of one seed share in part. All is
normal, so a share of right rows is expected to be Phi(skill_f / sqrt(1 + rest^2 + seed_f^2)). The
whole layer is one probe. What is held against it are the intervals of the package, and those of the
bootstrap that they replaced. Other scores than accuracy are of probes whose logits are made up.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from featstore.probe import drop_one
from featstore.probe.classes import affected_classes
from featstore.probe.ranking import parts_of_areas
from featstore.probe.redundancy import interpolated, of_curve
from featstore.probe.results import score_name
from featstore.probe.results.curves import Curve, difference
from featstore.probe.results.evidence import parts

LEVEL = 0.95
REST = 0.9
"""Standard deviation of what a probe does to a row, where the rows' difficulty has 1."""

FRACTIONS = np.array([0.05, 0.1, 0.2, 0.5, 1.0])
ACCURACIES = np.array([0.54, 0.62, 0.68, 0.73, 0.75])
SEED_SPREAD = np.array([0.05, 0.04, 0.03, 0.015, 0.0])
"""Standard deviation of seeds in units of difficulty: 1.2 points of accuracy at a tenth."""

TENTH, WHOLE, DELTA = 1, 4, 0.9
MOST_ROWS = 6_000_000
"""Test rows of all repeats of a line together, at most: with 10,000 rows there are 600 repeats."""

SIZES = {
    "full": {"rows": (500, 3000, 10_000), "seeds": (1, 3, 5, 10)},
    "small": {"rows": (100,), "seeds": (1, 3)},
}


def skills(accuracies: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the skills at which these accuracies are expected over seeds and rows."""
    return norm.ppf(accuracies) * np.sqrt(1 + REST**2 + spread**2)


@dataclass(frozen=True)
class Sample:
    """Three curves on the same test rows: of random features, of a mode, and of a solver.

    The mode draws features of its own by the same seeds; the solver takes the same features.
    `truths` is what each interval should hold: of several seeds what is expected of all seeds and
    rows, of one seed what is expected of all rows.
    """

    random: Curve
    mode: Curve
    solver: Curve
    truths: dict[str, float]


MODE_GAIN, SOLVER_GAIN = 0.02, 0.01
"""By how much more of the rows the mode and the solver have right, with a tenth and in full."""


def drawn(n_seeds: int, n: int, random: np.random.Generator) -> Sample:
    """Return a sample of seeds and test rows."""
    n_parts, difficulty = WHOLE, random.standard_normal(n, np.float32)
    common = 0.8 * random.standard_normal((n_seeds, 1))
    seed = (common + 0.6 * random.standard_normal((n_seeds, n_parts))) * SEED_SPREAD[:n_parts]
    rest = random.standard_normal((n_seeds, n_parts, n), np.float32)
    for place in range(1, n_parts):  # a part holds the smaller ones
        rest[:, place] *= np.float32(np.sqrt(0.51))
        rest[:, place] += np.float32(0.7) * rest[:, place - 1]
    whole = random.standard_normal((1, n), np.float32)
    at_tenth, fresh = rest[:, TENTH], random.standard_normal((2, n_seeds, n), np.float32)
    skill = skills(ACCURACIES, SEED_SPREAD)

    def right(skill: np.ndarray, seeds: np.ndarray, rest: np.ndarray) -> np.ndarray:
        line = np.asarray(skill + seeds, np.float32)[..., None]
        return line > difficulty + np.float32(REST) * rest

    full = right(skill[WHOLE], np.zeros(1), whole)
    spread, two = SEED_SPREAD[[TENTH]], [TENTH, WHOLE]
    of_mode = skills(ACCURACIES[[TENTH]] + MODE_GAIN, spread)
    own = spread * random.standard_normal((n_seeds, 1))
    of_solver = skills(ACCURACIES[[TENTH]] + SOLVER_GAIN, spread)
    alike = 0.8 * at_tenth + 0.6 * fresh[1]
    near = 0.9 * seed[:, [TENTH]] + np.sqrt(0.19) * spread * random.standard_normal((n_seeds, 1))
    one = np.append(skill[:n_parts] + seed[0], skill[WHOLE]) if n_seeds == 1 else None
    return Sample(
        _curve(FRACTIONS, right(skill[:n_parts], seed, rest), full),
        _curve(FRACTIONS[two], right(of_mode, own, fresh[0][:, None]), full),
        _curve(FRACTIONS[two], right(of_solver, near, alike[:, None]), full),
        expected(one, of_mode + own[0], of_solver + near[0]),
    )


def _curve(fractions: np.ndarray, parts: np.ndarray, full: np.ndarray) -> Curve:
    """Return a curve of parts (S, F - 1, n) and a full layer (1, n) that all seeds share."""
    n_seeds, n_parts, n = parts.shape
    evidence = np.concatenate([parts.reshape(-1, n), full])
    rows = np.full((n_seeds, n_parts + 1), len(evidence) - 1)
    rows[:, :-1] = np.arange(n_seeds * n_parts).reshape(n_seeds, n_parts)
    scores = evidence.mean(1)[rows]
    sizes = np.round(1000 * fractions).astype(np.int64)
    seeds = tuple(range(n_seeds))
    return Curve({}, "accuracy", fractions, sizes, seeds, scores, rows, evidence)


NAMES = ("accuracy", "full layer", "ratio", "DR(0.9)", "mode - random", "solver - solver")


def expected(one: np.ndarray | None, mode: np.ndarray, solver: np.ndarray) -> dict[str, float]:
    """Return what each interval should hold; `one`, `mode` and `solver` are one seed's skills."""

    def accuracy(skill: np.ndarray) -> np.ndarray:
        return norm.cdf(skill / np.sqrt(1 + REST**2))

    accuracies, gains = (ACCURACIES, (MODE_GAIN, SOLVER_GAIN))
    if one is not None:
        accuracies = accuracy(one)
        gains = tuple(float(accuracy(each)[0]) - accuracies[TENTH] for each in (mode, solver))
    ratios = accuracies / accuracies[WHOLE]
    kept = interpolated(FRACTIONS, ratios[None], DELTA)[0]
    values = (accuracies[TENTH], accuracies[WHOLE], ratios[TENTH], 1 - kept, *gains)
    return dict(zip(NAMES, values, strict=True))


Ends = dict[str, tuple[float, float]]


def ends(sample: Sample) -> Ends:
    """Return the intervals of the package."""
    low, high, _ = sample.random.mean_interval(LEVEL)
    ratio_low, ratio_high, _ = sample.random.ratio_interval(LEVEL)
    (dr,) = of_curve(sample.random, [DELTA], ["interpolated"], LEVEL)
    found = [
        (low[TENTH], high[TENTH]),
        (low[WHOLE], high[WHOLE]),
        (ratio_low[TENTH], ratio_high[TENTH]),
        (dr["low"], dr["high"]),
        difference(sample.mode, sample.random, 0, TENTH).interval(LEVEL),
        difference(sample.solver, sample.random, 0, TENTH).interval(LEVEL),
    ]
    return dict(zip(NAMES, found, strict=True))


def former_ends(sample: Sample, random: np.random.Generator, resamples: int = 400) -> Ends:
    """Return the intervals that these replaced.

    Seeds and rows were drawn again independently, and the means of resamples moved away from the
    sample's by t/z sqrt(S / (S - 1)); differences were Student's, over seeds alone.
    """
    curve = sample.random
    n_seeds, n = curve.scores.shape[0], curve.evidence.shape[1]
    units = n_seeds if n_seeds > 1 else n
    times = np.stack(
        [np.bincount(random.integers(n, size=n), minlength=n) for _ in range(resamples)]
    ).astype(np.float32)
    sums = times @ curve.evidence.T.astype(np.float32)
    scores = (sums / n)[:, curve.rows]
    seeds = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds
    middle = (1 + LEVEL) / 2
    wider = t.ppf(middle, units - 1) / norm.ppf(middle) * np.sqrt(units / (units - 1))

    def widened(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return mean + wider * (np.einsum("bs,bsf->bf", seeds, values) - mean)

    accuracy = widened(scores, curve.mean())
    ratio = widened(scores / scores[:, :, [WHOLE]], curve.ratio())
    found = [accuracy[:, TENTH], accuracy[:, WHOLE], ratio[:, TENTH]]
    found.append(1 - interpolated(FRACTIONS, ratio, DELTA))
    bounds = [tuple(np.nanquantile(each, [1 - middle, middle])) for each in found]
    for other in (sample.mode, sample.solver):
        gaps = other.scores[:, 0] - curve.scores[:, TENTH]
        error = gaps.std(ddof=1) / np.sqrt(n_seeds) if n_seeds > 1 else np.nan
        reach = t.ppf(middle, max(n_seeds - 1, 1)) * error
        bounds.append((gaps.mean() - reach, gaps.mean() + reach))
    return dict(zip(NAMES, bounds, strict=True))


@dataclass(frozen=True)
class Held:
    """Share of intervals that held the truth, and their mean width."""

    share: float
    width: float

    @classmethod
    def of(cls, found: Sequence[Ends], truths: Sequence[dict[str, float]], name: str) -> "Held":
        """Read the intervals of one name off all repeats."""
        low, high = np.array([each[name] for each in found]).T
        truth = np.array([each[name] for each in truths[: len(found)]])
        held = (low <= truth) & (truth <= high)
        return cls(float(held.mean()), float(np.mean(high - low)))


def coverage(n_seeds: int, n: int, repeats: int, former: int) -> list[tuple[str, Held, Held]]:
    """Return of each number its intervals' coverage, now and formerly, over so many repeats."""
    random = np.random.default_rng([n_seeds, n])
    now, before, truths = [], [], []
    for repeat in range(min(repeats, MOST_ROWS // n)):
        sample = drawn(n_seeds, n, random)
        truths.append(sample.truths)
        now.append(ends(sample))
        if repeat < former:
            before.append(former_ends(sample, random))
    return [(name, Held.of(now, truths, name), Held.of(before, truths, name)) for name in NAMES]


CLASSES = {"full": ((10, 100), (37, 65)), "small": ((4, 20),)}
WOBBLES = (0.0, 0.1)
"""Standard deviations of a seed's skill on a class; 0.1 is 2.5 points of accuracy."""


def equal_losses(
    n_classes: int, per_class: int, n_seeds: int, wobble: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return who is right, by the part and by the whole layer (S, n), and the labels.

    Classes have from 70 to 95 % right by the whole layer, and 15 points less by the part.
    """
    labels = np.repeat(np.arange(n_classes), per_class)
    right = np.linspace(0.7, 0.95, n_classes)
    difficulty = random.standard_normal(len(labels))
    seeds = wobble * random.standard_normal((n_seeds, n_classes))
    rest = REST * random.standard_normal((n_seeds + 1, len(labels)))
    full = skills(right, np.zeros(n_classes))[labels] > difficulty + rest[-1]
    part = (skills(right - 0.15, np.full(n_classes, wobble)) + seeds)[:, labels] > (
        difficulty + rest[:-1]
    )
    return part, np.broadcast_to(full, part.shape), labels


def former_p_value(
    part: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    random: np.random.Generator,
    resamples: int = 300,
) -> float:
    """Return the p-value of the test that this one replaced: seeds and rows drawn again."""
    lost, counts = full.astype(np.float32) - part, np.bincount(labels)
    n_seeds = len(lost)
    seeds = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds
    loss, shift = np.empty(len(counts)), np.empty((resamples, len(counts)))
    for label, n in enumerate(counts):
        rows = lost[:, labels == label]
        times = random.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float32)
        loss[label] = rows.mean()
        means = ((times @ rows.T) * seeds).sum(1) / n
        shift[:, label] = (means - loss[label]) * np.sqrt(n / (n - 1))
    largest = (np.abs(shift - shift.mean(1, keepdims=True)) * np.sqrt(counts)).max(1)
    return float(
        (1 + (largest >= (np.abs(loss - loss.mean()) * np.sqrt(counts)).max()).sum())
        / (1 + resamples)
    )


def errors(
    n_classes: int, per_class: int, n_seeds: int, wobble: float, repeats: int, former: int
) -> tuple[float, float]:
    """Return how often equal losses are called unequal at 0.05, now and formerly."""
    random = np.random.default_rng([n_classes, per_class, n_seeds, round(100 * wobble)])
    called, before = [], []
    for repeat in range(repeats):
        sample = equal_losses(n_classes, per_class, n_seeds, wobble, random)
        called.append(affected_classes(*sample, resamples=400).p_value <= 0.05)
        if repeat < former:
            before.append(former_p_value(*sample, random) <= 0.05)
    return float(np.mean(called)), float(np.mean(before))


DEGRADING = {
    "full": (
        ("ridge", 300, 16),
        ("ridge", 1000, 40),
        ("ridge", 3000, 16),
        ("lda", 300, 16),
        ("lda", 1000, 40),
    ),
    "small": (("ridge", 100, 8),),
}
"""Solver, test rows and features of the tables in which no feature changes anything."""


def degrading(solver: str, n: int, width: int, repeats: int) -> float:
    """Return how often a table names a degrading feature where none is, at 0.05 for all at once.

    Labels of the test rows are drawn without a look at them, so that every probe is at chance.
    """
    random = np.random.default_rng([n, width, len(solver)])
    classes, n_train = 3, 8 * width
    means = random.normal(size=(classes, width))
    labels = np.arange(n_train) % classes
    train = 2 * random.normal(size=(n_train, width)) + means[labels], labels
    named = 0
    for repeat in range(repeats):
        own = random.integers(0, classes, n)
        x = 2 * random.normal(size=(n, width)) + means[own]
        test = x, random.integers(0, classes, n)
        table = drop_one(train, test, solver, 0.1, resamples=400, seed=repeat, device="cpu")
        named += bool(table["degrading"].any())
    return named / repeats


SHARES = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
"""Shares of the classes whose other scores than accuracy are simulated."""

SKILL, SKILL_SPREAD, FULL_SKILL = 1.2, 0.1, 1.8
"""By how much a label's logit is larger: of a part, its standard deviation, of the full layer."""

SCORES = {
    "full": {"rows": (300, 2000), "seeds": (1, 5), "truth": (400_000,)},
    "small": {"rows": (60,), "seeds": (1, 3), "truth": (2000,)},
}
OF_SCORES = (
    *("balanced_accuracy", "macro_f1", "weighted_f1", "kappa", "top2"),
    *("auroc", "average_precision"),
)


def by_row(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of rows in each score of a probe's logits (n, C), float32 (n,) each."""
    predicted, (n, n_classes) = logits.argmax(1), logits.shape
    own = logits[np.arange(n), labels]
    second = np.count_nonzero(logits > own[:, None], axis=1) < 2
    facts = {"balanced_accuracy": predicted == labels, "top2": second}
    found = {
        name: parts(name, facts.get(name, predicted), labels).astype(np.float32)
        for name in OF_SCORES[:5]
    }
    present = np.flatnonzero(np.bincount(labels, minlength=n_classes))
    _, areas = parts_of_areas(np.ascontiguousarray(logits.T)[present], labels, present)
    means = [np.asarray(each).mean(0).astype(np.float32) for each in areas]
    return found | dict(zip(OF_SCORES[5:], means, strict=True))


def logits_of(skill: float, hard: np.ndarray, labels: np.ndarray, random) -> np.ndarray:
    """Return the logits of a probe (n, C): its skill, what all probes find hard, and its own."""
    found = hard + REST * random.standard_normal(hard.shape)
    found[np.arange(len(labels)), labels] += skill
    return found


@cache
def expected_scores(n: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """Return skills, each score at them, and the full layer's, of n rows."""
    random = np.random.default_rng(7)
    skills = SKILL + SKILL_SPREAD * np.linspace(-5, 5, 9)
    labels = random.choice(len(SHARES), n, p=SHARES)
    hard = random.standard_normal((len(labels), len(SHARES)))
    every = [
        {name: float(own.mean(dtype=float)) for name, own in by_row(logits, labels).items()}
        for logits in (logits_of(skill, hard, labels, random) for skill in (*skills, FULL_SKILL))
    ]
    return skills, {n: np.array([each[n] for each in every[:-1]]) for n in OF_SCORES}, every[-1]


def coverage_of_scores(
    n_seeds: int, n: int, repeats: int, truth: int
) -> list[tuple[str, Held, Held]]:
    """Return of each score the coverage of the intervals of a part's mean and of its ratio.

    What they should hold is read off so many rows: `truth`.
    """
    random = np.random.default_rng([n_seeds, n, 11])
    skills, known, full = expected_scores(truth)
    quantiles = SKILL + SKILL_SPREAD * norm.ppf((np.arange(200) + 0.5) / 200)
    found: dict[str, list[Ends]] = {name: [] for name in OF_SCORES}
    truths: dict[str, list[dict[str, float]]] = {name: [] for name in OF_SCORES}
    for _ in range(repeats):
        labels = random.choice(len(SHARES), n, p=SHARES)
        hard = random.standard_normal((n, len(SHARES)))
        own = SKILL + SKILL_SPREAD * random.standard_normal(n_seeds)
        probes = [
            by_row(logits_of(skill, hard, labels, random), labels) for skill in (*own, FULL_SKILL)
        ]
        for name in OF_SCORES:
            evidence = np.stack([each[name] for each in probes])
            rows = np.array([[seed, n_seeds] for seed in range(n_seeds)])
            scores, two = evidence.mean(1, dtype=np.float64)[rows], np.array([0.1, 1.0])
            sizes = np.array([100, 1000])
            curve = Curve({}, name, two, sizes, tuple(range(n_seeds)), scores, rows, evidence)
            low, high, _ = curve.mean_interval(LEVEL)
            ratio_low, ratio_high, _ = curve.ratio_interval(LEVEL)
            drawn_from = own if n_seeds == 1 else quantiles
            mean = float(np.interp(drawn_from, skills, known[name]).mean())
            found[name].append({"mean": (low[0], high[0]), "ratio": (ratio_low[0], ratio_high[0])})
            truths[name].append({"mean": mean, "ratio": mean / full[name]})
    return [
        (name, *(Held.of(found[name], truths[name], which) for which in ("mean", "ratio")))
        for name in OF_SCORES
    ]


HEAD = """# Coverage

`python -m benchmarks.coverage --out docs/coverage.md` makes this page anew: how often 95 %
intervals hold what they should, and how often the test of classes calls equal losses unequal at
0.05. The probes are made up, so that the truth is known. Test rows are of different difficulty to
all probes; seeds draw parts of different skill; parts of one seed hold each other; the whole layer
is one probe, and has {full:.0%} of the rows right. A tenth of the features has {tenth:.0%}, with
seeds {spread:.1f} points apart (standard deviation). There were {repeats:,} repeats of each line
({fewest:,} with 10,000 rows), and {former:,} of what is called former: the standard error of a
coverage of 95 % is {error:.1%} ({fewest_error:.1%}), and {former_error:.1%}.

No interval holds what other train rows would change, and nothing here says it.

## Intervals

Seeds and test rows are drawn anew in each repeat. *Former* intervals drew seeds and rows again, and
widened both by Student's t for few seeds; former differences were Student's, over seeds alone. Of
several seeds intervals are of the mean over all seeds. Of one seed they are over test rows alone,
and of the features that this seed drew: that is what they are held against.
"""

CLASSES_HEAD = """
## Who pays

All classes lose the same by the part. *Seeds by class* is the standard deviation of a seed's skill
on a class, in units of the rows' difficulty: 0.1 is about 2.5 points of accuracy. Of one seed the
claim is about this seed's features, so that there is none. There were {tests:,} repeats of each
line: the standard error of 0.05 is {test_error:.3f}.
"""


DEGRADING_HEAD = """
## Degrading features

Test labels are drawn without a look at the rows, so that no feature changes any accuracy in
truth. *Named* is the share of tables of `probe.drop_one` in which a feature is called degrading all
the same; 0.05 is allowed for all features at once. There were {tables:,} tables of each line: the
standard error of 0.05 is {table_error:.3f}. `python -m benchmarks.coverage --only degrading` makes
this section alone.
"""


SCORES_HEAD = """
## Other scores of classes

Five classes have {shares} % of the rows. Logits are normal about 0, of
which what all probes find hard and each probe's own are parts, and a label's is larger by a skill
that differs from seed to seed. What intervals should hold is read off {truth:,} rows. Intervals
take each row's part in the score. There were {scores:,} repeats of each line: the standard error of
95 % is {scores_error:.1%}. Average precision of few rows is itself too high on average, by 0.02
with 300 rows, of which 15 are of the rarest class, and its intervals hold less there.
`python -m benchmarks.coverage --only scores` makes this section alone.
"""


def _scores_section(repeats: int, sizes: str, jobs: int) -> list[str]:
    """Simulate scores of several classes, and return the section about their intervals."""
    asked = SCORES[sizes]
    lines = list(product(asked["seeds"], asked["rows"]))
    truth, rows = asked["truth"][0], []
    done = _done([(coverage_of_scores, (*line, repeats, truth)) for line in lines], jobs)
    for place, name in enumerate(OF_SCORES):
        for (n_seeds, n), each in zip(lines, done, strict=True):
            _, mean, ratio = each[place]
            cells = [f"{mean.share:.1%}", f"{mean.width:.3f}", f"{ratio.share:.1%}"]
            rows.append([score_name(name), n_seeds, f"{n:,}", *cells, f"{ratio.width:.3f}"])
    head = SCORES_HEAD.format(
        shares=", ".join(f"{100 * share:g}" for share in SHARES),
        truth=truth,
        scores=repeats,
        scores_error=np.sqrt(0.0475 / repeats),
    )
    headings = ["of", "seeds", "test rows", "coverage", "width", "of the ratio", "its width"]
    return [head, *_table(headings, rows)]


def _degrading_section(repeats: int, sizes: str, jobs: int) -> list[str]:
    """Simulate tables of features that change nothing, and return the section about them."""
    lines = DEGRADING[sizes]
    found = _done([(degrading, (*line, repeats)) for line in lines], jobs)
    rows = [
        [solver, f"{n:,}", width, f"{share:.3f}"]
        for (solver, n, width), share in zip(lines, found, strict=True)
    ]
    head = DEGRADING_HEAD.format(tables=repeats, table_error=np.sqrt(0.0475 / repeats))
    return [head, *_table(["solver", "test rows", "features", "named"], rows)]


def page(repeats: int, former: int, sizes: str, jobs: int = 1) -> str:
    """Simulate in so many processes, and return the page."""
    asked = SIZES[sizes]
    lines = list(product(asked["seeds"], asked["rows"]))
    tests = [
        (*shape, n_seeds, wobble)
        for shape, n_seeds in product(CLASSES[sizes], asked["seeds"])
        for wobble in (WOBBLES if n_seeds > 1 else WOBBLES[:1])
    ]
    # the long ones first
    tasks = [(coverage, (*line, repeats, former)) for line in reversed(lines)]
    tasks += [(errors, (*test, 2 * repeats, former)) for test in tests]
    done = _done(tasks, jobs)
    held, called = done[: len(lines)][::-1], done[len(lines) :]
    rows = []
    for place in range(len(NAMES)):
        for (n_seeds, n), each in zip(lines, held, strict=True):
            name, now, before = each[place]
            known = not np.isnan(before.width)
            was = [f"{before.share:.1%}", f"{before.width:.3f}"] if known else ["", ""]
            rows.append([name, n_seeds, f"{n:,}", f"{now.share:.1%}", f"{now.width:.3f}", *was])
    classes = [
        [f"{n_classes} x {per_class}", n_seeds, f"{wobble:g}", *(f"{each:.3f}" for each in both)]
        for (n_classes, per_class, n_seeds, wobble), both in zip(tests, called, strict=True)
    ]
    head = HEAD.format(
        full=ACCURACIES[WHOLE],
        tenth=ACCURACIES[TENTH],
        repeats=repeats,
        fewest=min(repeats, MOST_ROWS // 10_000),
        former=former,
        spread=100
        * SEED_SPREAD[TENTH]
        * norm.pdf(norm.ppf(ACCURACIES[TENTH]))
        / np.sqrt(1 + REST**2),
        error=np.sqrt(0.0475 / repeats),
        fewest_error=np.sqrt(0.0475 / min(repeats, MOST_ROWS // 10_000)),
        former_error=np.sqrt(0.0475 / former),
    )
    headings = ["of", "seeds", "test rows", "coverage", "width", "former coverage", "former width"]
    of_tests = CLASSES_HEAD.format(tests=2 * repeats, test_error=np.sqrt(0.0475 / 2 / repeats))
    of_classes = ["classes x rows", "seeds", "seeds by class", "called unequal", "formerly"]
    told = [head, *_table(headings, rows), of_tests, *_table(of_classes, classes)]
    told += _scores_section(max(1, repeats // 2), sizes, jobs)
    return "\n".join([*told, *_degrading_section(repeats, sizes, jobs), ""])


def _done(tasks: Sequence[tuple[Callable[..., Any], tuple]], jobs: int) -> list[Any]:
    """Return what each of the functions returns, called in so many processes."""
    if jobs == 1:
        return [function(*arguments) for function, arguments in tasks]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = [pool.submit(function, *arguments) for function, arguments in tasks]
        return [each.result() for each in found]


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [headings, ["--:"] * len(headings), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--former", type=int, default=200, help="repeats of what was replaced")
    parser.add_argument("--sizes", choices=list(SIZES), default="full")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", choices=["degrading", "scores"], help="this section alone")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    if asked.only:
        section, part = {"degrading": (_degrading_section, 1), "scores": (_scores_section, 2)}[
            asked.only
        ]
        print("\n".join(section(max(1, asked.repeats // part), asked.sizes, asked.jobs)))
        return
    text = page(asked.repeats, min(asked.former, asked.repeats), asked.sizes, asked.jobs)
    if asked.out:
        asked.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
