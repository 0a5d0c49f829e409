"""Break the numerical core and the commit path at random places, and see whether tests notice.

    python tests/mutants.py --count 200 --jobs 2 --out benchmarks/results/mutants.jsonl
    python tests/mutants.py --page

A mutant is one module with one operator, number, comparison or condition changed. Each runs the
tests of its module, in a process forked from one that has imported the libraries, up to the first
failure.
The report is the table and the survivors of `docs/testing.md`.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = ROOT / "benchmarks/results/mutants.jsonl"
PAGE = ROOT / "docs/testing.md"

# A module, and the tests that are about it, the quickest first.
CORE = {
    "probe/subsets.py": ["probe/test_chains.py", "probe/test_modes.py"],
    "probe/moments.py": ["probe/test_moments.py", "probe/test_invariances.py"],
    "probe/metrics.py": ["probe/test_metrics.py", "probe/test_scores.py"],
    "probe/solvers/prefixes.py": ["probe/solvers/test_ridge.py", "probe/solvers/test_lda.py"],
    "probe/solvers/closed_form.py": ["probe/solvers/test_loo.py", "probe/solvers/test_lda.py"],
    "probe/solvers/dual.py": ["probe/solvers/test_dual.py"],
    "probe/solvers/sgd.py": ["probe/solvers/test_sgd.py"],
    "probe/solvers/logistic/lbfgs.py": [
        "probe/solvers/test_certificate.py",
        "probe/solvers/test_logistic.py",
    ],
    "probe/selection.py": ["probe/test_selection.py", "probe/test_penalties.py"],
    "probe/redundancy.py": ["probe/test_redundancy.py"],
    "probe/classes.py": ["probe/test_inequality.py"],
    "probe/similarity.py": ["probe/test_similarity.py"],
    "probe/results/curves.py": ["probe/results/test_curve.py", "probe/results/test_by_row.py"],
    "probe/attribution.py": ["probe/test_attribution.py"],
    "probe/neighbours.py": ["probe/test_neighbours.py"],
    "featstore/store/blocks.py": ["store/test_store_contract.py", "store/test_store_damage.py"],
    "featstore/store/writer.py": ["store/test_store_contract.py", "store/test_store_kill.py"],
    "featstore/store/base.py": ["store/test_store_contract.py", "store/test_store_damage.py"],
    "featstore/store/layout.py": ["store/test_spec.py", "store/test_store_contract.py"],
}
BROKEN = 3  # what pytest ends with where it fails itself; 4 and 5 are of wrong arguments
LIMIT_S = 240  # a mutant may not end: tests that take longer are cut off, and noticed nothing

SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And, ast.MatMult: ast.Mult,
}  # fmt: skip


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Each place that can be changed, with a word for it; the places of annotations are none."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(returns=returns, args=args):
                typed = [a.annotation for a in [*args.args, *args.kwonlyargs, *args.posonlyargs]]
                for each in [*typed, returns, *node.decorator_list]:
                    skipped.update(ast.walk(each) if each else ())
            case ast.AnnAssign(annotation=annotation):
                skipped.update(ast.walk(annotation))
            case ast.Raise() | ast.JoinedStr() | ast.ImportFrom() | ast.Assert():
                skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        match node:
            case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPPED:
                yield node, "operator"
            case ast.BoolOp():
                yield node, "and, or"
            case ast.Compare(ops=[op]) if type(op) in SWAPPED:
                yield node, "comparison"
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield node, "sign or not"
            case ast.Constant(value=bool() | int() | float()):
                yield node, "number"
            case ast.If():
                yield node, "condition"


def changed(tree: ast.Module, at: int) -> tuple[ast.Module, str, int]:
    """Return a copy with change number `at`, a line that tells it, and where it stands."""
    tree = copy.deepcopy(tree)
    node, _ = list(changes(tree))[at]
    before = ast.unparse(node)
    line = node.lineno
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            node.op = SWAPPED[type(op)]()
        case ast.Compare(ops=[op]):
            node.ops = [SWAPPED[type(op)]()]
        case ast.UnaryOp(op=ast.USub()):
            node.op = ast.UAdd()
        case ast.UnaryOp(operand=operand):
            node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), operand)
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=value):
            node.value = value + 1 if isinstance(value, int) else value * 2 + (value == 0)
        case ast.If(test=test):
            node.test = ast.UnaryOp(ast.Not(), test)
            before, after = f"if {ast.unparse(test)}", f"if {ast.unparse(node.test)}"
            return ast.fix_missing_locations(tree), f"{before}  ->  {after}", line
    return ast.fix_missing_locations(tree), f"{before}  ->  {ast.unparse(node)}", line


class Mutant(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree, and leaves all others to Python."""

    def __init__(self, name: str, tree: ast.Module, path: Path):
        self._name, self._path = name, path
        self._code = compile(tree, str(path), "exec")

    def find_spec(self, fullname, path=None, target=None):
        """Say that the module is ours, if it is."""
        if fullname != self._name:
            return None
        inside = [str(self._path.parent)] if self._path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname, self._path, loader=self, submodule_search_locations=inside
        )

    def exec_module(self, module):
        """Run the changed code."""
        exec(self._code, module.__dict__)


