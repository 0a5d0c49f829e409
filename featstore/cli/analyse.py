"""`featstore attribute`, `cka`, `classes`, `compare`, `redundancy` and `spectrum`."""

from pathlib import Path

import click

from featstore.cli import screen
from featstore.cli.common import (
    DELTA,
    FILE,
    LEVEL,
    MEMORY,
    MODE,
    ON,
    PICTURE,
    SCALED,
    SCORE,
    SEEDS,
    STORE,
    TABLE,
    TABLE_OR_PICTURE,
    TAP,
    TEST_SPLIT,
    Command,
    Names,
    NumberList,
    scaled,
    solver_of,
    takes_solver,
    to_file,
)
from featstore.cli.screen import Progress, first_notice, notice, tested_on

_MOST_LAYERS = 10  # columns of a printed matrix


@click.command(cls=Command)
@click.argument("stores", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]...")
@TAP
@click.option(
    "--fractions",
    type=NumberList(float, "0.01,0.1"),
    metavar="LIST",
    help="Shares of the features, in (0, 1].  [default: 0.01,0.02,0.05,0.1,0.2,0.5]",
)
@SEEDS
@click.option("--split", help="Split whose rows are taken.  [default: test, or validation]")
@click.option("--rows", type=int, help="How many rows, drawn at random.  [default: all]")
@click.option("--row-seed", type=int, default=0, help="Seed that draws these rows.")
@click.option("--debiased", is_flag=True, help="The unbiased estimate of HSIC; one more pass.")
@scaled(False)
@MEMORY
@ON
@to_file("--out", TABLE, "Save one row a subset, and one a pair of them: .csv, .json or .parquet.")
@click.option(
    "--matrix",
    type=TABLE_OR_PICTURE,
    metavar="FILE",
    help="Save or draw the similarity of layers to each other.",
)
@to_file("--plot", PICTURE, "Draw CKA with the whole layer against fraction.")
def cka(stores, tap, split, rows, out, matrix, plot, **options) -> None:
    """Compare random subsets of a layer with all of it, and with each other, by linear CKA.

    Several layers, of one store or of stores of the same rows (by their ids; labels may differ),
    are compared with each other too. As published, CKA is the biased estimate on features that are
    centred and not scaled; the paper takes 1,000 test images.

    \b
    Example:
      featstore cka mine.zarr --fractions 0.05,0.1,0.5 --seeds 5 --rows 1000
      featstore cka resnet.zarr#layer4 vit.zarr --matrix cka.pdf
    """
    import pandas as pd

    from featstore.probe.layers import layer_similarity
    from featstore.probe.results import features
    from featstore.probe.results.files import save_table
    from featstore.probe.results.sentences import of_similarity
    from featstore.study.layers import check_same_rows, layers_of

    layers = layers_of(stores, tap)
    if matrix and len(layers) < 2:
        raise click.UsageError("a matrix needs two layers: name several stores, or --taps all")
    split = tested_on(layers[0].store, split)
    check_same_rows(layers, split)
    with Progress() as progress:
        found = layer_similarity(
            {layer.name: layer.rows(split) for layer in layers},
            n_rows=rows,
            moments_cache=layers[0].store.moments_folder,
            progress=progress,
            **options,
        )
    how = f"{'debiased' if options['debiased'] else 'biased'}, {found.n_rows:,} {split} rows"
    names = [layer.name for layer in layers]

    def of_layer(name: str) -> tuple:
        return tuple(each[each["name"] == name] for each in (found.to_full, found.pairs))

    screen.show(
        *(features.similarity(*of_layer(name), f"{name}: linear CKA ({how})") for name in names),
        *_matrix(found.layers, how),
        of_similarity(found.to_full, found.pairs),
        *([features.of_layers(found.layers)] if len(layers) > 1 else []),
    )
    if out:
        save_table(pd.concat([found.to_full, found.pairs], ignore_index=True), out)
    if matrix:
        _save_matrix(found.layers, matrix)
    if plot:
        from featstore.probe.figures import cka_against_fraction

        cka_against_fraction(found.to_full, plot)
    for path in filter(None, (out, matrix, plot)):
        notice(f"wrote {path}")


def _matrix(table, how: str) -> list:
    """Lay out the similarity of layers, where there are several and they fit."""
    from featstore.probe.results import features

    if len(table) < 2:
        return []
    if len(table) > _MOST_LAYERS:
        notice(f"{len(table)} layers are too many to print: --matrix saves or draws them")
        return []
    return [features.similarity_of_layers(table, f"linear CKA of whole layers ({how})")]


