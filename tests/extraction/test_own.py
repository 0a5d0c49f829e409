"""Networks and data sets given as objects: the features of hooks, kept as those of names are."""

import importlib
import inspect
import sys
import time

import numpy as np
import pytest
import rank_jobs
import torch
import torchvision
from forked import processes
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import featstore
from featstore.cli import main
from featstore.data import own as own_data
from featstore.errors import (
    BackboneError,
    DatasetError,
    FeatstoreError,
    SpecMismatch,
    UsageError,
)
from featstore.extraction.request import Request
from featstore.models import own, taps
from featstore.store import layout

TAPS = ["1", "3"]


class Stopped(Exception):
    """Raised in place of a kill."""


class Net(nn.Sequential):
    """A small network with batch statistics and dropout, which training mode would show."""


class Changed(nn.Sequential):
    """Another class with the same layers."""

    def forward(self, x):
        return super().forward(x)


def net(seed: int = 0, kind: type[nn.Sequential] = Net) -> nn.Sequential:
    torch.manual_seed(seed)
    return kind(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 36, 16),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )


@pytest.fixture(scope="module")
def digits() -> dict[str, torch.utils.data.TensorDataset]:
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels)
    parts = {"train": slice(0, 600), "test": slice(600, 800)}
    return {
        split: torch.utils.data.TensorDataset(images[part], labels[part])
        for split, part in parts.items()
    }


def extract(model, data, out, **options):
    options = {"taps": TAPS, "dtype": "float32", **options}
    return featstore.extract(model, data, out=out, **options)


def hooked(model: nn.Module, images: torch.Tensor, path: str, size: int = 64) -> np.ndarray:
    """Return what a hook sees in evaluation mode, maps averaged, in batches of `size`."""
    seen = []
    handle = model.get_submodule(path).register_forward_hook(lambda *a: seen.append(a[2].clone()))
    training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(images), size):
            model(images[start : start + size])
    model.train(training)
    handle.remove()
    values = torch.cat(seen)
    return (values.mean((2, 3)) if values.ndim == 4 else values).numpy()


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Hold features against others of the same network, whose maps lie otherwise in memory."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def files(store: featstore.Store) -> dict[str, bytes]:
    """The chunks of features, labels and ids, by their path."""
    found = (path for path in store.path.rglob("*") if path.is_file() and "json" not in path.name)
    return {str(path.relative_to(store.path)): path.read_bytes() for path in found}


def test_the_features_are_those_of_hooks(digits, tmp_path):
    model = net()
    done = extract(model, digits, tmp_path / "mine.zarr")
    spec = done.store.spec
    assert [(tap.name, tap.dim) for tap in spec.taps] == [("1", 4), ("3", 16)]
    assert (spec.backbone, spec.dataset, spec.classes) == (
        "Net",
        "TensorDataset",
        tuple("0123456789"),
    )
    for split, data in digits.items():
        for tap in TAPS:
            features = done.store.to_numpy(split, tap)
            close(features, hooked(model, data.tensors[0], tap))
            np.testing.assert_array_equal(done.store.labels(split), data.tensors[1])
    assert extract(model, digits, tmp_path / "mine.zarr").reused
    assert extract(net(), digits, tmp_path / "mine.zarr").reused  # the same weights, made anew


def test_the_network_is_left_as_it_was(digits, tmp_path):
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = extract(model, digits, tmp_path / "mine.zarr")
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())
    assert any("training mode" in note for note in done.notes)
    assert not extract(net().eval(), digits, tmp_path / "other.zarr").notes


def test_an_interrupted_extraction_goes_on_with_the_same_bytes(digits, tmp_path):
    whole = extract(net(), digits, tmp_path / "whole.zarr").store

    def stop(stage, done, total, **facts):
        if stage == "tensors" and done > 600:
            raise Stopped

    with pytest.raises(Stopped):
        extract(net(), digits, tmp_path / "part.zarr", progress=stop)
    done = extract(net(), digits, tmp_path / "part.zarr")
    assert (done.images_reused, done.images_done) == (600, 200)
    assert files(done.store) == files(whole) != {}


