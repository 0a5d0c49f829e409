"""`featstore retrieve`: what fewer dimensions do to an index."""

import click

from featstore.cli import screen
from featstore.cli.common import (
    LEVEL,
    MEMORY,
    ON,
    PICTURE,
    SEEDS,
    STORE,
    TABLE,
    Command,
    NumberList,
    mode,
    scaled,
    to_file,
)
from featstore.cli.screen import Progress, first_notice, notice, tested_on


@click.command(cls=Command)
@click.argument("queries", type=STORE, metavar="QUERIES[#TAP]")
@click.argument("corpus", type=STORE, required=False, metavar="[CORPUS[#TAP]]")
@click.option("--query-split", help="Rows that ask.  [default: test, or validation]")
@click.option(
    "--corpus-split",
    help="Rows to be found; the queries' own, none of which finds itself, if there is one store.  "
    "[default: train; of a second store its test rows]",
)
@click.option(
    "--fractions",
    type=NumberList(float, "0.125,0.25"),
    default="0.125,0.25,0.5",
    metavar="LIST",
    help="Shares of the features, in (0, 1]; all of them come by themselves.",
)
@SEEDS
@mode("random,first")
@click.option(
    "--relevance",
    default="class",
    metavar="class|paired|FILE",
    help="Relevant rows: of the query's class, with its id, or by a qrels file (BEIR, TREC).",
)
@click.option("--cutoff", type=int, default=10, help="Ranks that recall, precision, nDCG see.")
@click.option("--depth", type=int, default=100, help="Ranks that mAP, MRR and Spearman see.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    help="Which are nearest.",
)
@scaled(False)
@click.option(
    "--measure",
    type=click.Choice(["ndcg", "recall", "precision", "map", "mrr"]),
    default="ndcg",
    help="What is told.",
)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    help="The share to keep that is told of.",
)
@LEVEL
@MEMORY
@ON
@to_file("--out", TABLE, "Save one row a mode, seed and fraction: .csv, .json or .parquet.")
@to_file("--plot", PICTURE, "Draw the measure against the fraction.")
def retrieve(
    queries,
    corpus,
    query_split,
    corpus_split,
    relevance,
    measure,
    keep,
    level,
    out,
    plot,
    **options,
) -> None:
    """Rank a corpus for queries with fewer dimensions, and show what that costs.

    Recall@k, precision@k, mAP, nDCG@k and MRR of every subset of dimensions, and how far its
    ranking agrees with that of all: the overlap of the first k rows, and Spearman's correlation.
    Intervals are over seeds and queries.

    \b
    Example:
      featstore retrieve mine.zarr --fractions 0.125,0.25,0.5 --seeds 5
      featstore retrieve questions.zarr passages.zarr --relevance test.tsv \\
        --mode first,random,pca --out retrieval.csv --plot retrieval.pdf
    """
    first_notice(f"reading {queries}")
    from featstore.probe import retrieval
    from featstore.probe.results import features
    from featstore.probe.results.files import save_table
    from featstore.probe.retrieval import sentence
    from featstore.study.layers import layers_of

    asking, *others = layers_of([queries, *filter(None, [corpus])])
    held = others[0] if others else asking
    query_split = tested_on(asking.store, query_split)
    if corpus_split is None:
        corpus_split = held.store.test_split(None) if others else "train"
    within = not others and corpus_split == query_split
    pairs = _pairs(relevance, asking.store.ids(query_split), held.store.ids(corpus_split))
    with Progress() as progress:
        found = retrieval(
            asking.rows(query_split),
            held.rows(corpus_split),
            relevance=pairs,
            within=within,
            progress=progress,
            **options,
        )
    curves = found.curves(measure, level)
    asked = f"{len(found.queries):,} queries ({query_split} of {asking.store.path.name})"
    where = f"{held.rows(corpus_split).n_rows:,} rows ({corpus_split} of {held.store.path.name})"
    screen.show(
        *(features.retrieval(rows, str(mode)) for mode, rows in curves.groupby("mode", sort=False)),
        f"{asked} against {where}, {options['metric']}",
        sentence(curves, keep, level),
    )
    if out:
        save_table(found.table.assign(cutoff=found.cutoff), out)
    if plot:
        from featstore.probe.figures import retrieval_against_fraction

        retrieval_against_fraction(curves, plot, level=level)
    for path in filter(None, (out, plot)):
        notice(f"wrote {path}")


def _pairs(relevance, queries, corpus):
    """Return what `retrieval` takes for relevance: "class", or pairs of rows."""
    if relevance == "class":
        return relevance
    import numpy as np

    from featstore.probe.retrieval import read_qrels

    if relevance != "paired":
        return read_qrels(relevance, queries, corpus)
    places = {name: row for row, name in enumerate(corpus)}
    pairs = [(row, places[name], 1.0) for row, name in enumerate(queries) if name in places]
    if not pairs:
        raise click.UsageError(
            "no query has the id of a row of the corpus: give --relevance class, or a qrels file"
        )
    return np.array(pairs)