def _save_matrix(table, path) -> None:
    if path.suffix.lower() in PICTURE.suffixes:
        from featstore.probe.figures import cka_matrix

        cka_matrix(table, path)
        return
    from featstore.probe.results.files import save_table

    save_table(table.rename_axis("name").reset_index(), path)


@click.command(cls=Command)
@click.argument("per_class", type=FILE)
@click.option(
    "--fraction",
    type=float,
    default=0.1,
    help="Share of the features at which losses are told; the nearest.",
)
@click.option(
    "--predictions",
    type=FILE,
    metavar="FILE",
    help="What `probe --save-predictions` wrote in the same run: tests whether some classes are "
    "affected more than others.",
)
@click.option("--most", type=click.IntRange(1), default=10, help="How many classes to show.")
@LEVEL
@click.option("--resamples", type=int, default=2000, help="Draws behind the test of classes.")
@click.option("--seed", type=int, default=0, help="Seed of the bootstrap.")
@to_file("--out", TABLE, "Save what each class loses at each fraction: .csv, .json or .parquet.")
@to_file("--inequality", TABLE, "Save the inequality over classes at each fraction, likewise.")
@to_file(
    "--plot", PICTURE, "Draw the accuracy on each class against the fraction: .png, .svg or .pdf."
)
def classes(
    per_class, fraction, predictions, most, out, inequality, plot, level, resamples, seed
) -> None:
    """Show which classes pay for fewer features, and how unequal classes become.

    PER_CLASS is what `featstore probe --save-per-class` wrote. The Gini coefficient is of each
    seed's accuracies on classes and, as published, of their means over seeds. What classes lose is
    paired by seed, with intervals over seeds and, with predictions, over test rows too: for all
    classes at once then, as an excess over the mean of the classes.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.01,0.05,0.1,0.5 --seeds 5 \\
        --save-per-class per_class.csv --save-predictions predictions.npz
      featstore classes per_class.csv --predictions predictions.npz \\
        --fraction 0.1 --plot classes.pdf
    """
    from featstore.probe.classes import affected_of_curves, class_losses, inequality_table, near
    from featstore.probe.results import views
    from featstore.probe.results.files import save_table
    from featstore.probe.results.reading import judged_by_class, read_per_class
    from featstore.probe.results.sentences import of_affected, of_classes

    table = read_per_class(per_class)
    judged = judged_by_class(table, predictions) if predictions else None
    known = (judged.correct, judged.labels) if judged else (None, None)
    unequal, losses = (read(table, *known, level) for read in (inequality_table, class_losses))
    affected = None
    if judged:
        with Progress() as progress:
            of_probes = judged.probes, judged.correct, judged.labels, list(table["class"].unique())
            affected = affected_of_curves(*of_probes, fraction, resamples, level, seed, progress)
    here, lost = near(unequal, fraction), near(losses, fraction)
    screen.show(
        *screen.of_curves(unequal, views.inequality),
        *_lost(_beyond(affected, lost) if judged else lost, most),
        of_classes(here, lost, level),
        *([of_affected(affected, resamples)] if judged else []),
    )
    for path, saved in ((out, losses), (inequality, unequal)):
        if path:
            save_table(saved, path)
    if plot:
        from featstore.probe.figures import class_lines

        class_lines(table, plot, fraction=fraction)
    for path in filter(None, (out, inequality, plot)):
        notice(f"wrote {path}")


def _beyond(affected, losses):
    """Return what classes lose, with what they lose beyond the mean of classes."""
    from featstore.probe.results import CURVE

    beyond = affected[[*CURVE, "fraction", "class", "excess", "low", "high"]]
    return losses.drop(columns=["low", "high"]).merge(beyond, on=[*CURVE, "fraction", "class"])


def _lost(losses, most: int) -> list:
    """Lay out the classes that lose most, a table a curve."""
    from featstore.probe.results import views
    from featstore.probe.results.sentences import named

    known = losses[losses["loss"].notna()] if len(losses) else losses
    curves = named(known) if len(known) else []
    return [views.losses(curve.head(most), name) for name, curve in curves]