@pytest.mark.parametrize("other", [net(1), net(0, Changed), nn.Sequential(*net(), nn.ReLU())])
def test_a_changed_network_is_refused_by_name_of_the_field(other, digits, tmp_path):
    extract(net(), digits, tmp_path / "mine.zarr", name="mine")
    with pytest.raises(SpecMismatch, match="weights"):
        extract(other, digits, tmp_path / "mine.zarr", name="mine")


def test_a_version_and_changed_rows_are_told_too(digits, tmp_path):
    extract(net(), digits, tmp_path / "mine.zarr")
    with pytest.raises(SpecMismatch, match="version:2"):
        extract(net(), digits, tmp_path / "mine.zarr", version="2")
    images, labels = digits["test"].tensors
    changed = images.clone()
    changed[7, 0, 0, 0] += 1
    data = digits | {"test": torch.utils.data.TensorDataset(changed, labels)}
    with pytest.raises(SpecMismatch, match=r"splits\.test\.fingerprint"):
        extract(net(), data, tmp_path / "mine.zarr")


def test_ids_tell_rows_in_place_of_their_hash(digits, tmp_path):
    images, labels = digits["test"].tensors
    rows = list(zip(images, labels.tolist(), strict=True))
    ids = [f"digit {row}" for row in range(len(rows))]
    done = extract(net(), rows, tmp_path / "mine.zarr", ids=ids)
    assert list(done.store.ids("train"))[:2] == ids[:2]
    with pytest.raises(UsageError, match="199 ids are given for 200 rows"):
        extract(net(), rows, tmp_path / "other.zarr", ids=ids[1:])
    with pytest.raises(UsageError, match="'digit 0' of train is given twice"):
        extract(net(), rows, tmp_path / "other.zarr", ids=[ids[0], *ids[:-1]])


def test_images_pass_through_the_transform(digits, tmp_path):
    tensors = digits["test"].tensors[0]
    pixels = (tensors[:, 0] * 255).round().to(torch.uint8).numpy()
    images = [(Image.fromarray(image), "odd") for image in pixels[:40]]
    to_tensor = torchvision.transforms.ToTensor()
    done = extract(net(), images, tmp_path / "mine.zarr", transform=to_tensor)
    same = torch.stack([to_tensor(image) for image, _ in images])
    close(done.store.to_numpy("train", "3"), hooked(net(), same, "3"))
    assert done.store.spec.classes == ("odd",)
    with pytest.raises(UsageError, match="give transform=, a callable"):
        extract(net(), images, tmp_path / "other.zarr")
    with pytest.raises(UsageError, match="two different tensors for the first row"):
        extract(net(), images, tmp_path / "x.zarr", transform=lambda image: torch.randn(1, 8, 8))


def test_an_image_model_by_name_takes_a_data_set_of_ones_own(tmp_path):
    draw = np.random.default_rng(0)
    images = [
        (Image.fromarray(draw.integers(0, 255, (40, 40, 3), np.uint8)), label % 2)
        for label in range(6)
    ]
    options = {"pretrained": False, "image_size": 32, "taps": ["penultimate"]}
    done = extract("test_resnet", images, tmp_path / "mine.zarr", **options)
    assert done.store.to_numpy("train", "penultimate").shape == (6, 96)


def test_a_network_of_ones_own_takes_a_data_set_by_name(tmp_path):
    grey = torchvision.transforms.Compose(
        [torchvision.transforms.Grayscale(), torchvision.transforms.ToTensor()]
    )
    done = extract(net(), "digits", tmp_path / "mine.zarr", transform=grey, limit=50)
    rows = featstore.data.load("digits", "test", limit=50)
    images = torch.stack([grey(rows[row][0]) for row in range(50)])
    close(done.store.to_numpy("test", "3"), hooked(net(), images, "3"))


class Draws:
    """A data set that augments: a row is another one each time."""

    def __len__(self):
        return 4

    def __getitem__(self, row):
        return torch.randn(1, 8, 8), row % 2


class Shrinks(Draws):
    """A data set that loses its rows after the first reading."""

    reads = 0

    def __len__(self):
        return 4 if self.reads < 3 else 3

    def __getitem__(self, row):
        self.reads += 1
        return torch.full((1, 8, 8), float(row)), row % 2


