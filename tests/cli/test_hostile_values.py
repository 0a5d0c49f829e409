"""Values beyond reason, names with control characters, disks that are full: one line each."""

import errno

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from featstore import probe
from featstore.cli import main
from featstore.cli.common import _failure
from featstore.errors import BadStudy as StudyUsageError
from featstore.probe.errors import FileError, UsageError, line, seeds_of, visible
from featstore.probe.modes import read_indices
from featstore.probe.results.files import (
    escaped,
    load_arrays,
    opened,
    read_table,
    save_arrays,
    save_table,
    unescaped,
    written_whole,
)
from featstore.probe.results.views import Column, View, as_html, as_markdown
from featstore.probe.subsets import check_seeds
from featstore.study import spec

X, Y = np.eye(12, 4, dtype=np.float32), np.arange(12) % 3


def said(*words, status=2):
    ran = CliRunner().invoke(main, list(words))
    assert ran.exit_code == status, ran.output
    return ran.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("1000000", "1,000,000 seeds are as many probes of every mode, fraction and penalty"),
        ("100000000000000000000", "100000000000000000000 does not fit in 64 bits"),
        ("3,100000000000000000000", "100000000000000000000 does not fit in 64 bits"),
        ("9" * 5000, "does not fit in 64 bits"),
    ],
)
def test_seeds_beyond_reason_are_refused_before_they_are_listed(tiny_store, seeds, message):
    assert message in said("probe", str(tiny_store.path), "--fractions", "0.5", "--seeds", seeds)


def test_the_library_refuses_them_too():
    with pytest.raises(UsageError, match="10,001 seeds are as many probes"):
        probe.sweep((X, Y), (X, Y), fractions=[0.5], seeds=range(10_001))
    for seed in (2**63, -(2**63) - 1):
        with pytest.raises(UsageError, match="does not fit in 64 bits"):
            check_seeds([seed])
    assert check_seeds([2**63 - 1, -(2**63)]) == [2**63 - 1, -(2**63)]
    with pytest.raises(UsageError, match="1,000,000,000,000 seeds"):
        seeds_of(10**12)


@pytest.mark.parametrize("word", ["a\0b", "~nobody-here/a.zarr"])
@pytest.mark.parametrize("command", ["info", "probe", "verify", "export"])
def test_names_that_no_file_has_are_refused(command, word):
    message = "zero byte" if "\0" in word else "home folder of nobody here"
    assert message in said(command, word)


