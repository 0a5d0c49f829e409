"""The house rules that a machine can hold: who imports whom, and how long things may get."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from featstore.errors import EXTRAS

ROOT = Path(__file__).parents[1]
# `rglob` does not follow the link `featstore/probe`, so that each file is looked at once
FILES = [
    *sorted((ROOT / "featstore").rglob("*.py")),
    *sorted((ROOT / "probe").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    ROOT / "cli.py",
]
PARTS = ("models", "data", "extraction", "store", "study", "report", "cli", "probe")
# Modules beside the wings that may use `featstore.probe`: what measures the machine.
BENCH = ("featstore.bench", "featstore.measurements")

# What the modules of a package never import, at top level or inside a function. `featstore` stands
# for its modules that lie in no package: what every wing may use.
FORBIDDEN = {
    "featstore.probe": {"featstore", *(f"featstore.{part}" for part in PARTS if part != "probe")},
    "featstore.models": {"featstore.store", "featstore.extraction"},
    "featstore.data": {"featstore.store", "featstore.extraction"},
    "featstore.store": {"featstore.models", "featstore.data", "featstore.extraction"},
    "benchmarks": {"featstore.study", "featstore.cli"},
    # the stage of the page that studies make
    "benchmarks.bench_report": {"featstore.cli"},
}
# Packages that join features and probes.
JOINING = (
    "featstore.study",
    "featstore.report",
    "featstore.cli",
    "featstore.probe",
    "benchmarks",
    *BENCH,
)
# What not every user has: imported where it is used, so that nothing else needs it.
OPTIONAL = {"sklearn", "cuml", "cupy", "playwright"}
# What the extras bring beside that; `featstore.testing` is for who has pytest.
BROUGHT = {
    *EXTRAS,
    *("dask", "datasets", "gcsfs", "moto", "onnx", "onnxruntime", "open_clip", "pytest", "s3fs"),
    *("accelerate", "transformers", "zarrs"),
}
# What needs an extra as a whole, so that its modules import what that brings at their top.
HALVES = {
    **dict.fromkeys(
        ("featstore.models", "featstore.data", "featstore.extraction", "featstore.bench"),
        ("extract", "hub", "parquet"),
    ),
    "featstore.study.plan": ("extract",),
    "featstore.probe.figures": ("report",),
    "featstore.sharing": ("hub",),
}
MOST_LINES, MOST_FUNCTION_LINES = 700, 100


def name(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("featstore", *parts) if parts[0] == "probe" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name(path): path for path in FILES}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(tree: ast.AST, modules=()) -> set[str]:
    """Return every module imported anywhere in a tree; `from a import b` is a.b if that is one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return found


def package(module: str) -> str:
    """Return the wing of a module: `featstore.store` of `featstore.store.zarr`."""
    if module in BENCH:
        return module
    parts = module.split(".")
    inside = parts[0] == "featstore" and len(parts) > 1 and parts[1] in PARTS
    return ".".join(parts[:2]) if inside else parts[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    found = imports(tree(module), MODULES)
    wings = {package(each) for each in found if each.split(".")[0] in ("featstore", "benchmarks")}
    forbidden = FORBIDDEN.get(module, FORBIDDEN.get(package(module), set()))
    assert not wings & forbidden
    if package(module) not in JOINING:
        assert not found & set(BENCH)
        assert "featstore.probe" not in wings
    tops = {each.split(".")[0] for each in found}
    if package(module) != "featstore.cli":
        assert not tops & {"click", "rich"}
    if module != "cli" and package(module) != "benchmarks":
        assert "benchmarks" not in tops


def test_no_module_imports_itself_on_a_detour():
    """Walk all imports, those inside functions and of types alone too, depth first."""
    edges = {module: imports(tree(module), MODULES) & set(MODULES) - {module} for module in MODULES}
    state: dict[str, int] = {}

    def visit(module: str, above: tuple[str, ...]) -> None:
        state[module] = 1
        for other in sorted(edges[module]):
            # a package is there, as far as it has come, when one of its modules is imported
            assert state.get(other) != 1 or module.startswith(f"{other}."), (*above, module, other)
            if other not in state:
                visit(other, (*above, module))
        state[module] = 2

    for module in MODULES:
        if module not in state:
            visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_can_be_read_at_once(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("benchmarks")])
def test_stages_load_without_what_is_optional(module):
    body = tree(module).body
    at_top = ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    assert not {each.split(".")[0] for each in imports(at_top)} & OPTIONAL


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("featstore")])
def test_what_is_installed_loads_without_the_extras(module):
    body = tree(module).body
    at_top = ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    allowed = {"pytest"} if module == "featstore.testing" else set()
    for wing, extra in HALVES.items():
        if module.startswith(wing):
            allowed |= {package for package in EXTRAS if EXTRAS[package] in extra}
    found = {each.split(".")[0] for each in imports(at_top)} & (OPTIONAL | BROUGHT)
    assert not found - allowed


def test_rules_see_a_breach():
    made = ast.parse("def f():\n    from featstore.store import zarr\n    import rich.table\n")
    assert imports(made, ("featstore.store.zarr",)) == {"featstore.store.zarr", "rich.table"}
    assert package("featstore.store.zarr") == "featstore.store"
    assert package("featstore.spec") == "featstore"


def test_every_file_says_what_it_is():
    assert [m for m in MODULES if not ast.get_docstring(tree(m))] == []


@pytest.mark.parametrize("module", MODULES)
def test_no_top_level_name_is_given_twice(module):
    """Hold that no later definition hides an earlier one of the same module."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = [node.name for node in tree(module).body if isinstance(node, kinds)]
    for node in tree(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    assert [name for name, count in Counter(names).items() if count > 1] == []


# What rows and fits have by default; `Completed`, in featstore.probe.rows, asks others for it.
OF_CONTRACTS = ("n_views", "classes", "validation", "start", "columns", "part", "release")


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("featstore.probe")])
def test_no_member_of_a_contract_is_optional(module):
    """Find no `hasattr` or `getattr` of such a member: a base class has the default instead."""
    asked = [
        node.args[1].value
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and isinstance(node.args[1], ast.Constant)
    ]
    assert module == "featstore.probe.rows" or not set(asked) & set(OF_CONTRACTS)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_begin_with_a_verb_or_a_noun(module):
    """Find no docstring that begins as a question does, or as a fragment of a sentence."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    found = [ast.get_docstring(node) for node in ast.walk(tree(module)) if isinstance(node, kinds)]
    begun = "What", "How", "Whether", "Of", "Where", "Which", "Who", "That", "When", "Why"
    assert [text for text in found if text and text.split(maxsplit=1)[0] in begun] == []
