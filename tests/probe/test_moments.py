import os
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import BACKENDS, PRECISIONS, PROBLEMS, clusters, in_precision, relative

from featstore.probe import moments as moments_cache, pieces
from featstore.probe.arrays import Backend, panels, tiles
from featstore.probe.errors import DataError, MemoryBudgetError
from featstore.probe.memory import Settings
from featstore.probe.moments import Moments, cached_moments, moments
from featstore.probe.rows import ArrayBlocks


def of(x, y, n_classes=None, block_rows=None, **arguments) -> Moments:
    return moments(ArrayBlocks(x, y, n_classes, block_rows), Settings(**arguments))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_moments_are_the_sums_of_their_definition(name, backend, precision):
    problem = in_precision(PROBLEMS[name](), precision)
    device = "cuda" if backend == "cupy" else "cpu"
    found = of(*problem.train, backend=Backend(backend, device))
    x = problem.x.astype(np.float64)
    centred = x - x.mean(0)
    targets = np.eye(problem.n_classes)[problem.y]
    limit = 1e-6 if precision == "float32" else 1e-13
    assert found.precision == precision
    assert found.n == len(x)
    assert (found.counts == targets.sum(0)).all()
    assert relative(found.mean, x.mean(0)) <= 10 * limit
    assert relative(found.covariance(False), centred.T @ centred / len(x)) <= limit
    assert relative(found.cross(False), centred.T @ targets / len(x)) <= 10 * limit
    constant = (x == x[0]).all(0)
    assert (found.variance[constant] == 0).all()
    scale = np.where(constant, 1, x.std(0))
    assert relative(found.scale(), scale) <= limit
    scaled = centred / scale
    scaled[:, constant] = 0
    assert relative(found.covariance(), scaled.T @ scaled / len(x)) <= limit


def halves(problem, row=None):
    row = len(problem.y) // 3 if row is None else row
    classes = problem.n_classes
    return (
        of(problem.x[:row], problem.y[:row], classes),
        of(problem.x[row:], problem.y[row:], classes),
    )


def assert_same(found: Moments, wanted: Moments, limit: float):
    assert (found.counts == wanted.counts).all()
    assert relative(found.mean, wanted.mean) <= limit
    assert relative(found.covariance(False), wanted.covariance(False)) <= limit
    assert relative(found.cross(False), wanted.cross(False)) <= limit


@pytest.mark.parametrize("precision", PRECISIONS)
def test_moments_of_parts_add_up(precision):
    problem = in_precision(PROBLEMS["far from zero"](), precision)
    first, second = halves(problem)
    assert not np.array_equal(first.shift, second.shift)
    limit = 1e-6 if precision == "float32" else 1e-12
    assert_same(first + second, of(*problem.train), limit)


def test_a_part_can_be_taken_away():
    problem = in_precision(PROBLEMS["tall"](), "float64")
    first, second = halves(problem)
    assert_same(first + second - second, first, 1e-12)
    assert_same(of(*problem.train) - first, second, 1e-12)


def test_what_is_no_part_cannot_be_taken_away():
    first, second = halves(PROBLEMS["tall"]())
    with pytest.raises(DataError, match="not part"):
        first - (second + second)


def test_moments_of_other_shapes_do_not_go_together():
    with pytest.raises(DataError, match="24 features and 2 classes"):
        of(*PROBLEMS["tall"]().train) + of(*PROBLEMS["two classes"]().train)


def test_another_shift_changes_nothing():
    found = of(*in_precision(PROBLEMS["tall"](), "float64").train)
    assert_same(found.shifted_to(found.shift + 3), found, 1e-12)


def test_a_feature_constant_in_one_part_only_is_not_constant():
    x = np.ones((40, 2), np.float32)
    x[20:, 0] = 2
    y = np.arange(40) % 2
    both = of(x[:20], y[:20], 2) + of(x[20:], y[20:], 2)
    assert both.variance.tolist() == [0.25, 0]


def test_float32_products_do_not_lose_what_lies_far_from_zero():
    problem = clusters(20_000, 1, 8, 2)
    x = problem.x + np.float32(1000)
    found = of(x, problem.y)
    exact = np.cov(x.astype(np.float64).T, bias=True)
    assert relative(found.covariance(False), exact) <= 1e-6


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 70),
    d=st.integers(1, 300),
    block_rows=st.integers(1, 80),
    piece_rows=st.integers(1, 80),
    backend=st.sampled_from(["torch", "numpy"]),
)
def test_neither_blocks_nor_pieces_change_the_sums(n, d, block_rows, piece_rows, backend):
    problem = in_precision(clusters(n, 1, d, 2), "float64")
    with patch("featstore.probe.memory.MOMENT_ROWS", piece_rows):
        cut = of(*problem.train, 2, block_rows, backend=Backend(backend, "cpu"))
    assert_same(cut, of(*problem.train, 2), 1e-11)


