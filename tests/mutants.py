"""Break the numerical core and the commit path at random places, and see whether tests notice.

    python tests/mutants.py --count 200
    python tests/mutants.py --again
    python tests/mutants.py --page

A mutant is one module with one operator, number, comparison or condition changed. Tests run once
unchanged, to learn which statements of these modules each comes by and how long it takes. A mutant
then runs those that come by its statement, up to the first failure: first the tests about its
module, then all others, each the quickest first, in a fork of the process that has imported them.
`--again` repeats the survivors of a log, `--page` writes the log's table and its survivors into
`docs/testing.md`.
"""

import argparse
import ast
import copy
import gc
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

ROOT = Path(__file__).parents[1]
LOG = ROOT / "benchmarks/results/mutants.jsonl"
PAGE = ROOT / "docs/testing.md"

# A module, and the files of tests that are about it: below tests/probe and tests/store.
CORE = {
    "probe/subsets.py": "chains modes basis",
    "probe/moments.py": "moments invariances",
    "probe/metrics.py": "metrics scores ranking",
    "probe/solvers/prefixes.py": "solvers/ridge solvers/lda",
    "probe/solvers/closed_form.py": "solvers/loo solvers/lda solvers/ridge",
    "probe/solvers/dual.py": "solvers/dual",
    "probe/solvers/sgd.py": "solvers/sgd",
    "probe/solvers/logistic/lbfgs.py": "solvers/certificate solvers/logistic",
    "probe/solvers/logistic/metric.py": "solvers/certificate solvers/logistic",
    "probe/selection.py": "selection penalties",
    "probe/redundancy.py": "redundancy",
    "probe/classes.py": "inequality",
    "probe/similarity.py": "similarity basis",
    "probe/results/curves.py": "results/curve results/by_row results/chance results/summaries",
    "probe/attribution.py": "attribution",
    "probe/neighbours.py": "neighbours retrieval",
    "featstore/store/blocks.py": "store_contract store_damage staging",
    "featstore/store/writer.py": "store_contract store_kill store_damage",
    "featstore/store/base.py": "store_contract store_damage overwriting",
    "featstore/store/layout.py": "spec store_contract",
}
OPTIONS = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", "not long"]
BROKEN = "does not run:"
LIMIT_S = 60  # tests of a mutant, by the time that they take unchanged

SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And, ast.MatMult: ast.Mult,
}  # fmt: skip


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Each place that can be changed, with a word for it.

    None is in an annotation, a message, an assertion, a decorator or the `strict` of a `zip`, which
    guard against mistakes that are made elsewhere.
    """
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(returns=returns, args=args):
                typed = [a.annotation for a in [*args.args, *args.kwonlyargs, *args.posonlyargs]]
                for each in [*typed, returns, *node.decorator_list]:
                    skipped.update(ast.walk(each) if each else ())
            case ast.ClassDef(decorator_list=guards):
                for each in guards:
                    skipped.update(ast.walk(each))
            case ast.keyword(arg="strict"):
                skipped.update(ast.walk(node))
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


def about(module: str) -> list[str]:
    """Return the files of tests that are about a module, and itself for its doctests."""
    top = "tests/store" if module.startswith("featstore/store/") else "tests/probe"
    names = [Path(name) for name in CORE[module].split()]
    own = module if module.startswith("featstore/") else f"featstore/{module}"
    return [own, *(f"{top}/{name.with_name('test_' + name.name)}.py" for name in names)]


ALL = sorted({file for module in CORE for file in about(module)})


def inside(tree: ast.Module) -> dict[ast.AST, ast.stmt]:
    """Return the innermost statement that each node of a function's body is in."""
    found: dict[ast.AST, ast.stmt] = {}

    def walk(node: ast.AST, statement: ast.stmt | None) -> None:
        for field, value in ast.iter_fields(node):
            of_body = isinstance(node, ast.FunctionDef) and field == "body"
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    own = isinstance(each, ast.stmt) and (of_body or statement is not None)
                    within = each if own else statement
                    if within is not None:
                        found[each] = within
                    walk(each, within)

    walk(tree, None)
    return found