class Tuples(nn.Module):
    """A module whose child returns text, and one child of which never runs."""

    def __init__(self):
        super().__init__()
        self.words, self.idle, self.last = Words(), nn.Linear(2, 2), nn.Flatten()

    def forward(self, x):
        self.words(x)
        return self.last(x)


class Words(nn.Module):
    def forward(self, x):
        return "no tensor"


class Counts(nn.Module):
    """A module that counts its passes where its weights are."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return self.last(x)


class Noisy(nn.Flatten):
    def forward(self, x):
        return super().forward(x) + torch.randn(())


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "says"),
    [
        (net(), Draws(), {}, DatasetError, "is not what it was when it was read before"),
        (net(), Shrinks(), {}, DatasetError, "had 4 rows at first and has 3 now"),
        (net(), [], {}, DatasetError, "has no row"),
        (net(), 7, {}, UsageError, "is of type int"),
        (net(), {}, {}, UsageError, "no split is named"),
        (net(), [torch.ones(1, 8, 8)], {}, DatasetError, "is a Tensor; give pairs"),
        (net(), [("text", 0)], {}, UsageError, "gives texts, and a network of your own takes"),
        (net(), [(object(), 0)], {}, DatasetError, "holds a object in place of"),
        (net(), [(None, 0)], {}, DatasetError, "holds a NoneType in place of"),
        (net(), [(torch.ones(1, 8, 8), [1])], {}, DatasetError, "has a label of type list"),
        (
            net(),
            [(torch.ones(1, 8, 8), torch.ones(2)), (torch.ones(1, 8, 8), torch.ones(3))],
            {},
            DatasetError,
            "row 1 of the train split has a label of 3 numbers, and the first row 2",
        ),
        (net(), [(torch.ones(1, 8, 8), None)], {}, DatasetError, "label of type NoneType"),
        (net(), [(torch.ones(1, 8, 8), 0), (torch.ones(1, 8, 8), "a")], {}, DatasetError, "types"),
        (net(), [(torch.ones(1, 8, 8), 0), (torch.ones(1, 9, 8), 0)], {}, DatasetError, "9, 8"),
        (net(), [(torch.ones(2, 8, 8), 0)], {}, UsageError, r"cannot take a batch \(2, 2, 8, 8\)"),
        (net(), [(torch.ones(1, 8, 8), 0)], {"taps": ["33"]}, UsageError, "has no layer '33'"),
        (
            net(),
            [(torch.ones(1, 8, 8), 0)],
            {"taps": ("penultimate",)},
            UsageError,
            "have to be named",
        ),
        (
            net(),
            [(torch.ones(1, 8, 8), 0)],
            {"weights": "x.pt"},
            UsageError,
            "weights is an option",
        ),
        (net(), [(torch.ones(1, 8, 8), 0)], {"views": 2}, UsageError, "have no views"),
        (Tuples(), [(torch.ones(3), 0)], {"taps": ["words"]}, UsageError, "gives no activations"),
        (Tuples(), [(torch.ones(3), 0)], {"taps": ["idle"]}, UsageError, "gives no activations"),
        (7, [(torch.ones(3), 0)], {}, UsageError, "is of type int; give a torch.nn.Module"),
        (Counts(), [(torch.ones(3), 0)], {"taps": ["last"]}, BackboneError, "changes itself while"),
        (
            net(),
            [(torch.ones(1, 8, 8), 0)],
            {"transform": (None, None)},
            UsageError,
            r"no pair \(preprocessor, forward\)",
        ),
        (
            net(),
            [(torch.ones(1, 8, 8), 0)],
            {"transform": (None, net(1).forward)},
            UsageError,
            "a method of another Net",
        ),
        ("test_resnet", "digits", {"name": "x"}, UsageError, "of a network of your own"),
    ],
)
def test_what_cannot_be_is_told_on_one_line(model, data, options, error, says, tmp_path):
    with pytest.raises(error, match=says) as caught:
        extract(model, data, tmp_path / "mine.zarr", **options)
    assert "\n" not in str(caught.value)


class Mute(nn.Linear):
    """Raises where it is asked what it is."""

    def __repr__(self):
        raise RuntimeError("a\nb")


class Endless(list):
    def __len__(self):
        return -1


def turns(label=0, item=None):
    """Forty rows of one item and label."""
    return [(torch.ones(3) if item is None else item, label)] * 40


ONE = nn.Sequential(nn.Linear(3, 2))
IDS = [f"{row}" for row in range(39)]


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "says"),
    [
        (ONE, turns(-1), {}, DatasetError, "there is a label -1; number the classes from 0"),
        (ONE, turns(-(2**70)), {}, DatasetError, "there is a label -1180591620717411303424"),
        (ONE, turns(2**70), {}, DatasetError, "labels up to"),
        (ONE, turns(float("nan")), {}, DatasetError, "no finite target"),
        (ONE, turns(), {"ids": {"train": ["\0", *IDS]}}, UsageError, "has a NUL in it"),
        (ONE, turns(), {"ids": {"train": ["7", *IDS]}}, UsageError, "'7' of train is given twice"),
        (ONE, {"../up": turns()}, {}, UsageError, r"'\.\./up' cannot be the name of a split"),
        (ONE, {"": turns()}, {}, UsageError, "cannot be the name of a split"),
        (ONE, {"a\n": turns()}, {}, UsageError, "cannot be the name of a split"),
        (ONE, {"x" * 300: turns()}, {}, UsageError, "cannot be the name of a split"),
        (ONE, turns(item=np.array([None])), {}, DatasetError, "row 0 .* array of object"),
        (ONE, turns(item=np.array(["a"])), {}, DatasetError, "row 0 .* no dense tensor"),
        (ONE, turns(item=torch.ones(3).to_sparse()), {}, DatasetError, "row 0 .* sparse"),
        (ONE, turns(item=torch.ones(3, device="meta")), {}, DatasetError, "row 0 .* 'meta'"),
        (ONE, turns(item=torch.full((3,), torch.nan)), {}, FeatstoreError, "not finite|NaN|nan"),
        (ONE, Endless(), {}, UsageError, "does not say its length"),
        (Mute(3, 2), turns(), {"taps": ["output"]}, BackboneError, "does not say what it is"),
        (ONE, turns(), {"transform": Mute(3, 2)}, UsageError, "cannot take the first row"),
        (
            ONE, turns(), {"transform": lambda item: torch.zeros(1).expand(10**15)}, UsageError,
            "cannot take the first row",
        ),
    ],
)  # fmt: skip
def test_what_lies_is_told_on_one_line(model, data, options, error, says, tmp_path):
    options = {"taps": ["0"], **options}
    with pytest.raises(error, match=says) as caught:
        extract(model, data, tmp_path / "mine.zarr", **options)
    assert "\n" not in str(caught.value)


def test_arrays_of_any_order_and_texts_of_any_kind_are_taken(tmp_path):
    """Bytes of the other order and negative strides give the same rows."""
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    kept = []
    for number, made in enumerate((rows, rows.astype(">f4"), rows[:, ::-1].copy()[:, ::-1])):
        data = [(row, "\ud800" if place % 2 else "=1") for place, row in enumerate(made)]
        out, name = tmp_path / f"{number}.zarr", "\udcff\x1b"
        done = extract(
            ONE,
            data,
            out,
            taps=["0"],
            name=name,
            version="\udcff",
            ids={"train": [f"\udcff{row}" for row in range(40)]},
        )
        assert done.store.spec.classes == ("=1", r"\ud800")
        kept.append(done.store.load("train", "0"))
    assert np.array_equal(kept[0], kept[1])
    assert np.array_equal(kept[0], kept[2])


def test_what_cannot_be_copied_and_what_draws_is_said(tmp_path):
    model = net()
    model.held = model(torch.ones(2, 1, 8, 8))
    with pytest.raises(BackboneError, match="cannot be copied"):
        extract(model, [(torch.ones(1, 8, 8), 0)], tmp_path / "mine.zarr")
    rows = [(torch.ones(3), 0.5), (torch.zeros(3), 1.5)]
    done = extract(nn.Sequential(Noisy()), rows, tmp_path / "n.zarr", taps=["0", "output"])
    assert any("it is random" in note for note in done.notes)
    assert done.store.spec.targets == ("target",)


def test_the_source_is_part_of_the_identity_and_lacking_source_is_said():
    space = {"nn": nn}
    exec("class Made(nn.Linear): pass", space)
    backbone = own.backbone(space["Made"](2, 2).eval(), torch.ones(2))
    assert "source of Made is not found" in backbone.notes[0]
    assert own.backbone(space["Made"](2, 2).eval(), torch.ones(2), version="1").notes == ()


def test_a_misspelt_argument_names_the_nearest():
    with pytest.raises(TypeError, match="no argument 'tap'; did you mean 'taps'"):
        featstore.extract("resnet50", "digits", tap=["layer1"])


def test_arguments_of_extract_are_those_of_a_request():
    ours = dict(inspect.signature(featstore.extract).parameters)
    del ours["progress"]
    theirs = inspect.signature(Request).parameters
    defaults = {name: one.default for name, one in ours.items()}
    assert defaults == {name: one.default for name, one in theirs.items()}


class Texts(nn.Module):
    """An encoder of texts, called by keyword, and one of its parts by a method."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(128, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, ids, attention_mask):
        return self.last(self.encode(ids, attention_mask))

    def encode(self, ids, attention_mask):
        shown = self.letters(ids) * attention_mask[..., None]
        return shown.sum(1) / attention_mask.sum(1, keepdim=True)