def test_too_little_memory_is_said_before_reading():
    blocks = ArrayBlocks(*PROBLEMS["tall"]().train)
    with pytest.raises(MemoryBudgetError, match="too little for the moments: allow at least"):
        moments(blocks, Settings(memory=10_000))


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(value, backend):
    x, y = PROBLEMS["tall"]().train
    x = x.copy()
    x[321, 17] = value
    with pytest.raises(DataError, match=rf"row 321 of train has {value} as feature 17"):
        of(x, y, block_rows=50, backend=Backend(backend, "cpu"))


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-23, 1e16, 1e25, 1e36])
def test_features_whose_products_float32_does_not_hold_are_multiplied_in_float64(scale):
    x, y = PROBLEMS["tall"]().train
    scaled = (x.astype(np.float64) * scale).astype(np.float32)
    found, exact = of(scaled, y), of(scaled.astype(np.float64), y)
    assert found.precision == "float32"
    assert found.products == ("float32" if scale == 1e16 else "float64")
    close = 1e-5 if scale == 1e16 else 1e-12
    assert relative(found.covariance(), exact.covariance()) < close
    assert relative(found.scale(), exact.scale()) < close
    if scale > 1e-40:  # below, numbers have few digits
        assert relative(found.covariance(), of(x, y).covariance()) < 1e-5


@pytest.mark.parametrize(
    ("scale", "said"), [(1e200, "overflow float64: divide"), (1e-200, "vanish in float64: mult")]
)
def test_products_that_float64_does_not_hold_are_an_error(scale, said):
    x, y = PROBLEMS["tall"]().train
    with pytest.raises(DataError, match=f"squares of feature 0 {said}"):
        of(x.astype(np.float64) * scale, y)


def test_a_feature_far_from_the_first_rows_is_read_again(monkeypatch):
    monkeypatch.setattr(pieces, "_SHIFT_ROWS", 1)
    x = np.random.default_rng(0).normal(size=(300_000, 2)).astype(np.float32)
    x[1:, 0] += 1e4
    found, exact = of(x, np.arange(len(x)) % 2), x.astype(np.float64)
    assert found.products == "float64"
    assert relative(found.variance, exact.var(0)) < 1e-9


def test_blocks_that_hold_fewer_rows_than_announced_are_an_error():
    blocks = ArrayBlocks(*PROBLEMS["tall"]().train)
    blocks.n_rows += 1
    with pytest.raises(DataError, match="900 rows but announces 901"):
        moments(blocks, Settings())


def test_progress_counts_rows():
    told = []
    blocks = ArrayBlocks(*PROBLEMS["tall"]().train)
    moments(blocks, Settings(memory=10**6, progress=lambda *facts, **_: told.append(facts)))
    assert told[-1] == ("rows", 900, 900)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