def watched(module: str) -> ast.Module:
    """Return a module in which each statement of a function tells that it is reached."""
    tree = ast.parse((ROOT / module).read_text())
    own = inside(tree)
    for node in list(ast.walk(tree)):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                told = []
                for each in block:
                    if own.get(each) is each:
                        call = ast.parse(f"_reached_.add(({module!r}, {each.lineno}))").body
                        told += [ast.copy_location(statement, each) for statement in call]
                    told.append(each)
                setattr(node, field, told)
    return ast.fix_missing_locations(tree)


def reached_by(module: str, at: int) -> set[int] | None:
    """Return which statements a test must come by to notice a change; None: any of the module.

    A change at the top of a module is of the statements that mention the name it gives a value to.
    """
    tree = ast.parse((ROOT / module).read_text())
    node, _ = list(changes(tree))[at]
    own = inside(tree)
    if node in own:
        return {own[node].lineno}
    for each in tree.body:
        if isinstance(each, ast.Assign | ast.AnnAssign) and node in set(ast.walk(each)):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            names = {name.id for name in targets if isinstance(name, ast.Name)}
            uses = {own[n].lineno for n in own if isinstance(n, ast.Name) and n.id in names}
            return uses or None
    return None


def dotted(module: str) -> str:
    """Return the name by which a module is imported."""
    name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("featstore") else f"featstore.{name}"


def put(module: str, tree: ast.Module, functions: list[FunctionType]) -> None:
    """Give the functions of a module, which is imported, the code of a changed tree."""
    codes, left = {}, [compile(tree, str(ROOT / module), "exec")]
    while left:
        code = left.pop()
        codes[code.co_qualname, code.co_firstlineno] = code
        left += [each for each in code.co_consts if isinstance(each, CodeType)]
    for each in functions:
        place = each.__code__.co_qualname, each.__code__.co_firstlineno
        if each.__module__ == dotted(module) and place in codes:
            each.__code__ = codes[place]


def functions_of_core() -> list[FunctionType]:
    """Return all functions there are of the modules, methods and closures too."""
    names = {dotted(module) for module in CORE}
    for name in names:
        importlib.import_module(name)
    return [f for f in gc.get_objects() if type(f) is FunctionType and f.__module__ in names]


class Mutant(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree, and leaves all others to Python."""

    def __init__(self, module: str, tree: ast.Module):
        self._name, self._path = dotted(module), ROOT / module
        self._code = compile(tree, str(self._path), "exec")

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


class Steady:
    """A plugin of pytest by which hypothesis draws the same examples and bears a busy machine."""

    def pytest_configure(self):
        """Set a profile."""
        import hypothesis

        hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True)
        hypothesis.settings.load_profile("mutants")


class Watch(Steady):
    """A plugin of pytest that writes down which statements each test comes by, and its time."""

    def __init__(self, known: set[str], out: Path):
        self._known, self._out = known, out

    def pytest_runtestloop(self, session):
        """Run the tests that are not known."""
        reached: set[tuple[str, int]] = set()
        functions = functions_of_core()
        for module in CORE:
            sys.modules[dotted(module)].__dict__["_reached_"] = reached
            put(module, watched(module), functions)
        items = [item for item in session.items if item.nodeid not in self._known]
        for item, after in zip(items, [*items[1:], None], strict=True):
            reached.clear()
            began, failed = time.monotonic(), session.testsfailed
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            lines: dict[str, list[int]] = {}
            for module, line in sorted(reached):
                lines.setdefault(module, []).append(line)
            told = {"test": item.nodeid, "file": hashed(ROOT / item.nodeid.partition("::")[0])}
            told |= {"seconds": round(time.monotonic() - began, 3), "lines": lines}
            if session.testsfailed == failed:
                with self._out.open("a") as file:
                    file.write(json.dumps(told) + "\n")
            else:
                print("fails unchanged:", item.nodeid, file=sys.__stderr__)
        return True


class Tries(Steady):
    """A plugin of pytest that, instead of its tests, runs `each(items)`."""

    def __init__(self, each):
        self._each = each

    def pytest_runtestloop(self, session):
        """Hand over what was collected."""
        self._each({item.nodeid: item for item in session.items})
        return True


def first_failing(items: dict[str, object], names: list[str]) -> str:
    """Run tests up to the first that fails, and return its name, or none."""
    chosen = [items[name] for name in names if name in items]
    for item, after in zip(chosen, [*chosen, None][1:], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
        if item.session.testsfailed:
            return item.nodeid
    return ""


def forked(run, limit_s: float) -> tuple[str, bool]:
    """Return what `run()` returns in a fork, and whether that ended in time and of itself."""
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1), os.dup2(null, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 5))
            os.write(write, run().encode())
        except BaseException as error:
            os.write(write, f"{BROKEN} {error!r}".encode())
        finally:
            os._exit(0)
    os.close(write)
    began, cut = time.monotonic(), False
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if not cut and time.monotonic() - began > 6 * limit_s:
            cut = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    with open(read, "rb") as said:
        return said.read().decode(), os.waitstatus_to_exitcode(ended[1]) == 0


def tried(module: str, at: int, tests: list[tuple[str, float]], items=None, functions=()) -> dict:
    """Run tests with one change; returns what is to be told of it.

    With `items`, the collected tests, functions get their changed code; else the module is
    imported anew.
    """
    tree, told, line = changed(ast.parse((ROOT / module).read_text()), at)
    names = [name for name, _ in tests]
    began = time.monotonic()

    def run() -> str:
        if items is not None:
            put(module, tree, functions)
            return first_failing(items, names)
        import pytest

        sys.meta_path.insert(0, Mutant(module, tree))
        found = ["import"]  # what stays where the tests cannot even be collected
        one = Tries(lambda collected: found.__setitem__(0, first_failing(collected, names)))
        pytest.main([*OPTIONS, *dict.fromkeys(name.partition("::")[0] for name in names)], [one])
        return found[0]

    by, ended = forked(run, 30 + 5 * sum(seconds for _, seconds in tests))
    if by.startswith(BROKEN):
        raise SystemExit(f"{module}, {told}: {by}")
    facts = {"module": module, "change": at, "line": line, "was": told}
    facts |= {"noticed": bool(by) or not ended, "by": by if ended else "does not end"}
    return {**facts, "tests": len(tests), "seconds": round(time.monotonic() - began, 1)}


def hashed(path: Path) -> str:
    """Return a short hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def seen(path: Path) -> list[dict]:
    """Return what each test comes by, from a file that is brought up to date."""
    core = json.dumps([hashed(ROOT / module) for module in CORE])
    lines = path.read_text().splitlines() if path.exists() else []
    tests = [json.loads(line) for line in lines[1:]] if lines[:1] == [core] else []
    known = [test for test in tests if (ROOT / test["test"].partition("::")[0]).exists()]
    known = [t for t in known if t["file"] == hashed(ROOT / t["test"].partition("::")[0])]
    path.write_text("\n".join([core, *(json.dumps(test) for test in known)]) + "\n")
    if not (child := os.fork()):
        import pytest

        names = {test["test"] for test in known}
        options = [each for each in OPTIONS if each != "-x"]
        os._exit(int(pytest.main([*options, *ALL], [Watch(names, path)])) not in (0, 1))
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the tests cannot be collected")
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def concerned(module: str, at: int, tests: list[dict]) -> list[tuple[str, float]]:
    """Return the tests that a change is tried with, and the seconds that each takes."""
    lines = reached_by(module, at)
    own = about(module)
    found = []
    for test in tests:
        reached = test["lines"].get(module, [])
        if reached and (lines is None or lines & set(reached)):
            other = test["test"].partition("::")[0] not in own
            found.append((other, test["seconds"], test["test"]))
    chosen, spent = [], 0.0
    for _, seconds, name in sorted(found):
        if chosen and spent + seconds > LIMIT_S:
            continue
        spent += seconds
        chosen.append((name, seconds))
    return chosen


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


def surviving(lines: list[dict]) -> list[tuple[str, int]]:
    """Return where the survivors of a log are now: the same change, nearest to its line."""
    found = []
    for line in lines:
        if not line["noticed"]:
            tree = ast.parse((ROOT / line["module"]).read_text())
            before, same = line["was"].partition("  ->  ")[0], []
            for at, (node, _) in enumerate(changes(tree)):
                if before in (ast.unparse(node), f"if {ast.unparse(getattr(node, 'test', node))}"):
                    _, told, where = changed(tree, at)
                    if told == line["was"]:
                        same.append((abs(where - line["line"]), at))
            if not same:
                print("is no more:", line["module"], line["was"])
            else:
                found.append((line["module"], min(same)[1]))
    return found


def run_all(places: list[tuple[str, int]], tests: list[dict], done) -> None:
    """Try changes, those of functions' bodies first, and hand what is to be told to `done`."""
    trees = {module: ast.parse((ROOT / module).read_text()) for module in CORE}
    bodies = {module: inside(tree) for module, tree in trees.items()}
    nodes = {module: [node for node, _ in changes(tree)] for module, tree in trees.items()}
    of_bodies = [(m, at) for m, at in places if nodes[m][at] in bodies[m]]

    def each(items) -> None:
        functions = functions_of_core()
        for module, at in of_bodies:
            done(tried(module, at, concerned(module, at, tests), items, functions))

    if not (child := os.fork()):
        import pytest

        os._exit(int(pytest.main([*OPTIONS, *ALL], [Tries(each)])))
    os.waitpid(child, 0)
    for module, at in places:
        if (module, at) not in of_bodies:
            done(tried(module, at, concerned(module, at, tests)))


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
            why = line.get("why", "not explained")
            text.append(f"* `{line['module']}`, line {line['line']}: `{line['was']}`: {why}")
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
    options.add_argument("--out", type=Path, default=LOG)
    options.add_argument(
        "--seen",
        type=Path,
        default=ROOT / ".pytest_cache/mutants.jsonl",
        help="keeps what each test comes by",
    )
    options.add_argument("--again", action="store_true", help="repeat the survivors of the log")
    options.add_argument("--page", action="store_true", help="write docs/testing.md of the log")
    asked = options.parse_args()
    if asked.page:
        PAGE.write_text(written(PAGE.read_text()))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    # not what pytest wants to import itself, to rewrite its assertions
    import h5py, pandas, scipy.linalg, sklearn.linear_model, torch  # noqa: E401, F401, I001

    asked.seen.parent.mkdir(exist_ok=True)
    tests = seen(asked.seen)
    before = asked.out.read_text().splitlines() if asked.again else []
    before = [json.loads(line) for line in before]
    places = surviving(before) if asked.again else drawn(asked.count, asked.seed)
    kept = "".join(json.dumps(line) + "\n" for line in before if line["noticed"])
    reasons = {(line["module"], line["was"]): line["why"] for line in before if "why" in line}
    part = asked.out.with_suffix(".part")
    part.write_text(kept)

    def done(told: dict) -> None:
        why = reasons.get((told["module"], told["was"]))
        told |= {"why": why} if why and not told["noticed"] else {}
        with part.open("a") as file:
            file.write(json.dumps(told) + "\n")

    children = []
    for job in range(asked.jobs):
        if not (child := os.fork()):
            run_all(places[job :: asked.jobs], tests, done)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    part.replace(asked.out)


if __name__ == "__main__":
    main()