def tried(module: str, at: int) -> dict[str, object]:
    """Run the tests of a module with one change, in a fork; returns what is to be told of it."""
    path = ROOT / module
    tree = ast.parse(path.read_text())
    mutant, told, line = changed(tree, at)
    name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    name = name if name.startswith("featstore") else f"featstore.{name}"
    began = time.monotonic()
    if not (child := os.fork()):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        sys.meta_path.insert(0, Mutant(name, mutant, path))
        import pytest

        status = BROKEN
        try:
            for tests in CORE[module]:
                options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", "not long"]
                status = int(pytest.main([*options, str(ROOT / "tests" / tests)]))
                if status:
                    break
        finally:
            os._exit(status)
    cut = False
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if not cut and time.monotonic() - began > LIMIT_S:
            cut = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    if not cut and os.waitstatus_to_exitcode(ended[1]) in (BROKEN, 4, 5):
        raise SystemExit(f"the tests of {module} do not run")
    found = ended[1] != 0 and not cut
    facts = {"module": module, "change": at, "line": line, "was": told, "noticed": found}
    facts |= {"cut off": True} if cut else {}
    return {**facts, "seconds": round(time.monotonic() - began, 1)}


def drawn(count: int, seed: int) -> list[tuple[str, int]]:
    """Draw places, as many of each module as it has its share of all, at least two."""
    places = {m: len(list(changes(ast.parse((ROOT / m).read_text())))) for m in CORE}
    draw = random.Random(seed)
    found = []
    for module, n in places.items():
        share = max(2, round(count * n / sum(places.values())))
        found += [(module, at) for at in draw.sample(range(n), min(n, share))]
    draw.shuffle(found)
    return found


def report(lines: list[dict]) -> str:
    """Return the table by module and the survivors, as Markdown."""
    text = ["| module | mutants | noticed |", "|---|---:|---:|"]
    for module in CORE:
        of = [line for line in lines if line["module"] == module]
        if of:
            text.append(f"| `{module}` | {len(of)} | {sum(line['noticed'] for line in of)} |")
    noticed = sum(line["noticed"] for line in lines)
    text.append(f"| all | {len(lines)} | {noticed}, {100 * noticed / len(lines):.0f} % |\n")
    for line in lines:
        if not line["noticed"]:
            text.append(f"* `{line['module']}`, line {line['line']}: `{line['was']}`")
    return "\n".join(text) + "\n"


def written(page: str) -> str:
    """Return the page with the report of the log from its table on."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    return page[: page.index("| module |")] + report(lines)


def main() -> None:
    """Make mutants, or report those that were made."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--jobs", type=int, default=1, help="processes, each with a share")
    options.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    options.add_argument("--page", action="store_true", help="write docs/testing.md of the log")
    asked = options.parse_args()
    if asked.page:
        PAGE.write_text(written(PAGE.read_text()))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    # not what pytest wants to import itself, to rewrite its assertions
    import h5py, pandas, scipy.linalg, sklearn.linear_model, torch  # noqa: E401, F401, I001

    places = drawn(asked.count, asked.seed)
    children = []
    for job in range(asked.jobs):
        if not (child := os.fork()):
            for module, at in places[job :: asked.jobs]:
                told = tried(module, at)
                with asked.out.open("a") as file:
                    file.write(json.dumps(told) + "\n")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
