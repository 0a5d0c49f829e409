"""Counts of the house, on a small tree of which every number is known."""

import os
from pathlib import Path

import pytest

from benchmarks import house

FILES = {
    "featstore/__init__.py": """
from importlib import import_module
_LAZY = {"extract": "featstore.models"}
__all__ = ["open", "extract"]
def __getattr__(name):
    return getattr(import_module(_LAZY[name]), name)
""",
    "featstore/errors.py": "class DataError(Exception): ...\n",
    "featstore/store/__init__.py": "",
    "featstore/store/zarr.py": """
import zarr
from featstore import errors
from featstore.store import locks
def open(path, **options):
    return _opened(path)
def _opened(path):
    return _path(path) or _path("")
def _path(path):
    return locks.hold(path)
def _forgotten():
    return _forgotten()
class Store:
    def tap(self, **names): ...
    def _tap(self, **names): ...
class _Hidden:
    def tap(self, **names): ...
""",
    "featstore/store/locks.py": """
A, b = 1, 2
_C: int = 3
x = [1, 2,
     3]  # fmt: skip
def hold(path):
    from featstore.store.zarr import Store
    return "# fmt: skip"
""",
    "featstore/models.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import featstore.store.zarr
import featstore.errors
""",
    "featstore/cli.py": "import click\nfrom featstore.probe import sweep\n",
    "probe/__init__.py": '_HOMES = {"sweep": "sweeps", "fit": "fits"}\n__all__ = list(_HOMES)\n',
    "probe/sweeps.py": """
import rich.table
from . import fits
from featstore.errors import DataError
""",
    "probe/fits.py": "from probe import arrays\ndef fit(): ...\n" + "\n" * 200,
    "tests/test_store.py": "from featstore.store import zarr\n",
    "benchmarks/speed.py": "from featstore.store import zarr\n",
    "docs/page.py": "",
    ".venv/lib.py": "",
}


@pytest.fixture
def root(tmp_path) -> Path:
    """Today's tree: `probe` is a package of its own."""
    for name, text in FILES.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "house"


@pytest.fixture
def linked(root) -> Path:
    """The tree in which `probe` is `featstore.probe`, by a link."""
    os.symlink("../probe", root / "featstore" / "probe", target_is_directory=True)
    for path in (root / "probe").glob("*.py"):
        path.write_text(path.read_text().replace("from probe", "from featstore.probe"))
    return root


def imports(root: Path) -> list[house.Import]:
    modules = house.modules_of(root)
    return [each for module in modules.values() for each in house.imports_of(module, modules)]


def test_modules_are_those_outside_tests_and_benchmarks(root):
    assert set(house.modules_of(root)) == {
        "featstore",
        "featstore.errors",
        "featstore.store",
        "featstore.store.zarr",
        "featstore.store.locks",
        "featstore.models",
        "featstore.cli",
        "probe",
        "probe.sweeps",
        "probe.fits",
    }


def test_a_linked_file_counts_once_under_the_name_it_is_imported_by(root, linked):
    names = house.modules_of(linked)
    assert len(names) == 10
    assert {"featstore.probe", "featstore.probe.sweeps"} <= set(names)
    assert not any(name.split(".")[0] == "probe" for name in names)


def test_a_mapping_in_setup_cfg_names_them_as_a_link_does(root):
    (root / "setup.cfg").write_text("[options]\npackage_dir =\n    featstore.probe = probe\n")
    assert "featstore.probe.sweeps" in house.modules_of(root)


def test_imports_are_of_the_module_and_know_when_they_run(root):
    found = {(each.source, each.target): each.at_top for each in imports(root)}
    assert found["featstore.store.zarr", "featstore.store.locks"]
    assert found["featstore.store.zarr", "featstore.errors"]
    assert not found["featstore.store.locks", "featstore.store.zarr"]
    assert not found["featstore.models", "featstore.store.zarr"]
    assert not found["featstore", "featstore.models"]  # by name, when it is asked for
    assert found["probe.sweeps", "probe.fits"]  # from . import fits
    assert ("probe.fits", "probe") in found  # probe.arrays is no module


def test_circles_are_found_at_the_top_and_in_functions(root):
    assert house.circles(imports(root), at_top=True) == []
    assert house.circles(imports(root), at_top=False) == [
        ["featstore.store.locks", "featstore.store.zarr"]
    ]
    ring = [house.Import(a, b, True) for a, b in ("ab", "bc", "ca", "cd", "de", "ed", "ff")]
    assert house.circles(ring, at_top=True) == [["a", "b", "c"], ["d", "e"]]


def test_breaches_are_those_of_the_rules(linked):
    assert house.breaches(imports(linked)) == [
        "featstore.models imports featstore.store.zarr",
        "featstore.probe.sweeps imports featstore.errors",
        "featstore.probe.sweeps imports rich.table",
    ]


@pytest.mark.parametrize(
    ("source", "target", "breach"),
    [
        ("featstore.probe.a", "featstore.probe.b", False),
        ("featstore.probe.a", "featstore", True),
        ("featstore.data.rows", "featstore.extraction.run", True),
        ("featstore.data.rows", "featstore.models.taps", False),
        ("featstore.store.zarr", "featstore.data.rows", True),
        ("featstore.store.zarr", "featstore.errors", False),
        ("featstore.extraction.run", "featstore.store.store", False),
        ("featstore.extraction.run", "featstore.probe", True),
        ("featstore.study.run", "featstore.probe", False),
        ("featstore.study.run", "click", True),
        ("featstore.cli.probe", "click", False),
        ("cli", "featstore.cli", False),
        ("featstore.__main__", "featstore.cli", False),
        ("featstore.store.zarr", "numpy", False),
    ],
)
def test_each_rule_knows_a_breach(source, target, breach):
    assert bool(house.breaches([house.Import(source, target, False)])) is breach


def test_small_modules_of_a_single_importer(root):
    modules = house.modules_of(root)
    assert house.single_importer(modules, imports(root)) == [
        "featstore.models",
        "featstore.store.locks",
    ]


def test_public_names_are_functions_classes_and_constants(root):
    modules = house.modules_of(root)
    assert house.public_names(modules["featstore.store.zarr"]) == ["Store", "open"]
    assert house.public_names(modules["featstore.store.locks"]) == ["A", "b", "hold", "x"]


def test_exported_names_are_read_without_an_import(root):
    modules = house.modules_of(root)
    assert house.exported(modules["featstore"]) == ["open", "extract"]
    assert house.exported(modules["probe"]) == ["sweep", "fit"]
    assert house.exported(modules["probe.fits"]) == []
    stub = "from . import errors as errors\nfrom .store import create as make\n"
    modules["featstore"].path.with_suffix(".pyi").write_text(stub)
    assert house.exported(modules["featstore"]) == ["errors", "make"]


def test_functions_are_public_or_not(root):
    zarr = house.modules_of(root)["featstore.store.zarr"]
    assert house.open_ended(zarr) == ["open", "Store.tap"]
    # _path is used twice; _forgotten only by itself, and Store._tap by nobody
    assert house.called_once(zarr) == (["_opened"], 4)


def test_comments_keep_the_formatter_away_and_texts_do_not(root):
    assert house.skipped(house.modules_of(root)["featstore.store.locks"]) == 1


def test_the_table_has_before_now_and_wanted(root):
    numbers, behind = house.counted(root)
    assert numbers["modules outside tests and benchmarks"] == "10"
    assert numbers["names in `__all__` of `featstore` and of `probe`"] == "2 + 2"
    assert behind["public functions with `**`"] == [
        "featstore.store.zarr.open",
        "featstore.store.zarr.Store.tap",
    ]
    assert (
        "| `# fmt: skip` | 200 | 1 | 0 |"
        in house.table(numbers, {"`# fmt: skip`": "200"}).splitlines()
    )
    page = "a\n<!-- house: table -->\nold\n<!-- end -->\nb\n"
    text = house.filled(page, numbers)
    assert text == house.filled(text, numbers)
    assert text.startswith("a\n<!-- house: table -->\n| what | before | now | wanted |\n")
    assert text.endswith("|\n<!-- end -->\nb\n")
    with pytest.raises(ValueError, match="there is no <!-- house"):
        house.filled("no marks", numbers)


@pytest.mark.long
def test_the_wanted_and_the_earlier_are_of_rows_that_there_are():
    numbers, _ = house.counted(house.ROOT)
    timed = {"import of `featstore`", "import of `probe`", "`featstore --help`"}
    known = {*numbers, *timed, "top-level names in the wheel"}
    assert set(house.WANTED) <= known
    assert set(house.BEFORE) == known
