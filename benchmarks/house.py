"""The state of the house in numbers, read from the tree: modules, lines, names, circles, breaches.

python -m benchmarks.house [--wheel] [--markdown] [--root CHECKOUT]

Everything but import times and the wheel is counted in the syntax trees of the modules outside
`tests/` and `benchmarks/`; nothing is imported. A file that is reached by a link as well
(`featstore/probe -> ../probe`) counts once, and its module is called `featstore.probe.x`.
"""

import argparse
import ast
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- house: table -->\n).*?(<!-- end -->)", re.DOTALL)
SMALL = 150
"""Lines below which a module with a single importer belongs into that one."""

OUTSIDE = ("tests", "benchmarks", "docs", "build", "dist")
"""Folders at the top that hold no module of the house."""

BEFORE = {
    "modules outside tests and benchmarks": "278",
    "lines there": "40,718",
    "modules with a single importer and under 150 lines": "74",
    "public top-level names": "1381",
    "of them in `featstore` and `probe`": "1109",
    "names in `__all__` of `featstore` and of `probe`": "27 + 32",
    "import circles, by imports at the top": "0",
    "import circles, by all imports": "2",
    "imports against the rules": "3",
    "`# fmt: skip`": "200",
    "public functions with `**`": "24",
    "private functions used in one place": "591 of 908",
    "import of `featstore`": "33 x",
    "import of `probe`": "2.5 x",
    "`featstore --help`": "42 x",
    "top-level names in the wheel": "6",
}
"""The numbers of a4b9caa, before the house was moved; times are multiples of an empty Python's.

`python -m benchmarks.house --root CHECKOUT` counts them again in a checkout of it. The imports
against the rules are those between modules of the places that they were moved to.
"""

WANTED = {
    "modules outside tests and benchmarks": "<= 100",
    "lines there": "<= 29,000",
    "modules with a single importer and under 150 lines": "<= 8",
    "public top-level names": "<= 300",
    "names in `__all__` of `featstore` and of `probe`": "<= 60",
    "import circles, by imports at the top": "0",
    "import circles, by all imports": "0",
    "imports against the rules": "0",
    "`# fmt: skip`": "0",
    "public functions with `**`": "0",
    "import of `featstore`": "<= 0.1 s",
    "import of `probe`": "<= 0.1 s",
    "`featstore --help`": "<= 0.15 s",
    "top-level names in the wheel": "1",
}

JOINING = ("study", "report", "cli", "bench", "measurements")
"""The wings that may import `featstore.probe`."""

WINGS = ("store", "models", "data", "extraction", "probe", *JOINING)
SCREEN = ("click", "rich")


@dataclass(frozen=True)
class Import:
    """An import of one module by another.

    Attributes:
        source, target: dotted names; the target may lie outside the house.
        at_top: whether it runs when the source is imported.
    """

    source: str
    target: str
    at_top: bool


@dataclass(frozen=True)
class Module:
    """A file of the house.

    Attributes:
        name: dotted.
        path: of the file.
    """

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def n_lines(self) -> int:
        """Its lines, empty ones included."""
        return len(self.text.splitlines())

    @property
    def is_package(self) -> bool:
        """True for an `__init__.py`."""
        return self.path.name == "__init__.py"


def modules_of(root: Path) -> dict[str, Module]:
    """Return the modules of a checkout outside tests and benchmarks by their dotted names."""
    found = {}
    links = _links(root)
    for top in sorted(root.iterdir()):
        if top.name.startswith(".") or top.name in OUTSIDE or top.name in ("setup.py", "shared"):
            continue
        if top.suffix == ".py":
            found[top.stem] = Module(top.stem, top)
        elif (top / "__init__.py").exists() and not top.is_symlink():
            for path in _files(top):
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                name = re.sub(r"^\w+", lambda match: links.get(match[0], match[0]), name)
                found[name] = Module(name, path)
    return found


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(where, name) for name in sorted(names) if name.endswith(".py"))


