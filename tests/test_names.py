"""Names that a person sees of the library, and what completion offers of them."""

import ast
import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import featstore
from featstore import probe

ROOT = Path(__file__).parents[1]


def stub_names(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize(
    ("module", "file"), [(featstore, "featstore/__init__.pyi"), (probe, "probe/__init__.pyi")]
)
def test_dir_lists_the_public_names_and_nothing_else(module, file):
    assert set(dir(module)) == stub_names(file)
    assert all(getattr(module, name) is not None for name in dir(module))


def completed(text: str) -> list[str]:
    return [one.name for one in jedi.Script(text, path=ROOT / "notebook.py").complete()]


def in_a_notebook(text: str, library) -> set[str]:
    """Return what completion offers where the library is imported already."""
    name = text.partition(".")[0]
    return {one.name for one in jedi.Interpreter(text, [{name: library}]).complete()}


@pytest.mark.slow
def test_a_notebook_offers_the_public_names_and_nothing_else():
    import featstore.extraction.run

    assert "extraction" in vars(featstore)  # a module that has been imported is an attribute
    assert in_a_notebook("featstore.ex", featstore) == {"export", "extract", "Extraction"}
    assert in_a_notebook("featstore.", featstore) == stub_names("featstore/__init__.pyi")
    assert in_a_notebook("probe.", probe) == stub_names("probe/__init__.pyi")
    assert in_a_notebook("featstore.extract(net, data, ta", featstore) == {"taps="}


@pytest.mark.slow
def test_completion_offers_the_functions_and_their_arguments():
    # of text alone jedi offers the modules of a package too, as of any package
    offered = completed("import featstore\nfeatstore.ex")
    assert offered[:2] == ["export", "extract"]
    assert "exporting" not in offered
    assert completed("import featstore\nfeatstore.extract(net, data, ta") == ["taps="]
    (signature,) = jedi.Script("import featstore\nfeatstore.extract(").get_signatures()
    names = [one.name for one in signature.params]
    assert names[:3] == ["model", "dataset", "weights"]
    assert {"taps", "dtype", "ids", "progress"} <= set(names)


def test_the_names_load_no_array_library():
    code = (
        "import sys, featstore, featstore.probe;"
        "slow = {'torch', 'numpy', 'pandas', 'pydantic', 'scipy', 'zarr', 'click', 'rich'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_help_loads_no_array_library():
    code = (
        "import sys\nfrom featstore.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "slow = {'torch', 'numpy', 'pandas', 'pydantic', 'scipy', 'zarr', 'rich', 'http'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("library", [featstore, featstore.probe])
def test_names_that_moved_say_where_they_went(library):
    for name in library._MOVED:
        with pytest.warns(DeprecationWarning, match=f"{name} has moved: it is ") as told:
            assert getattr(library, name) is not None
        assert str(told[0].message).split(" it is ")[1].startswith(f"{library.__name__}.")
        assert name not in dir(library)
