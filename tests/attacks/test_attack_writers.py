"""Several writers of one place at once: one writes, the others are told, and nothing is mixed."""

import pytest
from attack import Command, Record, arrays, assert_plain, attempts, contents, instants, run, tree
from test_attack_kills import importing

import featstore
from featstore.errors import StoreNotFound

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two stores, of other rows."""
    folder = tmp_path_factory.mktemp("sources")
    for name, seed in (("a", 0), ("b", 1)):
        made = importing(folder / f"{name}.zarr", arrays(folder / name, seed=seed))
        assert_plain(*run(*made, said=folder / "said"))
    return folder


@pytest.mark.parametrize("kind", ["same", "other", "overwrite", "remove"])
@pytest.mark.parametrize("format", featstore.FORMATS)
def test_of_several_writers_one_writes(sources, tmp_path, format, kind):
    draw = instants(f"writers {kind} {format}")
    before = tree(sources / "a.zarr")
    wanted = [contents(sources / f"{name}.zarr") for name in "ab"]
    with Record(f"writers: {kind}, {format}") as record:
        for number in range(attempts(1, 0.1)):
            out = tmp_path / str(number) / f"c.{format}"
            out.parent.mkdir()
            commands = []
            for turn in range(4):
                source = "ab"[turn % 2] if kind in ("other", "overwrite") else "a"
                arguments = ["convert", sources / f"{source}.zarr", out, "--format", format]
                arguments += ["--overwrite"] if kind == "overwrite" else []
                if kind == "remove" and turn == 3:
                    arguments = ["rm", out, "--yes"]
                said = tmp_path / f"said{turn}"
                commands.append(Command(*arguments, said=said))
                commands[-1].process.join(draw.uniform(0, 0.1))
            ended = [(command.wait(), command.text()) for command in commands]
            for status, text in ended:
                assert_plain(status, text)
                record("done" if status == 0 else "told")
            try:
                assert contents(out) in wanted
            except StoreNotFound:
                assert kind == "remove"
            else:
                assert any(status == 0 for status, _ in ended)
            assert_plain(*run("gc", out.parent, "--days", "0", "--yes", said=tmp_path / "said"))
            assert {entry.name for entry in out.parent.iterdir()} <= {out.name}
    assert tree(sources / "a.zarr") == before
