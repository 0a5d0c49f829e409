"""The installation: one import name, beside files of the same names that belong to others."""

import csv
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from featstore.errors import DISTRIBUTION

ROOT = Path(__file__).parents[1]
# Names that this project once took in everybody's site-packages. Each of these says when it runs.
THEIRS = ("cli.py", "probe.py", "studies.py", "terminal/__init__.py", "benchmarks/__init__.py")
RUNS = "raise SystemExit('the file of somebody else was run')\n"

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Return what a command writes; its failure is this test's."""
    env = {**os.environ, "PYTHONPATH": "", "PYTHONNOUSERSITE": "1", **environment}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def put_theirs(folder: Path) -> None:
    for name in THEIRS:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(RUNS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of what git would commit here, built offline."""
    work = tmp_path_factory.mktemp("wheel")
    names = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).exists():
            copy = work / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                copy.symlink_to(os.readlink(ROOT / name))
            else:
                copy.write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", work / "dist", ".")
    run(*pip, *build, cwd=work / "source")
    (built,) = (work / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A folder of packages that holds the wheel and what others have installed."""
    site = tmp_path_factory.mktemp("site")
    put_theirs(site)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps")
    run(*pip, "--no-index", "--quiet", "--target", site, wheel, cwd=site)
    return site


@pytest.fixture(scope="module")
def python(site, tmp_path_factory):
    """Run Python, in a folder with files of those names, on what the wheel has installed."""
    here = tmp_path_factory.mktemp("here")
    put_theirs(here)
    # what the wheel needs comes from this interpreter, the checkout does not
    needs = [p for p in sys.path if "-packages" in p or not Path(p).is_relative_to(ROOT)]
    paths = os.pathsep.join(map(str, [site, *dict.fromkeys(needs)]))

    def call(*words: str) -> str:
        home = str(here / "stores")
        return run(sys.executable, *words, cwd=here, PYTHONPATH=paths, FEATSTORE_HOME=home)

    return call


def test_one_import_name_is_at_the_top_with_all_its_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"featstore", info}
    assert info.startswith(f"{DISTRIBUTION.replace('-', '_')}-")
    for source in ("featstore", "probe"):
        there = [path for path in (ROOT / source).rglob("*") if path.is_file()]
        for path in there:
            if path.suffix == ".pyc":
                continue
            within = path.relative_to(ROOT).as_posix()
            within = within if source == "featstore" else f"featstore/{within}"
            assert within in names
    suffixes = {Path(name).suffix for name in names}
    assert suffixes >= {".cu", ".pyi", ".toml", ".json", ".css", ".js"}
    assert "featstore/py.typed" in names


def test_the_wheel_runs_where_others_have_files_of_those_names(python, site):
    for code in ("import featstore.probe", "from featstore.probe import sweep"):
        where = python("-c", f"{code}; import featstore; print(featstore.__file__)").strip()
        assert Path(where).is_relative_to(site)
    assert "extract" in python("-m", "featstore", "--help")
    assert "featstore" in python("-m", "featstore", "--version")
    python("-m", "featstore", "ls")
    assert "extract" in python(str(site / "bin" / "featstore"), "--help")


def test_uninstalling_touches_nothing_of_others(site):
    (record,) = site.glob("*.dist-info/RECORD")
    with record.open(newline="") as file:
        names = [line[0] for line in csv.reader(file)]
    tops = {Path(name).parts[0] for name in names if not name.startswith("..")}
    assert tops == {"featstore", record.parent.name}
    assert {name for name in names if name.startswith("..")} <= {"../../bin/featstore"}
    assert all((site / name).read_text() == RUNS for name in THEIRS)