@click.command(cls=Command)
@click.argument("places", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]|RESULTS...")
@TAP
@click.option(
    "--fractions",
    type=NumberList(float, "0.01,0.1"),
    metavar="LIST",
    help="Shares of the features, in (0, 1]; the full layer comes by itself.  "
    "[required for stores]",
)
@SEEDS
@MODE
@takes_solver
@SCALED
@MEMORY
@ON
@TEST_SPLIT
@click.option(
    "--fraction",
    type=float,
    help="Share of the features at which curves are compared.  "
    "[default: the nearest to 0.1 that all have]",
)
@DELTA
@click.option(
    "--rule",
    default="interpolated",
    help="How DR is read off a curve: interpolated, threshold or nearest.",
)
@LEVEL
@click.option(
    "--also",
    type=Names(),
    metavar="LIST",
    help="Of the stores' layers themselves: spectrum, geometry, universality, attribution, "
    "retrieval.",
)
@click.option(
    "--out-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep a results file for each store, and go on with those there.",
)
@to_file("--out", TABLE, "Save the table: .csv, .json or .parquet.")
@to_file("--plot", PICTURE, "Draw a line per curve: accuracy, or the ratio for several data sets.")
@SCORE
def compare(
    places,
    tap,
    fractions,
    seeds,
    mode,
    fraction,
    delta,
    rule,
    level,
    out_dir,
    out,
    plot,
    solver,
    also,
    **options,
) -> None:
    """Probe several stores, or read results, and set them side by side.

    Shows accuracy with all features and at one fraction, its share of the full layer's, DR(delta)
    and the ranks by each, with intervals over seeds and test rows. Accuracies are ranked among
    what is tested on the same data set; ratios and redundancies among all. A layer within noise of
    what is reached without any feature has no rank, and what cannot be told apart is said to be so.

    \b
    Example:
      featstore compare resnet.zarr vit.zarr --fractions 0.01,0.05,0.1,0.5 \\
        --seeds 5 --out-dir compared --plot compared.pdf
      featstore compare mine.zarr --taps all --fractions 0.1 --solver ridge
      featstore compare results.csv vit.zarr#last --fractions 0.1 --delta 0.8
      featstore compare resnet.zarr vit.zarr --fractions 0.1 \\
        --also geometry,retrieval
    """
    first_notice(f"reading {', '.join(map(str, places))}")
    from dataclasses import replace

    from featstore.probe.results import features, score_name, views
    from featstore.probe.results.files import save_table
    from featstore.probe.results.sentences import of_comparison
    from featstore.study.compare import compare, departures

    solver = solver_of(solver)
    if solver.solver == "sgd":
        for line in departures(places, solver, tap, options["test_split"]):
            notice(line)
    with Progress() as progress:
        found = compare(
            places,
            fractions,
            seeds,
            taps=tap,
            fraction=fraction,
            delta=delta,
            rule=rule,
            level=level,
            out_dir=out_dir,
            progress=progress,
            mode=list(mode),
            solver=solver,
            also=also or (),
            **options,
        )
    title = ", ".join([*found.shared, f"test {score_name(found.score)}"])
    screen.show(
        views.comparison(found.table, found.score, delta, title),
        views.ranks(found.table, found.score, delta),
        of_comparison(found.table, found.agreement, delta, level),
        *(
            replace(each.view(found.features[name]), title=each.title)
            for name, each in features.ANALYSES.items()
            if name in found.features
        ),
    )
    if out:
        save_table(found.table, out)
    if plot:
        from featstore.probe import figures

        one_task = found.table["task"].nunique() == 1
        draw = figures.accuracy_against_fraction if one_task else figures.ratio_against_fraction
        draw(found.probes, plot, found.correct)
    for path in filter(None, (out_dir, out, plot)):
        notice(f"wrote {path}")


