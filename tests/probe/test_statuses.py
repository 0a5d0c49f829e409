"""The enumeration of what became of a probe, and the text of it that files hold."""

from itertools import permutations

import pytest

from featstore.probe import statuses
from featstore.probe.statuses import Status, combined, has, jitter, kinds

REMARKS = [one for one in Status if one not in statuses.SOLVED]


def test_whoever_is_not_solved_has_a_cause_and_a_remedy():
    assert statuses.SOLVED == (Status.OK, Status.CONVERGED)
    for one in Status:
        assert bool(one.cause) == bool(one.remedy) == (one in REMARKS)
        assert one.usable or one.failed or one is Status.NOT_RUN
    assert set(statuses.FAILED) - set(statuses.UNUSABLE) == {Status.MAX_ITER, Status.LINE_SEARCH}


def test_files_hold_the_value_and_give_the_member_back():
    for one in Status:
        assert kinds(f"{one}") == (one,)
        assert one == one.value
        assert hash(one) == hash(one.value)


def test_what_is_put_together_does_not_depend_on_the_order():
    """The worst first, of one kind the largest value, and nothing beside a remark is well."""
    parts = ("ok", "converged", "max_iter", jitter(3e-9), jitter(2e-10), "singular")
    assert {combined(*order) for order in permutations(parts)} == {
        "singular+max_iter+jitter=3.0e-09"
    }
    assert combined(combined("ok", "converged"), "ok") == "converged"
    assert kinds(combined(*parts)) == (Status.SINGULAR, Status.MAX_ITER, Status.JITTER)


@pytest.mark.parametrize("text", ["", "singularly", "max_iter+", "jitter+solved"])
def test_another_text_is_no_status(text):
    with pytest.raises(ValueError, match="is not a valid Status"):
        kinds(text)


def test_a_probe_that_was_not_asked_for_yet_has_no_status():
    assert has(["", "ok", "not run+jitter=1e-3"], [Status.JITTER]).tolist() == [False, False, True]