def _links(root: Path) -> dict[str, str]:
    """Return under which dotted names folders at the top are imported, where it is not their own.

    By a link inside another package, or by a line `featstore.probe = probe` in setup.cfg.
    """
    found = {}
    for package in root.iterdir():
        if package.name.startswith(".") or not (package / "__init__.py").exists():
            continue
        for entry in package.iterdir():
            if entry.is_symlink() and entry.resolve().parent == root.resolve():
                found[entry.resolve().name] = f"{package.name}.{entry.name}"
    config = root / "setup.cfg"
    if config.exists():
        mapped = re.findall(r"^\s+([\w.]+\.\w+)\s*=\s*(\w+)\s*$", config.read_text(), re.MULTILINE)
        found |= {folder: name for name, folder in mapped if (root / folder).is_dir()}
    return found


def imports_of(module: Module, known: Mapping[str, Module]) -> list[Import]:
    """Return what a module imports; `from a import b` is of `a.b` where that is a module, else `a`.

    The names of modules in a package that imports lazily (`__getattr__`) count as imports inside a
    function. What stands under `if TYPE_CHECKING` counts as well, but not as an import at the top.
    """
    found = []
    for node, at_top in _walk(module.tree):
        if isinstance(node, ast.Import):
            found += [Import(module.name, alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(Import(module.name, inner if inner in known else base, at_top))
    if module.is_package and "__getattr__" in {name for name, _ in _defined(module.tree)}:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in (node.value, f"{module.name}.{node.value.lstrip('.')}"):
                    if name in known and name != module.name:
                        found.append(Import(module.name, name, False))
    return list(dict.fromkeys(found))


def _walk(tree: ast.AST, at_top: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        unless = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inner = at_top and not later and not unless
        yield node, inner
        yield from _walk(node, inner)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*kept, *filter(None, [node.module])])


def circles(imports: Iterable[Import], at_top: bool) -> list[list[str]]:
    """Return the sets of modules each of which imports all others of its set, by whatever way.

    Strongly connected components of more than one module, by Tarjan's algorithm.
    """
    edges: dict[str, set[str]] = defaultdict(set)
    for each in imports:
        if (each.at_top or not at_top) and each.source != each.target:
            edges[each.source].add(each.target)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(edges):
        if node not in order:
            visit(node)
    return sorted(found)


def breaches(imports: Iterable[Import]) -> list[str]:
    """Return the imports that the rules of the house forbid, each as "source imports target".

    `featstore.probe` imports nothing else of featstore; `.models` and `.data` no store and no
    extraction; `.store` none of its neighbours; only studies, reports and the command line import
    probes; click and rich are of the command line.
    """
    return sorted({f"{each.source} imports {each.target}" for each in imports if _is_breach(each)})


def _is_breach(each: Import) -> bool:
    source, target = _wing(each.source), _wing(each.target)
    ours = each.target.split(".")[0] in ("featstore", "probe", "studies", "terminal", "cli")
    if each.target.split(".")[0] in SCREEN:
        return source != "cli"
    if not ours or source == target:
        return False
    if source == "probe":
        return True
    if source in ("models", "data"):
        return target in ("store", "extraction", "probe", *JOINING)
    if source == "store":
        return target in WINGS
    return target == "probe" and source not in JOINING


def _wing(name: str) -> str:
    """Return the wing that a module lies in, "" for what lies in none.

    >>> _wing("featstore.store.zarr"), _wing("featstore.probe"), _wing("featstore.errors")
    ('store', 'probe', '')
    """
    top, *rest = name.split(".")
    if top != "featstore":
        return {"probe": "probe", "studies": "study", "terminal": "cli", "cli": "cli"}.get(top, "")
    return rest[0] if rest and rest[0] in WINGS else "cli" if rest == ["__main__"] else ""


def single_importer(modules: Mapping[str, Module], imports: Iterable[Import]) -> list[str]:
    """Return the modules under 150 lines that one other module imports; no packages."""
    importers: dict[str, set[str]] = defaultdict(set)
    for each in imports:
        if each.source != each.target:
            importers[each.target].add(each.source)
    return sorted(
        name
        for name, module in modules.items()
        if len(importers[name]) == 1 and module.n_lines < SMALL and not module.is_package
    )


def _defined(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that a module defines at its top, without what it imports."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for each in ast.walk(target):
                    if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                        yield each.id, node


def public_names(module: Module) -> list[str]:
    """Return the public names that a module defines at its top: functions, classes, constants."""
    return sorted({name for name, _ in _defined(module.tree) if not name.startswith("_")})


def exported(module: Module) -> list[str]:
    """Return the names of `__all__`.

    It is a literal, `list(...)` or `[*...]` of a literal's keys, or what a stub beside the module
    declares.
    """
    stub = module.path.with_suffix(".pyi")
    if stub.exists():
        declared = ast.parse(stub.read_text(encoding="utf-8")).body
        named = [each for each in declared if isinstance(each, ast.ImportFrom)]
        return [alias.asname or alias.name for each in named for alias in each.names]
    values = {
        name: node.value
        for name, node in _defined(module.tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    }
    return _names(values["__all__"], values) if "__all__" in values else []


def _names(node: ast.expr, values: Mapping[str, ast.expr]) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Dict):
        return [name for key in node.keys if key for name in _names(key, values)]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [name for each in node.elts for name in _names(each, values)]
    if isinstance(node, ast.Name) and node.id in values:
        return _names(values[node.id], values)
    if isinstance(node, ast.Call):
        return [name for each in node.args for name in _names(each, values)]
    if isinstance(node, ast.Starred):
        return _names(node.value, values)
    if isinstance(node, ast.BinOp):
        return _names(node.left, values) + _names(node.right, values)
    return []


def _functions(tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the functions of a module and the methods of its classes, with their dotted names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{name}", each) for name, each in _functions(node))


def open_ended(module: Module) -> list[str]:
    """Return the public functions and methods that take any argument by name, `**options`."""
    return [
        name
        for name, node in _functions(module.tree)
        if node.args.kwarg and not any(part.startswith("_") for part in name.split("."))
    ]


def called_once(module: Module) -> tuple[list[str], int]:
    """Return the private functions that are used in one place of their module, and how many are.

    A use is any mention of the name outside the function's own body: a call, or as an argument.
    """
    private = {}
    for name, node in _functions(module.tree):
        last = name.rpartition(".")[2]
        if last.startswith("_") and not last.endswith("__"):
            private[name] = node
    once = []
    for name, node in private.items():
        last, inside = name.rpartition(".")[2], set(map(id, ast.walk(node)))
        uses = sum(
            (isinstance(each, ast.Name) and each.id == last and isinstance(each.ctx, ast.Load))
            or (isinstance(each, ast.Attribute) and each.attr == last)
            for each in ast.walk(module.tree)
            if id(each) not in inside
        )
        once += [name] if uses == 1 else []
    return once, len(private)


def skipped(module: Module) -> int:
    """Return how many comments keep the formatter away."""
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    away = re.compile(r"#\s*fmt:\s*(skip|off)")
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return sum(away.match(comment) is not None for comment in comments)


def counted(root: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return what is counted in a checkout, and the names behind each number that has some."""
    modules = modules_of(root)
    house = list(modules.values())
    imports = [each for module in house for each in imports_of(module, modules)]
    inside = [each for each in imports if each.target in modules]
    names = [f"{m.name}.{name}" for m in house for name in public_names(m)]
    libraries = [name for name in names if name.split(".")[0] in ("featstore", "probe")]
    alone = single_importer(modules, inside)
    once = [called_once(module) for module in house]
    shown = [modules[name] for name in ("featstore", "probe", "featstore.probe") if name in modules]
    lengths = [len(exported(module)) for module in shown]
    top, every = circles(inside, True), circles(inside, False)
    against = breaches(imports)
    loose = [f"{m.name}.{name}" for m in house for name in open_ended(m)]
    numbers = {
        "modules outside tests and benchmarks": f"{len(house)}",
        "lines there": f"{sum(module.n_lines for module in house):,}",
        "modules with a single importer and under 150 lines": f"{len(alone)}",
        "public top-level names": f"{len(names)}",
        "of them in `featstore` and `probe`": f"{len(libraries)}",
        "names in `__all__` of `featstore` and of `probe`": " + ".join(map(str, lengths)),
        "import circles, by imports at the top": f"{len(top)}",
        "import circles, by all imports": f"{len(every)}",
        # as long as the wings are not there, no rule is of any of them
        "imports against the rules": f"{len(against)}" if "featstore.probe" in modules else "–",
        "`# fmt: skip`": f"{sum(map(skipped, house))}",
        "public functions with `**`": f"{len(loose)}",
        "private functions used in one place": (
            f"{sum(len(found) for found, _ in once)} of {sum(count for _, count in once)}"
        ),
    }
    behind = {
        "modules with a single importer and under 150 lines": alone,
        "import circles, by imports at the top": [", ".join(each) for each in top],
        "import circles, by all imports": [", ".join(each) for each in every],
        "imports against the rules": against,
        "public functions with `**`": loose,
    }
    return numbers, behind


def timed(root: Path, n_times: int = 5) -> dict[str, str]:
    """Return how long imports and `--help` take, the median of some runs.

    Seconds, and multiples (x) of what a Python takes that does nothing.
    """
    probe = "featstore.probe" if "featstore.probe" in modules_of(root) else "probe"
    commands = {
        "import of `featstore`": ["-c", "import featstore"],
        "import of `probe`": ["-c", f"import {probe}"],
        "`featstore --help`": ["-m", "featstore", "--help"],
    }
    empty = _seconds(root, ["-c", "pass"], n_times)
    found = {}
    for name, words in commands.items():
        seconds = _seconds(root, words, n_times)
        found[name] = f"{seconds:.2f} s, {seconds / empty:.1f} x"
    return found


def _seconds(root: Path, words: list[str], n_times: int) -> float:
    taken = []
    for _ in range(n_times + 1):  # the first one fills the caches
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=root, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def in_wheel(root: Path) -> list[str]:
    """Build the wheel of a checkout in a folder aside and return the names at its top."""
    with tempfile.TemporaryDirectory() as scratch:
        tree, out = Path(scratch, "tree"), Path(scratch, "out")
        hidden = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(root, tree, symlinks=True, ignore=hidden)
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        wheel += ["--no-build-isolation", "--wheel-dir", str(out), str(tree)]
        subprocess.run(wheel, check=True)
        (built,) = out.glob("*.whl")
        with zipfile.ZipFile(built) as archive:
            tops = {name.split("/")[0] for name in archive.namelist()}
    return sorted(top for top in tops if not top.endswith((".dist-info", ".data")))


def table(numbers: Mapping[str, str], before: Mapping[str, str] = BEFORE) -> str:
    """Return the numbers as a Markdown table, beside those before the move and those wanted."""
    rows = [
        f"| {name} | {before.get(name, '–')} | {now} | {WANTED.get(name, '–')} |"
        for name, now in numbers.items()
    ]
    return "\n".join(["| what | before | now | wanted |", "|---|---:|---:|---:|", *rows, ""])


def filled(text: str, numbers: Mapping[str, str]) -> str:
    """Return a document with the table between its marks.

    Raises:
        ValueError: it has no marks.
    """
    if not MARKED.search(text):
        raise ValueError("there is no <!-- house: table --> ... <!-- end --> to write into")
    return MARKED.sub(lambda match: match[1] + table(numbers) + match[2], text)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is counted")
    parser.add_argument("--wheel", action="store_true", help="build the wheel and list its top")
    parser.add_argument("--names", action="store_true", help="list what is behind the numbers")
    parser.add_argument("--no-times", action="store_true", help="time no imports")
    parser.add_argument(
        "--markdown", action="store_true", help="write the table into docs/architecture.md"
    )
    given = parser.parse_args(arguments)
    numbers, behind = counted(given.root)
    if not given.no_times:
        numbers |= timed(given.root)
    if given.wheel:
        tops = in_wheel(given.root)
        numbers["top-level names in the wheel"] = f"{len(tops)}"
        behind["top-level names in the wheel"] = tops
    print(table(numbers))
    for name, found in behind.items() if given.names else ():
        print(f"{name}:", *found, sep="\n  ")
    if given.markdown:
        document = given.root / "docs" / "architecture.md"
        document.write_text(filled(document.read_text(encoding="utf-8"), numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
