"""The page of rules for penalties has the tables that its files make."""

from pathlib import Path

import pandas as pd

from benchmarks import penalty_rules

PAGE = Path(__file__).parents[2] / "docs" / "penalties.md"


def shown(name: str) -> str:
    return PAGE.read_text().split(f"<!-- {name}: table -->\n")[1].split("\n<!-- end -->")[0]


def test_the_page_has_the_tables_of_its_files():
    assert shown("rules") == penalty_rules.table(pd.read_csv(penalty_rules.RESULTS))
    assert shown("cost") == penalty_rules.cost_table(pd.read_csv(penalty_rules.COST))


def test_of_equal_penalties_nothing_is_lost():
    rows = [
        ["a", 0, solver, k, part, l2, 10, 0.5, 0.5]
        for solver in ("logistic", "ridge", "lda")
        for k in (128, 1280)
        for part in ("test", "tenth", "left out", *(f"fold {n}" for n in range(5)))
        for l2 in (0.1, 1.0)
    ]
    table = penalty_rules.table(pd.DataFrame(rows, columns=penalty_rules.COLUMNS))
    assert all("| 0.00 | 0.00 | +0.00 |" in line for line in table.splitlines()[2:])
