"""Solvers as values: what they refuse, what they say, and that names give the same probes."""

import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pandas as pd
import pytest

import featstore
from featstore import probe
from featstore.probe import KNN, LDA, SGD, Logistic, Ridge, figures, subsets
from featstore.probe.errors import UsageError, seeds_of
from featstore.probe.plans import described
from featstore.probe.results import curves
from featstore.probe.solvers import VALUES, declared
from featstore.probe.solvers.registry import SOLVERS, chosen
from featstore.study.spec import Probe

Y = np.arange(30) % 3
X = (np.eye(3)[Y].repeat(4, 1) + np.random.default_rng(0).normal(size=(30, 12))).astype("f4")
ROWS = (X, Y)


def test_every_solver_has_one_value():
    assert set(VALUES) == set(SOLVERS)
    assert [VALUES[name].solver for name in VALUES] == list(VALUES)


@pytest.mark.parametrize("cls", [cls for cls in VALUES.values() if cls is not KNN])
def test_values_are_equal_hashable_frozen_and_their_text_makes_them_again(cls):
    value = cls(l2=[0.1, 1], select="validation")
    assert value == cls(l2=(0.1, 1.0), select="validation") != cls()
    assert len({value, cls(l2=np.array([0.1, 1]), select="validation")}) == 1
    assert eval(repr(value), {cls.__name__: cls}) == value
    assert cls(l2=np.float32(0.5)) == cls(l2=[0.5]) == cls(l2=0.5)
    with pytest.raises(FrozenInstanceError):
        value.l2 = 1
    with pytest.raises(TypeError):
        cls(0.1)


