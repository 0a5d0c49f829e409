import pytest

from probe.errors import UsageError
from probe.penalties import PATH, check_penalties, planned


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


def test_the_path_is_even_in_logarithm():
    assert len(PATH) == 15
    assert (PATH[0], PATH[-1]) == (1e-6, 10.0)
    assert all(b / a == pytest.approx(10**0.5, rel=2e-3) for a, b in zip(PATH, PATH[1:]))  # noqa: B905, RUF007


@pytest.mark.parametrize(
    ("l2", "select", "values", "choice"),
    [
        (None, None, (0.5,), "given"),
        (0.1, None, (0.1,), "given"),
        ([0.1, 1], None, (0.1, 1.0), "given"),
        ([0.1, 1], "loo", (0.1, 1.0), "loo"),
        ("auto", None, PATH, "validation"),
        ("auto", "loo", PATH, "loo"),
    ],
)
def test_what_is_solved(l2, select, values, choice):
    penalties = planned(l2, select, default=0.5)
    assert (penalties.values, penalties.choice) == (values, choice)
    assert len(penalties.columns) == (1 if select or l2 == "auto" else len(values))


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
