"""Augmented views: what is asked for, drawn by (seed, row, view) and by nothing else."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fake_sets import noise
from PIL import Image
from torchvision import transforms

import featstore
from featstore import models
from featstore.data import augment
from featstore.errors import UsageError

LEVELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
IMAGE = Image.fromarray(LEVELS)
RANDOM = [
    "paper",
    "RandomCrop(size, padding=4, pad_if_needed=True)",
    "RandomResizedCrop(size, interpolation='bicubic') + RandomGrayscale(p=0.5)",
    "RandomResizedCrop(size) + AutoAugment()",
    "timm(auto_augment='rand-m9-mstd0.5')",
]


@pytest.mark.parametrize("text", RANDOM)
def test_a_view_depends_on_seed_row_and_view_alone(text):
    parsed = augment.parse(text, 32)
    first = parsed.pixels(IMAGE, "a.jpg", 1)
    assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
    torch.rand(7), random.random()
    np.testing.assert_array_equal(augment.parse(text, 32).pixels(IMAGE, "a.jpg", 1), first)
    others = [
        parsed.pixels(IMAGE, "a.jpg", 2),
        parsed.pixels(IMAGE, "b.jpg", 1),
        augment.parse(text, 32, seed=1).pixels(IMAGE, "a.jpg", 1),
    ]
    for other in others:
        assert (other != first).any()


@pytest.mark.parametrize("text", RANDOM)
def test_threads_do_not_see_each_others_draws(text):
    parsed = augment.parse(text, 24)
    jobs = [(f"row{number}", number % 3) for number in range(60)]
    alone = [parsed.pixels(IMAGE, *job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: parsed.pixels(IMAGE, *job), jobs))
    np.testing.assert_array_equal(together, alone)


def test_global_generators_are_left_as_they_were():
    torch.manual_seed(3), random.seed(3)
    expected = torch.rand(2).tolist(), random.random()
    torch.manual_seed(3), random.seed(3)
    augment.parse("paper", 32).pixels(IMAGE, "a", 0)
    assert (torch.rand(2).tolist(), random.random()) == expected


def test_the_papers_transform_has_the_papers_distribution():
    """Against torchvision's first transforms, which the paper used: mean and spread of pixels."""
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(16),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.25, 0.25, 0.25),
            transforms.RandomRotation(2),
        ]
    )
    ramp = Image.fromarray(np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None], (120, 90)))
    ramp = ramp.convert("RGB")
    parsed = augment.parse("paper", 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = np.stack([np.asarray(theirs(ramp)) for _ in range(800)]).astype(float)
    ours = np.stack([parsed.pixels(ramp, "r", view) for view in range(800)]).astype(float)
    np.testing.assert_allclose(ours.mean(0), wanted.mean(0), atol=4)
    np.testing.assert_allclose(ours.std(0), wanted.std(0), atol=4)


def test_text_is_the_whole_story():
    parsed = augment.parse("paper", 96, seed=5)
    assert parsed.text == (
        "RandomResizedCrop(96) + RandomHorizontalFlip() + ColorJitter(0.25, 0.25, 0.25)"
        " + RandomRotation(2); seed 5"
    )
    spelled = "RandomResizedCrop( 96 )+RandomHorizontalFlip()+ColorJitter(.25,.25,.25)"
    assert augment.parse(f"{spelled}+RandomRotation(2)", 96, 5).text == parsed.text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("papre", "papre is not a transform such as"),
        ("", "cannot be used"),
        ("RandomRotation(2", "cannot be used"),
        ("Blur(3)", "torchvision.transforms.v2 has no transform Blur"),
        ("InterpolationMode('bilinear')", "has no transform InterpolationMode"),
        ("__import__('os').system('x')", "is not a transform such as"),
        ("RandomRotation(open('x'))", "malformed node"),
        ("RandomRotation(wide)", "malformed node"),
        ("RandomRotation(-1)", "single number, it must be positive"),
        ("RandomRotation(2)", r"comes as uint8 \(62, 92, 3\) and the model sees uint8 \(32, 32"),
        ("RandomResizedCrop(64)", r"\(64, 64, 3\) and the model sees uint8 \(32, 32, 3\)"),
        ("RandomResizedCrop(size) + Grayscale()", r"comes as uint8 \(32, 32\)"),
        ("RandomResizedCrop(size) + ToImage()", "cannot be used"),
        ("timm(re_prob=0.5)", "has steps after Normalize"),
        ("timm(nonsense=1)", "nonsense"),
    ],
)
def test_augmentations_that_cannot_be(text, why):
    with pytest.raises(UsageError, match=why) as caught:
        augment.parse(text, 32)
    assert "RandomResizedCrop(size) + RandomHorizontalFlip()" in str(caught.value)