@click.command(cls=Command)
@click.argument("results", type=FILE, nargs=-1, required=True)
@click.option(
    "--delta",
    type=NumberList(float, "0.9,0.95"),
    default="0.9",
    metavar="LIST",
    help="Share of the full layer's score to keep: the delta of DR(delta), or several.",
)
@click.option(
    "--rule",
    type=Names(),
    default="interpolated",
    metavar="LIST",
    help="How DR is read off a curve: interpolated, threshold, nearest, or several.",
)
@click.option(
    "--predictions",
    type=FILE,
    metavar="FILE",
    help="What `probe --save-predictions` wrote in the same run, for test rows of results "
    "that lack the file .rows.npz beside them.",
)
@LEVEL
@click.option("--curve", is_flag=True, help="Show every delta from 0.50 to 1.00.")
@SCORE
@to_file("--out", TABLE, "Save the table: .csv, .json or .parquet.")
@to_file("--plot", PICTURE, "Draw DR against delta, by the first rule: .png, .svg or .pdf.")
def redundancy(results, delta, rule, predictions, curve, out, plot, level, score) -> None:
    """Show the diffused redundancy DR(delta) of every curve of results files.

    DR(delta) = 1 - f, where a fraction f of the features keeps delta of the full layer's
    accuracy: interpolated, where the curve first reaches delta between two fractions that were
    probed. By --rule threshold f is the smallest one that was probed and keeps delta, as in the
    paper's text; by nearest, the one whose share is nearest delta, as in its code. Intervals are
    over seeds and, where the file beside the results says which are right, over test rows; none
    holds what other train rows would change.

    \b
    Example:
      featstore probe mine.zarr --fractions 0.01,0.05,0.1,0.5 --seeds 5 \\
        --out results.csv
      featstore redundancy results.csv --delta 0.9,0.95 --plot redundancy.pdf
    """
    from featstore.probe.redundancy import DELTAS, diffused_redundancy
    from featstore.probe.results import score_name, score_of, views
    from featstore.probe.results.files import save_table
    from featstore.probe.results.reading import judged, read_correct, read_results
    from featstore.probe.results.sentences import of_redundancy

    if predictions and len(results) > 1:
        raise click.UsageError(
            f"predictions belong to one results file, and {len(results)} are given: name one"
        )
    probes = read_results(*results, score=score)
    correct = (
        judged(probes, predictions).correct if predictions else read_correct(*results, score=score)
    )
    asked = list(dict.fromkeys(DELTAS if curve else delta))
    deltas = asked + [one for one in DELTAS if plot and one not in asked]
    with Progress() as progress:
        every = diffused_redundancy(probes, deltas, rule, correct, level=level, progress=progress)
    table = every[every["delta"].isin(asked)]
    said = of_redundancy(table, level, score_name(score_of(probes)))
    screen.show(*screen.of_curves(table, views.redundancy), said)
    if (table["low"].isna() & table["redundancy"].notna()).any():
        notice(
            "one seed, or a mode without seeds, has no interval where it is not known which test "
            "rows its probes have right"
        )
    if out:
        save_table(table, out)
    if plot:
        from featstore.probe.figures import redundancy_curve

        redundancy_curve(every[every["rule"] == rule[0]], plot)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")


@click.command(cls=Command)
@click.argument("stores", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]...")
@TAP
@click.option("--split", default="train", help="Split whose rows are taken.")
@SCALED
@click.option("--list", "listed", is_flag=True, help="Number the dead and repeated features.")
@MEMORY
@ON
@to_file("--out", TABLE, "Save the table: .csv, .json or .parquet.")
@to_file("--eigenvalues", TABLE, "Save every eigenvalue, likewise.")
@to_file("--plot", PICTURE, "Draw the spectra.")
def spectrum(stores, tap, split, listed, out, eigenvalues, plot, **options) -> None:
    """Show what explains a layer's redundancy: its spectrum, correlations and repeated features.

    Effective rank is exp of the entropy of the singular values; participation ratio is
    (sum lambda)^2 / sum lambda^2 of the eigenvalues of the correlation matrix. A dead feature never
    changes; a duplicate is an affine function of an earlier feature.

    \b
    Example:
      featstore spectrum mine.zarr --taps all --plot spectrum.pdf
      featstore spectrum resnet.zarr#layer4 vit.zarr --list
    """
    import pandas as pd

    from featstore.probe.layers import layer_spectrum
    from featstore.probe.results import features
    from featstore.probe.results.files import save_table
    from featstore.probe.results.sentences import of_spectrum
    from featstore.study.layers import layers_of

    found = {}
    with Progress() as progress:
        for layer in layers_of(stores, tap):
            found[layer.name] = layer_spectrum(
                layer.rows(split),
                moments_cache=layer.store.moments_folder,
                progress=progress,
                **options,
            )
    table = pd.DataFrame([{"name": name, **each.numbers} for name, each in found.items()])
    lists = [
        pd.DataFrame({"name": name, "eigenvalue": each.eigenvalues}) for name, each in found.items()
    ]
    for values in lists:
        values.insert(1, "index", range(1, len(values) + 1))
    values = pd.concat(lists)
    lists = [line for each in found.items() for line in _listed(*each)] if listed else []
    screen.show(features.spectrum(table), of_spectrum(table), *lists)
    for path, saved in ((out, table), (eigenvalues, values)):
        if path:
            save_table(saved, path)
    if plot:
        from featstore.probe.figures import spectra

        spectra(values, plot)
    for path in filter(None, (out, eigenvalues, plot)):
        notice(f"wrote {path}")