def test_nesting_without_end_is_one_line(tmp_path):
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    assert "nested too deeply" in said("study", str(tmp_path / "deep.toml"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"deep.json is no table of results \("):
        read_table(tmp_path / "deep.json")


def test_a_shape_that_is_not_there_is_not_allocated(tmp_path):
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000, 100)}"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "huge.npy").write_bytes(npy)
    with pytest.raises(UsageError, match="holds no feature indices"):
        read_indices(tmp_path / "huge.npy")
    import zipfile

    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("labels.npy", npy)
    with pytest.raises(FileError, match="which is not what it holds"):
        load_arrays(tmp_path / "huge.npz")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        ImportError("libtorch.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_lack_of_memory_is_said_as_such(error):
    assert _failure(error).message.startswith("there is not enough memory")


# --- disks ------------------------------------------------------------------------------------


class Full:
    """A disk without room: every write of more than a few bytes fails."""

    def __init__(self, monkeypatch, room):
        import builtins
        import io

        class File(io.FileIO):
            def write(self, data):
                if self.tell() + len(data) > room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return super().write(data)

        def open_(file, mode="r", *arguments, **options):
            if "w" in mode and "b" in mode:
                return io.BufferedWriter(File(file, "w"), 16)
            return real(file, mode, *arguments, **options)

        real = io.open
        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr(builtins, "open", open_)


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_a_plot_on_a_full_disk_is_one_error_and_no_file(tmp_path, monkeypatch, suffix):
    from featstore.probe.figures import accuracy_against_fraction

    table = probe.sweep((X, Y), (X, Y), fractions=[0.5], solver="ridge", l2=0.1).table
    Full(monkeypatch, 1000)
    with pytest.raises(OSError, match="No space left") as raised:
        accuracy_against_fraction(table, tmp_path / f"a{suffix}")
    assert raised.value.filename == str(tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_arrays_on_a_full_disk_are_one_error_and_no_file(tmp_path, monkeypatch):
    Full(monkeypatch, 1000)
    with pytest.raises(OSError, match="No space left") as raised:
        save_arrays(tmp_path / "a.npz", {"x": np.zeros(100_000)})
    assert raised.value.filename == str(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_through_a_link_or_read_from_a_pipe(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(FileError, match="is not a regular file"), opened(tmp_path / "a.csv"):
        pass
    with pytest.raises(FileError, match="cannot be read"), opened(tmp_path / "a\0b"):
        pass
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with written_whole(tmp_path / "b.csv") as aside:
        assert aside.name not in (f".b.{os.getpid()}.csv", "b.csv")
        aside.write_text("new")
    assert precious.read_text() == "mine"


# --- names ------------------------------------------------------------------------------------


def test_control_characters_of_names_are_shown(tmp_path):
    assert visible("\x1b[2Ja\x9b\x7f\u202eb\r") == r"\x1b[2Ja\x9b\x7f\u202eb\x0d"
    assert line("a\nError: b") == r"a\nError: b"
    path = tmp_path / "\x1b[31mred.zarr"
    assert r"\x1b[31mred.zarr" in said("info", str(path), status=1)


def test_texts_that_a_spreadsheet_would_run_are_texts_and_come_back(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+a", "-b", "@c", "\td", "'=e", "''=f", "'g", "-1", "+2.5", "h"]
    table = pd.DataFrame({"class": names, "class_accuracy": np.linspace(0, 1, len(names))})
    assert escaped(table)["class"].tolist() == [
        *(f"'{name}" for name in names[:7]), *names[7:]
    ]  # fmt: skip
    for suffix in (".csv", ".json", ".parquet"):
        save_table(table, tmp_path / f"t{suffix}", digest=True)
        assert read_table(tmp_path / f"t{suffix}")["class"].tolist() == names
    cells = pd.read_csv(tmp_path / "t.csv", dtype=str)["class"]
    assert not any(cell[0] in "=@\t" or (cell[0] in "+-" and cell[1] > "9") for cell in cells)


HELD = [
    "\x1b[31mred", r"\x1b[31m", r"\x5cx1b", "\\\x1b", "'\x1b=", "=\x1b", "\r=1", "\x9b", "\u202e",
    r"C:\x41", r"\u12", "two\nlines", "\u200fa", r"\ud800",
]  # fmt: skip


def test_control_characters_are_escapes_in_csv_and_come_back(tmp_path):
    table = pd.DataFrame({"class": HELD, "class_accuracy": np.linspace(0, 1, len(HELD))})
    save_table(table, tmp_path / "t.csv", digest=True)
    written = (tmp_path / "t.csv").read_text()
    assert visible(written) == written
    assert r"\x1b[31mred" in written
    assert read_table(tmp_path / "t.csv")["class"].tolist() == HELD
    # what earlier files hold as it was stays so
    (tmp_path / "old.csv").write_text("class,class_accuracy\nC:\\x41\\x,0.5\n")
    assert read_table(tmp_path / "old.csv")["class"].tolist() == [r"C:\x41\x"]


@given(st.lists(st.text(st.sampled_from("\\x15cbu20e'=\x1b\x9b\u202e "), max_size=9)))
def test_any_text_comes_back_from_what_csv_holds(texts):
    table = escaped(pd.DataFrame({"class": texts}))
    assert [visible(text) for text in table["class"]] == table["class"].tolist()
    assert unescaped(table)["class"].tolist() == texts


def test_names_in_a_notebook_and_in_markdown_are_visible():
    name = "a\x1b[2J\nb|c"
    view = View([Column("class", "text", [name])], "t\x1b")
    assert r"a\x1b[2J\nb|c" in as_html([view], "c\x9b")
    assert "\x1b" not in as_html([view], "c\x9b")
    assert "\x9b" not in as_html([view], "c\x9b")
    assert as_markdown(view).splitlines()[-1] == r"| a\x1b[2J\nb\|c |"


# --- a folder that is gone ---------------------------------------------------------------------


@pytest.mark.parametrize("command", list(main.commands))
def test_a_folder_that_was_deleted_is_one_line(tmp_path, monkeypatch, command):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        for words in ([], ["a.zarr"], ["--out", "b.csv"]):
            assert "the folder in which this runs was deleted" in said(command, *words)
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
        gone = FileNotFoundError(2, "No such file or directory")
        assert "the folder in which this runs was deleted" in _failure(gone).message
    finally:
        monkeypatch.undo()


# --- studies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["page", "template"])
def test_a_study_writes_and_shows_files_of_its_own_folder_alone(tmp_path, key):
    (tmp_path / "study").mkdir()
    file = tmp_path / "study" / "s.toml"
    (tmp_path / "study" / "link").symlink_to(tmp_path)
    rest = '[stores]\na = {store = "a.zarr"}\n[probes.ridge]\n'
    for inside in ("page.md", "sub/page.md", str(tmp_path / "study" / "p.md"), "x/../p.md"):
        file.write_text(f'{key} = "{inside}"\n{rest}')
        spec.read(file)
    for outside in ("../page.md", "/etc/passwd", "link/page.md", "x/../../p.md"):
        file.write_text(f'{key} = "{outside}"\n{rest}')
        with pytest.raises(StudyUsageError, match=rf"{key} = '.*--allow-paths if you trust"):
            spec.read(file)
        assert getattr(spec.read(file, allow_paths=True), key) == outside
    assert "lies outside of the study's folder" in said("study", str(file), "--dry-run")


@pytest.mark.parametrize("way", ["itself", "dots", "link", "hard link"])
def test_no_command_writes_over_what_it_reads(tmp_path, way):
    result = probe.sweep((X, Y), (X, Y), fractions=[0.5, 1.0], seeds=2, solver="ridge", l2=0.1)
    results = tmp_path / "r.csv"
    result.save(results)
    before = results.read_bytes()
    (tmp_path / "in").mkdir()
    other = tmp_path / "o.csv"
    out = {
        "itself": lambda: results,
        "dots": lambda: tmp_path / "in" / ".." / "r.csv",
        "link": lambda: other.symlink_to(results) or other,
        "hard link": lambda: other.hardlink_to(results) or other,
    }[way]()
    message = said("redundancy", str(results), "--out", str(out))
    assert message == f"Error: {out} is read for it; choose another file to write"
    assert results.read_bytes() == before
    words = ["extract", "--model", "test_vit", "--dataset", f"csv:{results}", "--report", str(out)]
    assert "is read for it" in said(*words)
    assert results.read_bytes() == before


def test_no_command_writes_two_things_to_one_file(tiny_store, tmp_path):
    two = ["--out", str(tmp_path / "a.csv"), "--per-class", f"{tmp_path}/../{tmp_path.name}/a.csv"]
    sweep = ["probe", str(tiny_store.path), "--fractions", "0.5", "--seeds", "1"]
    message = said(*sweep, *two)
    assert "a.csv is to be written twice; name two files" in message
    assert not (tmp_path / "a.csv").exists()
