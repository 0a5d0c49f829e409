"""The house rules that a machine can hold: who imports whom, and how long things may get."""

import ast
from pathlib import Path

import pytest

from benchmarks.stages import STAGES

ROOT = Path(__file__).parents[1]
PACKAGES = ("featstore", "probe", "studies", "benchmarks", "terminal")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FILES.append(ROOT / "cli.py")

# What the files of a package must never import, at top level or inside a function.
FORBIDDEN = {
    "probe": {"featstore", "studies", "benchmarks", "terminal", "cli", "click", "rich"},
    "featstore": {"probe", "studies", "benchmarks", "terminal", "cli", "click", "rich"},
    "studies": {"benchmarks", "terminal", "cli", "click", "rich"},
    "benchmarks": {"studies", "terminal", "cli", "click", "rich"},
    # the module behind `python -m featstore` starts the command line, and does nothing else
    "featstore/__main__.py": {"probe", "studies", "terminal", "click", "rich"},
    # the stage of the page that studies make
    "benchmarks/bench_report.py": {"terminal", "cli", "click", "rich"},
    "terminal": {"cli"},
    "cli.py": set(),
}
# Parts of featstore that know nothing of stores; only extract and importing join them to one.
STORELESS = (
    "backbones", "datasets", "decoding", "geometry", "inference", "loading", "processes", "taps",
    "transforms", "views",
)  # fmt: skip
STORE = {
    "catalog", "contract", "extraction", "filling", "handover", "hdf5_store", "importing", "store",
    "tally", "tap_blocks", "writer", "zarr_store",
}  # fmt: skip
# What not every user has: imported where it is used, so that nothing else needs it.
OPTIONAL = {"sklearn", "cuml", "cupy", "playwright"}
MOST_LINES, MOST_FUNCTION_LINES = 700, 100


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> set[str]:
    """Every module imported anywhere in the file, dotted; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    top = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
    assert not top & FORBIDDEN.get(name(path), FORBIDDEN[package])


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_extract_joins_backbones_and_data_sets_to_stores(path):
    package, *rest = path.relative_to(ROOT).with_suffix("").parts
    if package == "featstore" and rest[0] in STORELESS:
        found = imports(ast.parse(path.read_text()))
        assert not {f"featstore.{module}" for module in STORE} & found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_can_be_read_at_once(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{node.name} has {length} lines"


def stages() -> list[Path]:
    """The benchmarks that the product runs, and what they are made of."""
    run = {f"{stage.module}.py" for stage in STAGES.values()}
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    return [path for path in files if path.name in run or not path.name.startswith("bench_")]


@pytest.mark.parametrize("path", stages(), ids=name)
def test_stages_load_without_what_is_optional(path):
    body = ast.parse(path.read_text()).body
    at_top = ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    assert not {module.split(".")[0] for module in imports(at_top)} & OPTIONAL


def test_rules_see_a_breach():
    tree = ast.parse("def f():\n    from featstore.store import open\n    import rich.table\n")
    assert {"featstore.store", "featstore.store.open", "rich.table"} <= imports(tree)


def test_every_file_says_what_it_is():
    assert [
        name(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []
