from itertools import pairwise

import pytest

from featstore.probe.errors import UsageError
from featstore.probe.selection import LADDER, planned
from featstore.probe.solvers import check_penalties


@pytest.mark.parametrize(
    ("l2", "message"),
    [
        (-1.0, r"l2 is -1.0: 0 or a positive number"),
        (float("nan"), "l2 is nan"),
        (float("inf"), "l2 is inf"),
        ([0.1, 0.1], "l2 0.1 is given twice"),
        ([0.1, 0.01], "l2 0.01 comes after 0.1: list penalties rising"),
        ([], "no penalty given"),
    ],
)
def test_penalties_that_cannot_be(l2, message):
    with pytest.raises(UsageError, match=message):
        check_penalties(l2)


def test_a_penalty_of_zero_is_for_solvers_that_allow_it():
    assert check_penalties(0) == (0.0,)
    with pytest.raises(UsageError, match="positive number is wanted"):
        check_penalties([0, 0.1], zero=False)


def test_the_ladder_is_even_in_logarithm():
    assert len(LADDER) == 27
    assert (LADDER[0], LADDER[-1]) == (1e-9, 1e4)
    assert all(b / a == pytest.approx(10**0.5, rel=2e-3) for a, b in pairwise(LADDER))


@pytest.mark.parametrize(
    ("l2", "select", "own", "values", "choice"),
    [
        (None, None, "given", (0.5,), "given"),
        (None, None, "loo", LADDER, "loo"),
        (None, "validation", "loo", LADDER, "validation"),
        (0.1, None, "loo", (0.1,), "given"),
        ([0.1, 1], None, "loo", (0.1, 1.0), "given"),
        ([0.1, 1], "loo", "validation", (0.1, 1.0), "loo"),
        ("auto", None, "given", LADDER, "validation"),
        ("auto", None, "loo", LADDER, "loo"),
        ("auto", "loo", "validation", LADDER, "loo"),
    ],
)
def test_what_is_solved(l2, select, own, values, choice):
    penalties = planned(l2, select, default=0.5, choice=own)
    assert (penalties.values, penalties.choice) == (values, choice)
    assert len(penalties.columns) == (1 if choice != "given" else len(values))
    assert penalties.values[penalties.first] == (10 if values == LADDER else values[-1])


def test_labels_are_not_left_out_of_orders_that_they_made():
    penalties = planned("auto", "loo")
    assert [penalties.choice_of(of) for of in (None, "variance", "fisher", "greedy")] == [
        "loo",
        "loo",
        "validation",
        "validation",
    ]
    assert planned(0.1).choice_of("greedy") == "given"


def test_other_views_tell_the_label_of_a_row_that_is_left_out():
    assert planned(None, choice="loo").of(n_views=2).choice == "validation"
    with pytest.raises(UsageError, match="one of 2 views"):
        planned("auto", "loo").of(n_views=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "l2 is 'best': a number, a list of numbers or 'auto'"),
        (([0.1, 1], "luck"), "no way to select is called 'luck': there are validation, loo"),
        ((0.1, "loo"), "select is 'loo', but l2 is 0.1 alone"),
        (("auto", "validation", 0.0), r"validation fraction 0.0 is outside \(0, 1\)"),
        (("auto", "validation", 1.0), r"validation fraction 1.0 is outside \(0, 1\)"),
    ],
)
def test_choices_that_cannot_be(arguments, message):
    with pytest.raises(UsageError, match=message):
        planned(*arguments)