class TestCache:
    @pytest.fixture
    def blocks(self):
        return ArrayBlocks(*PROBLEMS["tall"]().train, fingerprint="tall")

    @pytest.fixture
    def counted(self, monkeypatch):
        """Return how often moments were computed."""
        calls = []

        def compute(*arguments):
            calls.append(arguments)
            return moments(*arguments)

        monkeypatch.setattr(moments_cache, "moments", compute)
        return calls

    def test_moments_are_computed_once(self, blocks, counted, tmp_path):
        settings = Settings(moments_cache=tmp_path / "kept")
        first, second = (cached_moments(blocks, settings) for _ in range(2))
        assert len(counted) == 1
        for name in ("shift", "counts", "class_sums", "gram"):
            assert np.array_equal(getattr(first, name), getattr(second, name))
        assert first.precision == second.precision
        assert [file.suffix for file in (tmp_path / "kept").iterdir()] == [".npz"]

    def test_other_rows_have_other_moments(self, blocks, counted, tmp_path):
        settings = Settings(moments_cache=tmp_path)
        cached_moments(blocks, settings)
        blocks.fingerprint = "else"
        cached_moments(blocks, settings)
        assert len(counted) == 2

    @pytest.mark.parametrize("fingerprint", [None, "tall"])
    def test_without_a_fingerprint_or_folder_nothing_is_kept(
        self, blocks, counted, tmp_path, fingerprint
    ):
        blocks.fingerprint = fingerprint
        settings = Settings(moments_cache=tmp_path if fingerprint is None else None)
        for _ in range(2):
            cached_moments(blocks, settings)
        assert len(counted) == 2
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "other"])
    def test_a_damaged_file_is_computed_anew(self, blocks, counted, tmp_path, damage):
        settings = Settings(moments_cache=tmp_path)
        whole = cached_moments(blocks, settings)
        (path,) = tmp_path.iterdir()
        held = bytearray(path.read_bytes())
        if damage == "flip":
            held[len(held) // 2] ^= 1
        elif damage == "cut":
            held = held[: len(held) // 2]
        elif damage == "empty":
            held = b""
        elif damage == "text":
            held = b"not an archive"
        path.write_bytes(held)
        if damage == "other":
            key = moments_cache.cache_key(settings, blocks)
            moments_cache.save(of(*PROBLEMS["two classes"]().train), path, key)
        again = cached_moments(blocks, settings)
        assert len(counted) == 2
        assert np.array_equal(again.gram, whole.gram)
        assert np.array_equal(cached_moments(blocks, settings).gram, whole.gram)
        assert len(counted) == 2

    def test_moments_of_several_targets_are_computed_once(self, counted, tmp_path):
        x, y = PROBLEMS["tall"]().train
        blocks = ArrayBlocks(x, np.stack([y, y**2, -y], 1) / 3, fingerprint="targets")
        settings = Settings(moments_cache=tmp_path)
        first, second = (cached_moments(blocks, settings) for _ in range(2))
        assert len(counted) == 1
        assert np.array_equal(first.class_sums, second.class_sums)

    def test_moments_of_another_backend_are_others(self, blocks, counted, tmp_path):
        for name in ("torch", "numpy"):
            cached_moments(blocks, Settings(backend=Backend(name), moments_cache=tmp_path))
        assert len(counted) == len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("foreign", ["key", "nan", "labels", "shape", "pipe", "folder"])
    def test_a_foreign_file_under_the_right_name_is_computed_anew(
        self, blocks, counted, tmp_path, foreign
    ):
        settings = Settings(moments_cache=tmp_path)
        whole = cached_moments(blocks, settings)
        (path,) = tmp_path.iterdir()
        key, gram = moments_cache.cache_key(settings, blocks), whole.gram
        if foreign == "key":
            moments_cache.save(whole, path, key.replace("torch", "numpy"))
        elif foreign == "nan":
            moments_cache.save(replace(whole, gram=gram * np.nan), path, key)
        elif foreign == "labels":
            moments_cache.save(
                replace(whole, counts=whole.counts + np.eye(5, dtype=int)[0]), path, key
            )
        elif foreign == "shape":
            moments_cache.save(replace(whole, gram=gram[:1]), path, key)
        else:
            path.unlink()
            (os.mkfifo if foreign == "pipe" else os.mkdir)(path)
        assert np.array_equal(cached_moments(blocks, settings).gram, gram)
        assert len(counted) == 2

    def test_no_flip_of_a_file_is_believed_or_raises(self, blocks, counted, tmp_path):
        """Flips of the archive's structure once raised what NumPy's callers did not expect."""
        settings = Settings(moments_cache=tmp_path)
        whole = cached_moments(blocks, settings)
        (path,) = tmp_path.iterdir()
        held, key = path.read_bytes(), moments_cache.cache_key(settings, blocks)
        random = np.random.default_rng(0)
        structure = [i for i in range(len(held)) if held[i : i + 2] in (b"PK", b"\x93N")]
        places = [
            min(int(random.choice(structure) + random.integers(80)), len(held) - 1)
            for _ in range(1000)
        ]
        for place in [*places, *random.integers(len(held), size=200)]:
            flipped = bytearray(held)
            flipped[place] ^= 1 << int(random.integers(8))
            path.write_bytes(flipped)
            found = moments_cache.load(path, key)
            if found is not None:
                for name in moments_cache.ARRAYS:
                    assert np.array_equal(getattr(found, name), getattr(whole, name))
        for length in random.integers(len(held), size=100):
            path.write_bytes(held[:length])
            assert moments_cache.load(path, key) is None

    def test_a_folder_that_cannot_be_made_is_done_without(self, blocks, tmp_path):
        (tmp_path / "file").write_text("")
        told = {}
        settings = Settings(
            moments_cache=tmp_path / "file" / "below",
            progress=lambda *_, **facts: told.update(facts),
        )
        assert cached_moments(blocks, settings).n == 900
        assert "not_cached" in told


@pytest.mark.parametrize(
    ("width", "count", "lengths"),
    [
        (1000, 8, [128] * 7 + [104]),
        (2000, 8, [250] * 8),
        (2001, 8, [251] * 7 + [244]),
        (90, 8, [90]),
    ],
)
def test_panels_are_as_many_equal_ranges_unless_they_are_narrow(width, count, lengths):
    found = panels(width, count)
    assert [span.stop - span.start for span in found] == lengths
    assert np.concatenate([np.arange(width)[span] for span in found]).tolist() == [*range(width)]


@pytest.mark.parametrize("width", [1, 128, 129, 1000, 2048])
def test_tiles_have_the_upper_triangle_once_and_little_else(width):
    seen, most = np.zeros((width, width), np.int8), max(128, -(-width // 4)) * -(-width // 2)
    for rows, columns in tiles(width):
        seen[rows, columns] += 1
        assert seen[rows, columns].size <= max(most, 128 * 128)
    assert seen.max() == 1
    assert np.triu(seen).sum() == width * (width + 1) // 2
    assert np.tril(seen, -128).sum() == 0
    if width == 2048:
        assert seen.sum() == width**2 * 17 / 32


@pytest.mark.parametrize(("variance", "narrow"), [(2e-4, False), (0.5e-4, True)])
def test_a_feature_a_hundred_deviations_away_is_too_narrow_for_single_precision(variance, narrow):
    n, mean = 400, 3.0
    squares, sums = n * mean**2 * (1 + variance), n * mean
    # of two features: one about 0, and one that is not
    total = np.array([[n, 0.0, 0.0], [0.0, squares, sums]])
    assert moments_cache._too_narrow(*moments_cache._edges(total), n) == narrow