def letters(text: str) -> dict[str, torch.Tensor]:
    ids = [ord(letter) for letter in text[:12].ljust(12, "\0")]
    return {
        "ids": torch.tensor(ids),
        "attention_mask": torch.tensor([one > 0 for one in ids]).float(),
    }


TEXTS = [(f"{'ab' * (row % 4 + 1)} {row}", ["low", "high"][row % 2]) for row in range(70)]


def test_texts_pass_by_keyword_and_by_a_method_of_the_network(tmp_path):
    model = Texts()
    batch = [letters(text) for text, _ in TEXTS]
    stacked = {name: torch.stack([one[name] for one in batch]) for name in batch[0]}
    with torch.inference_mode():
        encoded = model.encode(**stacked).numpy()
        whole = model(**stacked).numpy()
    options = {"transform": letters, "taps": ["last", "output"]}
    store = extract(model, TEXTS, tmp_path / "whole.zarr", **options).store
    close(store.to_numpy("train", "output"), whole)
    assert store.spec.classes == ("high", "low")
    # the same by a method, as the model or as what passes it
    done = extract(model.encode, TEXTS, tmp_path / "part.zarr", transform=letters, taps=["output"])
    close(done.store.to_numpy("train", "output"), encoded)
    by_pair = {"transform": (letters, Texts.encode), "taps": ["output"]}
    close(
        extract(model, TEXTS, tmp_path / "pair.zarr", **by_pair).store.to_numpy("train", "output"),
        encoded,
    )
    longer = [*TEXTS, (5, "low")]
    with pytest.raises(DatasetError, match="tensor 70 of the train split of list cannot be given"):
        extract(model, longer, tmp_path / "x.zarr", **options)


def test_any_callable_is_a_network_of_one_tap(tmp_path):
    def sums(batch):
        return batch.numpy().sum(-1)

    sound = [(torch.randn(2, 50), float(row)) for row in range(10)]
    done = extract(sums, sound, tmp_path / "mine.zarr", taps=["output"])
    expected = torch.stack([wave for wave, _ in sound]).sum(-1)
    close(done.store.to_numpy("train", "output"), expected.numpy())
    assert done.store.spec.backbone == "sums"
    assert any("told by its source alone" in note for note in done.notes)
    other = lambda batch: batch.sum(-1)  # noqa: E731
    with pytest.raises(SpecMismatch, match="weights"):
        extract(other, sound, tmp_path / "mine.zarr", taps=["output"], name="sums")


def test_vectors_of_numbers_are_several_targets(tmp_path):
    rows = [(torch.ones(3) * row, torch.tensor([row, -row])) for row in range(6)]
    done = extract(nn.Sequential(nn.Tanh()), rows, tmp_path / "mine.zarr", taps=["0"])
    assert done.store.spec.targets == ("target0", "target1")
    np.testing.assert_array_equal(done.store.labels("train")[:, 1], -np.arange(6.0))


def test_a_loader_in_order_is_its_data_set(digits, tmp_path):
    loaders = {
        split: torch.utils.data.DataLoader(data, batch_size=32) for split, data in digits.items()
    }
    store = extract(net(), loaders, tmp_path / "loaders.zarr").store
    assert files(store) == files(extract(net(), digits, tmp_path / "sets.zarr").store)
    data = digits["test"]
    for options, says in [
        ({"shuffle": True}, "draws its rows"),
        ({"batch_size": 64, "drop_last": True}, "leaves out its last rows"),
        ({"collate_fn": list}, "joins rows in a way of its own"),
    ]:
        loader = torch.utils.data.DataLoader(data, **options)
        with pytest.raises(UsageError, match=f"the DataLoader of train {says}"):
            extract(net(), loader, tmp_path / "x.zarr")


class Viewing(nn.Module):
    """A network that looks at memory, which maps with channels last do not allow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.last(self.conv(x).view(len(x), -1))


def test_maps_lie_with_channels_last_where_the_network_takes_them_so(tmp_path):
    torch.manual_seed(1)
    colours = torch.randn(20, 3, 8, 8)
    assert checked(Viewing(), colours[0]).transform.channels_last is False
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    assert checked(flat, colours[0], "1").transform.channels_last is True
    rows = [(one, 0) for one in colours]
    done = extract(Viewing(), rows, tmp_path / "a.zarr", taps=["last"])
    np.testing.assert_array_equal(
        done.store.to_numpy("train", "last"), hooked(Viewing(), colours, "last")
    )


def checked(model, first, tap="last"):
    backbone = own.backbone(model, first)
    return own.checked(backbone, taps.resolve(backbone, [tap]))


def test_grey_and_many_channels_are_what_the_transform_states(digits, tmp_path):
    """A transform with one mean value, of grey images, and images of five channels."""
    v2 = torchvision.transforms.v2
    grey = v2.Compose(
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])]
    )
    pixels = (digits["test"].tensors[0][:40, 0] * 255).to(torch.uint8).numpy()
    rows = [(Image.fromarray(one), 1) for one in pixels]
    done = extract(net(), rows, tmp_path / "grey.zarr", transform=grey)
    close(
        done.store.to_numpy("train", "3"),
        hooked(net(), torch.stack([grey(one) for one, _ in rows]), "3"),
    )
    many = nn.Sequential(nn.Conv2d(5, 3, 3), nn.ReLU())
    data = [(torch.randn(5, 8, 8), 0) for _ in range(4)]
    assert extract(many, data, tmp_path / "many.zarr", taps=["0"]).store.spec.tap("0").dim == 3
    for mean in ([0.5], [0.1] * 4):
        recipe = {"size": 32, "mean": mean, "std": [1.0] * len(mean)}
        with pytest.raises(
            UsageError, match=f"mean has {len(mean)} value.* grey or of many channels"
        ):
            featstore.extract("test_resnet", "digits", pretrained=False, transform=recipe)


CODE = """
import torch

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = torch.nn.Linear(64, 4)

    def forward(self, x):
        return self.last(x.flatten(1))

def made():
    return Own()

def pair():
    return Own(), lambda image: torch.tensor(list(image.convert("L").tobytes())).float() / 255

def rows(split):
    count = 9 if split == "train" else 5
    return [(torch.full((1, 8, 8), float(row)), row % 2) for row in range(count)]

def broken():
    raise ValueError("no such luck")

text = "text"
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "mypackage"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "nets.py").write_text(CODE)
    (tmp_path / "own_nets.py").write_text(CODE)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [one for one in sys.modules if one.startswith(("mypackage", "own_nets"))]:
        del sys.modules[name]


def test_code_of_ones_own_is_run_by_its_name_alone(code, capsys):
    words = ["extract", "--model", "import:own_nets.py:made", "--taps", "last,output"]
    words += ["--dataset", "import:mypackage.nets:rows", "--out", "a.zarr", "--dtype", "float32"]
    main(words, standalone_mode=False)
    store = featstore.open("a.zarr")
    assert [(one.name, one.n_rows) for one in store.spec.splits] == [("train", 9), ("test", 5)]
    module = sys.modules["own_nets"]
    rows = torch.stack([row for row, _ in module.rows("test")])
    with torch.inference_mode():
        close(store.to_numpy("test", "last"), module.made()(rows).numpy())
    main(words, standalone_mode=False)
    assert "reusing" in capsys.readouterr().err
    # another file is another network, and is told by the field
    del sys.modules["own_nets"]
    (code / "own_nets.py").write_text(CODE + "\nscale = 2\n")
    with pytest.raises(SystemExit):
        main(words)
    assert "weights is 'version:source:" in capsys.readouterr().err


def test_taps_of_a_network_by_its_name_in_code_are_listed(code, capsys):
    for name in ("made", "pair"):
        main(["taps", f"import:own_nets.py:{name}"], standalone_mode=False)
        out, said = capsys.readouterr()
        rows = [line.split() for line in out.splitlines()]
        assert ["last", "Linear", "260"] in rows
        assert ["output", "Own", "260"] in rows
        assert "depends on the rows" in said
    with pytest.raises(SystemExit):
        main(["taps", "import:own_nets.py:text"])
    assert "there is no network: it is of type str" in capsys.readouterr().err


def test_a_network_by_its_name_in_code_may_bring_its_transform(code):
    done = extract("import:own_nets.py:pair", "digits", "b.zarr", taps=["last"], limit=20)
    assert done.store.spec.tap("last").dim == 4


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("import:nothing", "names no code; give import:package.module:NAME"),
        ("import:mypackage.nets:Owm", "has no 'Owm'; did you mean Own"),
        ("import:mypackage.none:Own", "No module named 'mypackage.none'"),
        ("import:none.py:Own", "there is no file none.py"),
        ("import:own_nets.py:broken", "broken fails .ValueError: no such luck"),
        ("import:own_nets.py:text", "text is a text; give what is or makes a network"),
        ("import:own_nets.py:rows", "missing 1 required positional argument"),
    ],
)
def test_code_that_is_no_network_is_told_on_one_line(model, says, code):
    with pytest.raises(UsageError, match=says) as caught:
        extract(model, "digits", "a.zarr", taps=["last"])
    assert "\n" not in str(caught.value)


class Slow(Net):
    """The network of these tests, and a pause in each pass."""

    def forward(self, x):
        time.sleep(0.15)
        return super().forward(x)


class NoisyAlone(nn.Flatten):
    """Random where a batch has more than one row, of which the first tells nothing."""

    def forward(self, x):
        x = super().forward(x)
        return x + torch.randn(()) * (torch.arange(len(x)) == 3)[:, None]


class WritesIntoItsInput(nn.Flatten):
    def forward(self, x):
        return super().forward(x.add_(1))


def test_two_passes_of_the_whole_first_batch_are_held_against_one_another(tmp_path):
    rows = [(torch.full((3,), float(row)), 0.5) for row in range(10)]
    done = extract(nn.Sequential(NoisyAlone()), rows, tmp_path / "n.zarr", taps=["0"], batch_size=5)
    assert [note for note in done.notes if "it is random" in note] == [
        "Sequential gives other features at 0 in a second pass of the same rows: it is random, and"
        " blocks cannot be computed again with the same bits"
    ]
    done = extract(nn.Sequential(WritesIntoItsInput()), rows, tmp_path / "w.zarr", taps=["0"])
    assert not any("it is random" in note for note in done.notes)
    assert done.store.load("train", "0")[:, 0].tolist() == [float(row) + 1 for row in range(10)]


def extract_slowly(data, out, ready):
    layout.BLOCK_BYTES = 1
    model = net(0, Slow)

    def progress(stage, done, total, **facts):
        if stage == "tensors" and done >= 64:
            ready.set()

    extract(model, data, out, batch_size=32, progress=progress)