def test_a_value_of_neighbours_is_plain_too():
    value = KNN(k=np.array([5, 20]), weights="exp")
    assert value == KNN(k=[5.0, 20.0], weights="exp") != KNN()
    assert eval(repr(value), {"KNN": KNN}) == value
    assert (value.place, value.values, KNN(k="auto").values) == ("k", (5, 20), ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ridge(l2=-1), "l2 is -1.0: 0 or a positive"),
        (lambda: LDA(l2=[1, 0.1]), "rising"),
        (lambda: Ridge(l2="best"), "l2 is 'best'"),
        (lambda: Ridge(l2=[None, 1]), "l2 is None"),
        (lambda: Ridge(select="luck"), "no way to select is called 'luck'"),
        (lambda: Ridge(held_out=1), r"outside \(0, 1\)"),
        (lambda: Ridge(held_out_seed=0.5), "held_out_seed is 0.5: a whole number"),
        (lambda: Logistic(tol=float("nan")), "tol is nan: a positive number"),
        (lambda: Logistic(tol="small"), "tol is small: a positive number"),
        (lambda: Logistic(max_iter=0), "max_iter is 0: at least one step"),
        (lambda: Logistic(fast="yes"), "fast is 'yes': True or False"),
        (lambda: SGD(momentum=1), r"momentum is 1: it lies in \[0, 1\)"),
    ],
)
def test_a_value_that_cannot_be_is_refused_when_it_is_made(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ridge(l=1), r"Ridge\(\) has no argument 'l'; did you mean l2\?"),
        (lambda: SGD(epoch=1), "did you mean epochs?"),
        (lambda: LDA(tol=1), "there are l2, select"),
        (lambda: probe.sweep(ROWS, ROWS, fraction=0.5), "did you mean fractions?"),
        (lambda: probe.fit(ROWS, [], sotre="a"), "did you mean store?"),
        (lambda: probe.sweep(ROWS, ROWS, epochs=2), r"give solver=SGD\(epochs=...\)"),
        (lambda: probe.sweep(ROWS, ROWS, solver="sgd", lr=2), r"give solver=SGD\(lr=...\)"),
    ],
)
def test_a_misspelt_argument_is_a_type_error_that_names_the_nearest(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_an_option_is_given_once_and_by_a_solver_that_has_it():
    with pytest.raises(UsageError, match=r"l2 is given twice, in Ridge\(...\) and as l2=2: drop"):
        probe.sweep(ROWS, ROWS, fractions=0.5, solver=Ridge(l2=1), l2=2)
    with pytest.raises(UsageError, match="held_out is given twice"):
        probe.fit(ROWS, [], solver=Ridge(), held_out=0.2)
    with pytest.raises(UsageError, match="no solver is called 'rigde'"):
        probe.fit(ROWS, [], solver="rigde")
    with pytest.raises(UsageError, match=r"solver is the class Ridge: give Ridge\(\)"):
        probe.fit(ROWS, [], solver=Ridge)
    with pytest.raises(UsageError, match="solver ridge has no option 'tol': it has none"):
        chosen("ridge", {"tol": 1})


def test_a_name_gives_what_its_value_gives():
    how = {"fractions": [0.5], "seeds": [1, 2], "device": "cpu"}
    by_name = probe.sweep(ROWS, ROWS, solver="ridge", l2=[0.1, 1], **how).table
    pd.testing.assert_frame_equal(
        probe.sweep(ROWS, ROWS, solver=Ridge(l2=[0.1, 1]), **how).table, by_name
    )
    tight = probe.fit(ROWS, [subsets.first_chain(12, [0.5])], solver=Logistic(tol=1e-6, l2=0.1))
    assert "tol=1e-06 max_iter=2000 fast=False" in tight.table["options"][0]
    assert (tight.table["gradient_norm"] <= 1e-6).all()


@pytest.mark.parametrize("name", VALUES)
def test_the_column_of_options_holds_every_own_field(name):
    words = dict(word.split("=") for word in described(chosen(name))[1].split())
    value = VALUES[name]()
    for key, each in value.own().items():
        # which has a column of its own
        assert words[key] == str(each) if key != value.place else key not in words


def test_plain_values_stand_for_lists():
    how = {"solver": "ridge", "l2": 0.1, "device": "cpu"}
    plain = probe.sweep(ROWS, ROWS, fractions=0.5, seeds=2, metrics="nll", **how).table
    lists = probe.sweep(ROWS, ROWS, fractions=[0.5], seeds=[1, 2], metrics=["nll"], **how).table
    pd.testing.assert_frame_equal(plain, lists)
    assert seeds_of(np.int64(3)) == (1, 2, 3)
    with pytest.raises(UsageError, match="0 seeds are none"):
        probe.sweep(ROWS, ROWS, fractions=0.5, seeds=0, **how)


def test_a_result_is_taken_wherever_its_table_is():
    result = probe.sweep(ROWS, ROWS, fractions=[0.2, 0.5], seeds=3, solver="ridge", l2=0.1)
    table, known = result.to_pandas(), {"correct": result.correct}
    pd.testing.assert_frame_equal(probe.summary(result), probe.summary(table, **known))
    pd.testing.assert_frame_equal(curves.curve_table(result), curves.curve_table(table, **known))
    assert "seeds and test rows" in set(probe.summary(result)["over"])
    assert probe.sentence(result) == probe.sentence(table, **known)
    pd.testing.assert_frame_equal(
        probe.diffused_redundancy(result, 0.9, "nearest"),
        probe.diffused_redundancy(table, [0.9], ["nearest"], **known),
    )
    for draw in (figures.accuracy_against_fraction, figures.ratio_against_fraction):
        drawn = [draw(*given).axes[0].lines for given in ((result,), (table, None, result.correct))]
        assert len(drawn[0]) == len(drawn[1]) > 0
        for one, other in zip(*drawn, strict=True):
            np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_study_files_have_the_fields_of_every_solver_and_no_others_of_theirs():
    keys = set(Probe.model_fields)
    assert {each.name for each in declared()} <= keys
    assert Probe.model_validate({"l2": [0.1, 1], "tol": 1e-3}).l2 == [0.1, 1]
    assert {one.name for cls in VALUES.values() for one in fields(cls)} == {
        each.name for each in declared()
    }


@pytest.mark.parametrize("function", [probe.sweep, probe.fit, *VALUES.values()])
def test_signatures_are_seen_and_spelt_out(function):
    parameters = inspect.signature(function).parameters.values()
    assert not any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters)
    assert all(one.annotation is not one.empty for one in parameters)
    assert "l2" in {one.name for one in parameters}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("probe.sweep(x, x, fr", "fractions="),
        ("probe.fit(x, [], sol", "solver="),
        ("probe.Log", "Logistic"),
        ("probe.Logistic(max", "max_iter="),
    ],
)
def test_a_notebook_completes_them(text, wanted):
    jedi = pytest.importorskip("jedi")
    script = jedi.Interpreter(text, [{"probe": probe, "x": ROWS}])
    assert wanted in {each.name_with_symbols for each in script.complete()}


def test_public_names_are_few_and_solvers_load_no_array_library():
    assert {"Ridge", "LDA", "Logistic", "SGD", "KNN"} <= set(probe.__all__)
    assert len(featstore.__all__) + len(probe.__all__) <= 60
    code = (
        "import sys; from featstore.probe import SGD; SGD(epochs=3); "
        "print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
