"""Values of options: lists, seeds, files to write."""

import click
import pytest

from featstore.cli.common import Names, NumberList, OutFile, Penalties, Seeds

FRACTIONS, SEEDS = NumberList(float, "0.01,0.1"), Seeds(int, "3,7")


def test_lists_are_numbers_between_commas():
    assert FRACTIONS.convert("0.01,0.05, 1", None, None) == (0.01, 0.05, 1.0)
    assert Names().convert("train,val", None, None) == ("train", "val")


def test_penalties_are_numbers_or_auto():
    assert Penalties(float, "0.1").convert("auto", None, None) == "auto"
    assert Penalties(float, "0.1").convert("1e-3,0.1", None, None) == (0.001, 0.1)


@pytest.mark.parametrize(
    ("text", "seeds"), [("5", (1, 2, 3, 4, 5)), ("1", (1,)), ("3,7", (3, 7)), ("7,", (7,))]
)
def test_one_number_counts_seeds_and_a_list_names_them(text, seeds):
    assert SEEDS.convert(text, None, None) == seeds


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (FRACTIONS, "ten", "'ten' is not a list such as 0.01,0.1"),
        (FRACTIONS, "", "'' is not a list"),
        (FRACTIONS, ",", "',' is not a list"),
        (SEEDS, "0", "0 seeds are none"),
        (SEEDS, "-3", "-3 seeds are none"),
        (SEEDS, "1.5", "'1.5' is not a list such as 3,7"),
        (SEEDS, "1,two", "'1,two' is not a list such as 3,7"),
    ],
)
def test_what_is_no_list_is_refused(kind, text, why):
    with pytest.raises(click.BadParameter, match=why):
        kind.convert(text, None, None)


def test_a_file_to_write_is_checked_before_any_work(tmp_path):
    kind = OutFile(".csv", ".json")
    assert kind.convert(str(tmp_path / "r.CSV"), None, None) == tmp_path / "r.CSV"
    for name, why in [
        ("r.txt", "must end in .csv or .json"),
        ("r", "must end in .csv or .json"),
        ("absent/r.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
    ]:
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(click.BadParameter, match=why):
            kind.convert(str(tmp_path / name), None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_the_suffixes_are_the_library_s_own():
    from featstore.cli.probe import probe
    from featstore.probe import figures, predicted, prediction
    from featstore.probe.results import files

    suffixes = {p.name: p.type.suffixes for p in probe.params if isinstance(p.type, OutFile)}
    assert suffixes == {
        "out": files.SUFFIXES,
        "plot": figures.SUFFIXES,
        "by_layer": files.SUFFIXES,
        "per_class": files.SUFFIXES,
        "save_predictions": predicted.SUFFIXES,
        "save_weights": (prediction.SUFFIX,),
    }
