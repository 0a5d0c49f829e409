"""Parts of a study: made when stale, kept when fresh, noted only when whole."""

from dataclasses import replace

import pytest

from featstore.study.records import Part, Records


@pytest.fixture
def part(tmp_path):
    """A part of one file, and how often it was made."""
    path, made = tmp_path / "tables" / "a.csv", []

    def make():
        made.append(path.write_text("1"))
        return {"probes": 3}

    return Part("tables/a", "0", [path], make), made


def test_a_part_is_made_once(tmp_path, part):
    one, made = part
    records = Records(tmp_path)
    assert [records.bring(one), records.bring(one), Records(tmp_path).bring(one)] == [1, 0, 0]
    assert len(made) == 1
    assert records.record("tables/a")["probes"] == 3


@pytest.mark.parametrize("change", ["fingerprint", "file", "gone", "record"])
def test_what_has_changed_is_made_again(tmp_path, part, change):
    one, made = part
    records = Records(tmp_path)
    records.bring(one)
    if change == "fingerprint":
        one = replace(one, fingerprint="1")
    elif change == "file":
        one.files[0].write_text("2")
    elif change == "gone":
        one.files[0].unlink()
    else:
        (tmp_path / ".made" / "tables" / "a.json").write_text("{")
    assert records.bring(one)
    assert len(made) == 2
    assert one.files[0].read_text() == "1"
    assert not records.bring(one)


def test_only_stale_parts_are_made_and_one_that_fails_is_not_noted(tmp_path, part):
    one, made = part
    records = Records(tmp_path)
    records.bring(one)

    def fail():
        raise OSError("full")

    other = Part("tables/b", "0", [tmp_path / "tables" / "b.csv"], fail)
    with pytest.raises(OSError, match="full"):
        records.bring(one, other)
    assert len(made) == 1
    assert records.record("tables/b") == {}
    assert records.bring(one, replace(other, make=lambda: other.files[0].write_text("b") and None))
    assert len(made) == 1
