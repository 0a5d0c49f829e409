import pytest
from hypothesis import given, strategies as st

from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.memory import (
    MIN_ROWS,
    SystemSize,
    moment_rows,
    parse,
    rows_within,
    solve_plan,
    text,
)
from featstore.probe.solvers.prefixes import grouped
from featstore.probe.subsets import Axes, random_chain


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("8GiB", 8 << 30),
        ("8 GiB", 8 << 30),
        ("8g", 8 * 10**9),
        ("500MB", 500 * 10**6),
        ("1.5 kib", 1536),
        ("12", 12),
        ("12B", 12),
        (12, 12),
        ("2T", 2 * 10**12),
    ],
)
def test_sizes_are_read(memory, size):
    assert parse(memory) == size


@pytest.mark.parametrize("memory", ["", "lots", "-1GiB", "0", "4 GiBs", "1e9", "GiB", 0, -5, "4i"])
def test_what_is_no_size_is_refused(memory):
    with pytest.raises(UsageError, match="is not a size: write for example 4GiB"):
        parse(memory)


@given(st.integers(1, 1 << 50))
def test_a_size_that_is_written_is_enough_and_hardly_more(size):
    assert size <= parse(text(size)) <= 1.1 * size + 1


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 10**5), st.integers(1, 5000))
def test_rows_fit_or_the_message_says_what_would(memory, fixed, row_bytes, wanted):
    least = min(wanted, MIN_ROWS)
    if memory < fixed + least * row_bytes:
        with pytest.raises(MemoryBudgetError, match="allow at least"):
            rows_within(memory, fixed, row_bytes, wanted, "this")
        return
    rows = rows_within(memory, fixed, row_bytes, wanted, "this")
    assert least <= rows <= wanted
    assert fixed + rows * row_bytes <= memory


def test_more_rows_than_the_moments_need_are_not_asked_for():
    assert moment_rows(1 << 40, 512, 10, "float32") == moment_rows(1 << 50, 512, 10, "float32")
    assert moment_rows(32 << 20, 512, 10, "float64") < moment_rows(32 << 20, 512, 10, "float32")


def test_the_number_of_train_rows_plays_no_part():
    # the memory target: rows are never counted, only features, classes and prefixes
    plan = solve_plan(1 << 30, 512, 10, SystemSize(512, 10, 20, 4), accelerator=False)
    assert plan.rows == 2048


@given(
    memory=st.integers(10**5, 10**9),
    d=st.integers(10, 800),
    c=st.integers(2, 100),
    seeds=st.integers(1, 20),
    accelerator=st.booleans(),
)
def test_all_systems_are_solved_once_within_the_memory(memory, d, c, seeds, accelerator):
    axes = Axes(tuple(random_chain(d, [0.2, 1.0], seed) for seed in range(seeds)), (0.1, 1.0))
    size = SystemSize(d, c, 2, 4)
    try:
        plan = solve_plan(memory, d, c, size, accelerator)
    except MemoryBudgetError:
        assert memory < 8 / 7 * (8 * d * 3 * (d + c) + size.held + size.transient) + 10**6
        return
    groups = grouped(axes, plan, size)
    systems = [system for group in groups for batch in group for system in batch.systems]
    assert sorted(systems) == [(chain, penalty) for chain in range(seeds) for penalty in (0, 1)]
    fixed = 8 * d * 3 * (d + c)
    for group in groups:
        held = sum(len(batch.systems) for batch in group) * size.held
        largest = max(len(batch.systems) for batch in group)
        rows = plan.rows * (3 * 4 * d + largest * size.row)
        assert fixed + held + largest * size.transient <= memory
        assert fixed + held + rows <= memory