# in a store


@pytest.fixture
def archive(tmp_path, small_blocks):
    """Forty train images and ten test images, in blocks of 32 rows."""
    return noise(tmp_path / "noise.npz", size=28, train=40, test=10)


def extract(archive, out, **options):
    return featstore.extract(
        "test_resnet", f"npz:{archive}", pretrained=False, image_size=32, out=out, **options
    )


def test_views_of_train_and_a_clean_test(archive, tmp_path):
    clean = extract(archive, tmp_path / "clean").store
    done = extract(archive, tmp_path / "three", views=3)
    store = done.store
    assert (done.images_done, done.reused) == (3 * 40 + 10, False)
    assert [split.views for split in store.spec.splits] == [3, 1]
    assert store.spec.augment.startswith("RandomResizedCrop(32) + ")
    features = store.load("train", "penultimate")
    assert features.shape == (3, 40, 96)
    assert len({view.tobytes() for view in features}) == 3
    assert store.labels("train").tolist() == clean.labels("train").tolist()
    test = store.load("test", "penultimate")
    np.testing.assert_array_equal(test, clean.load("test", "penultimate"))
    assert extract(archive, tmp_path / "three", views=3).reused


def test_a_view_is_the_backbones_features_of_its_pixels(archive, tmp_path):
    store = extract(archive, tmp_path / "two", views=2, dtype="float32").store
    backbone = models.load("test_resnet", pretrained=False, image_size=32)
    parsed = augment.parse("paper", 32)
    images = np.load(archive)["x_train"]
    for view, row in [(0, 0), (1, 0), (0, 33), (1, 39)]:
        pixels = parsed.pixels(Image.fromarray(images[row]), str(row), view)
        with torch.inference_mode():
            batch = backbone.prepare(torch.from_numpy(pixels.copy())[None])
            features = backbone.model.global_pool(backbone.model.forward_features(batch))[0]
        stored = store.read("train", "penultimate", row, row + 1, view=view)[0]
        np.testing.assert_allclose(stored, features.numpy(), 1e-4, 1e-5)


def test_workers_batches_and_interruptions_change_no_view(archive, tmp_path):
    whole = extract(archive, tmp_path / "whole", views=2, batch_size=8, workers=0).store

    def stop(stage, done, total, **facts):
        if stage == "images" and done >= 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "parts", views=2, batch_size=8, workers=0, progress=stop)
    parts = extract(archive, tmp_path / "parts", views=2, workers=1).store
    expected = whole.load("train", "penultimate")
    np.testing.assert_array_equal(parts.load("train", "penultimate"), expected)
    other = extract(archive, tmp_path / "other", views=2, batch_size=5).store
    np.testing.assert_allclose(other.load("train", "penultimate"), expected, 2e-3, 2e-3)


def test_views_of_a_part_are_the_same_rows_views(archive, tmp_path):
    whole = extract(archive, tmp_path / "whole", views=2, batch_size=1).store
    part = extract(archive, tmp_path / "part", views=2, batch_size=1, limit=20).store
    rows = [int(id_) for id_ in part.ids("train")]
    expected = whole.load("train", "penultimate")[:, rows]
    np.testing.assert_array_equal(part.load("train", "penultimate"), expected)


def test_other_views_are_another_store(archive, tmp_path):
    extract(archive, tmp_path / "store", views=2)
    for options, field in (
        ({"views": 3}, r"splits.train.views is 2, wanted 3"),
        ({"views": 1}, "augment is"),
        ({"views": 2, "seed": 1}, "augment is"),
        ({"views": 2, "augment": "RandomResizedCrop(size)"}, "augment is"),
    ):
        with pytest.raises(featstore.errors.SpecMismatch, match=field):
            extract(archive, tmp_path / "store", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "0 views cannot be"),
        ({"views": 2, "splits": ("test",)}, "train is not among the splits"),
        ({"augment": "papre"}, "papre"),
    ],
)
def test_bad_views_leave_nothing_behind(archive, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        extract(archive, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()