@pytest.mark.usefixtures("small_blocks")
def test_killed_in_the_midst_it_goes_on_to_the_same_store(digits, tmp_path, monkeypatch):
    data = {split: torch.utils.data.Subset(one, range(200)) for split, one in digits.items()}
    ready = processes.Event()
    process = processes.Process(target=extract_slowly, args=(data, tmp_path / "killed.zarr", ready))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(SpecMismatch, match="weights"):
        extract(net(1, Slow), data, tmp_path / "killed.zarr")
    done = extract(net(0, Slow), data, tmp_path / "killed.zarr")
    assert 0 < done.images_reused < 400
    assert done.images_reused + done.images_done == 400
    whole = extract(net(0, Slow), data, tmp_path / "whole.zarr", batch_size=32)
    assert files(done.store) == files(whole.store)


def extract_as_rank(data, out):
    layout.BLOCK_BYTES = 1
    extract(net(), data, out)


@pytest.mark.usefixtures("small_blocks")
def test_ranks_share_objects_too(digits, tmp_path):
    job = rank_jobs.launched(2, extract_as_rank, digits, tmp_path / "ranks.zarr")
    assert rank_jobs.exit_statuses(job) == [0, 0]
    store = featstore.open(tmp_path / "ranks.zarr")
    assert store.provenance["ranks"] == 2
    assert files(store) == files(extract(net(), digits, tmp_path / "one.zarr").store)


class Counted(torch.utils.data.Dataset):
    """Rows of another data set, which says how often it was read."""

    def __init__(self, data, labels=None):
        self.data, self.labels, self.reads = data, labels, 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        self.reads += 1
        item, label = self.data[row]
        return item, label if self.labels is None else self.labels[row]


@pytest.mark.parametrize("format", featstore.FORMATS)
def test_rows_are_read_once_and_told_by_what_was_read(digits, tmp_path, format):
    data = Counted(digits["test"])
    done = extract(net(), data, tmp_path / "once", format=format)
    assert data.reads == 201  # and the first one once more, for shapes
    # where a store stands, rows are read to be held against it
    rows = own_data.load({"train": digits["test"]})["train"]
    assert done.store.spec.split("train").fingerprint == rows.fingerprint
    assert extract(net(), data, tmp_path / "once", format=format).reused
    assert [one.name for one in tmp_path.iterdir() if "home" not in one.name] == ["once"]
    np.testing.assert_array_equal(done.store.labels("train"), rows.labels)
    assert done.store.ids("train") == list(rows.ids)


def test_labels_that_are_mended_cost_no_second_pass(digits, tmp_path):
    labels = [*range(10)] * 19 + [*"abcdefghij"]
    with pytest.raises(DatasetError, match="labels are of several types"):
        extract(net(), Counted(digits["test"], labels), tmp_path / "mine.zarr")
    assert not (tmp_path / "mine.zarr").exists()
    mended = Counted(digits["test"], [*range(10)] * 20)
    # what stands is of this network and of these rows, or is refused
    with pytest.raises(SpecMismatch, match="weights"):
        extract(net(1), mended, tmp_path / "mine.zarr")
    turned = [(item + 1, 0) for item, _ in digits["test"]]
    with pytest.raises(DatasetError, match="row 0 of the train split is not what it was"):
        extract(net(), Counted(turned), tmp_path / "mine.zarr")
    done = extract(net(), mended, tmp_path / "mine.zarr")
    assert (done.images_reused, done.images_done) == (200, 0)
    with pytest.raises(DatasetError, match="labels are of several types"):
        extract(net(), Counted(digits["test"], labels), tmp_path / "other.zarr")
    (left,) = featstore.abandoned(tmp_path, days=0)
    assert left.path.name == ".other.zarr.unread"
    replaced = extract(net(1), mended, tmp_path / "other.zarr", overwrite=True)
    assert (replaced.images_reused, replaced.images_done) == (0, 200)
    assert featstore.abandoned(tmp_path, days=0) == []


def test_extraction_logs_what_it_makes(digits, tmp_path, caplog):
    for to_do in ("2 of 2", "0 of 2"):
        caplog.clear()
        with caplog.at_level("INFO", logger="featstore"):
            extract(net(), digits, tmp_path / "logged.zarr")
        told = [each.getMessage() for each in caplog.records if each.name.startswith("featstore.")]
        assert told[0].endswith(f": {to_do} blocks to be made")
        assert "passes in " in told[-1]