def _listed(name: str, found) -> list[str]:
    """Number the dead features, and the duplicates with what they repeat."""
    dead = ", ".join(map(str, found.dead)) or "none"
    copies = ", ".join(f"{copy} (as {original})" for copy, original in found.duplicates) or "none"
    return [f"{name}, dead: {dead}", f"{name}, duplicates: {copies}"]


@click.command(cls=Command)
@click.argument("stores", type=STORE, nargs=-1, required=True, metavar="STORE[#TAP]...")
@click.option(
    "--solver",
    default="ridge",
    help="Which probe: ridge, lda, or logistic, which has no Shapley values.",
)
@click.option("--l2", type=float, default=0.1, help="The penalty of mean loss + (l2/2) ||W||^2.")
@SCALED
@TEST_SPLIT
@click.option(
    "--permutations",
    type=click.IntRange(0),
    default=100,
    help="Permutations behind the Shapley values, at most; 0 leaves these out.",
)
@click.option(
    "--standard-error",
    type=float,
    help="Stop once no Shapley value has a larger one.  [default: all permutations]",
)
@click.option("--seconds", type=float, help="Stop when Shapley values have taken that long.")
@LEVEL
@click.option("--resamples", type=int, default=2000, help="Draws behind the intervals.")
@click.option("--seed", type=int, default=0, help="Seed of permutations and draws.")
@click.option("--most", type=click.IntRange(1), default=10, help="How many features to show.")
@MEMORY
@ON
@click.option(
    "--out", type=TABLE, metavar="FILE", help="Save a row a feature: .csv, .json or .parquet."
)
@click.option(
    "--plot",
    type=PICTURE,
    metavar="FILE",
    help="Draw all attributions, sorted; of two stores one against the other.",
)
def attribute(stores, test_split, most, out, plot, **options) -> None:
    """Show what each feature of a layer is worth: left out, by Shapley value, and alone.

    Every feature is left out of a probe that is refitted exactly (by one inverse; each softmax
    probe by a solve of its own), with intervals over test rows that hold for all features at once;
    a degrading feature is one whose removal gains accuracy.
    The Shapley value is the loss on test rows that a feature takes away, a mean over random orders
    of the features. Of several stores of the same features it is said how far they agree.

    \b
    Example:
      featstore attribute mine.zarr --out features.csv --plot features.pdf
      featstore attribute mine.zarr#layer4 --solver lda --permutations 20
      featstore attribute net-cifar10.zarr net-pets.zarr --plot agreement.pdf
    """
    first_notice(f"reading {', '.join(map(str, stores))}")
    import pandas as pd

    from featstore.probe.attribution import agreement, attributed
    from featstore.probe.results import features
    from featstore.probe.results.files import save_table
    from featstore.probe.results.sentences import of_attribution
    from featstore.study.layers import layers_of

    tables, shown = {}, []
    with Progress() as progress:
        for layer in layers_of(stores):
            table, found = attributed(
                layer.rows("train"),
                layer.rows(tested_on(layer.store, test_split)),
                moments_cache=layer.store.moments_folder,
                progress=progress,
                **options,
            )
            tables[layer.name] = table
            title = f"{layer.store.path.name}#{layer.tap}, {options['solver']}, l2"
            shown += [
                features.attribution(table, f"{title} {options['l2']:g}: worth most", most),
                of_attribution(table, found, options["level"]),
            ]
    measure = "shapley" if options["permutations"] else "loss_change"
    if len(tables) > 1:
        shown += [
            f"Features of {row.name_} and {row.other} are worth the same with Spearman's rho "
            f"{row.rho:.2f} ({row.low:.2f} to {row.high:.2f}), by {measure.replace('_', ' ')}."
            for row in agreement(tables, measure, options["level"])
            .rename(columns={"name": "name_"})
            .itertuples()
        ]
    screen.show(*shown)
    if out:
        named = [each.assign(name=name) for name, each in tables.items()]
        save_table(pd.concat(named, ignore_index=True) if len(tables) > 1 else table, out)
    if plot:
        from featstore.probe.figures import attributions, attributions_against

        if len(tables) > 1:
            (one, first), (other, second) = list(tables.items())[:2]
            pair = pd.DataFrame({one: first[measure], other: second[measure]})
            attributions_against(pair, plot)
        else:
            attributions(table, plot)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")
