"""Taps: the penultimate features are what the classifier sees, and any layer can be read."""

from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from hypothesis import Phase, given, settings, strategies as st

from featstore import models
from featstore.errors import BackboneError, UsageError
from featstore.models import network as hooked, taps
from featstore.models.network import Activation

# Class token, pooled maps, a layer between pooling and classifier, two class tokens.
TIMM = {
    "test_vit": (64, "cls"),
    "test_resnet": (96, "avg"),
    "test_efficientnet": (256, "avg"),
    "test_convnext": (64, "avg"),
    "mobilenetv3_small_050": (1024, "avg"),
}
TORCHVISION = {
    "squeezenet1_1": (512, "avg"),
    "shufflenet_v2_x0_5": (1024, "avg"),
    "mobilenet_v3_small": (1024, "avg"),
}


@pytest.mark.parametrize("name", TIMM)
def test_classifier_of_timm_on_the_features_gives_the_logits(name):
    backbone = models.load(name, pretrained=False, image_size=64)
    reader = taps.resolve(backbone)
    (tap,) = reader.taps
    assert (tap.name, tap.dim, tap.pooling) == ("penultimate", *TIMM[name])
    batch = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        features = reader.read(batch)["penultimate"]
        logits = backbone.model.get_submodule(backbone.head[0])(features)
        torch.testing.assert_close(logits, backbone.model(batch))
    assert features.shape == (3, tap.dim)


@pytest.mark.parametrize("name", TORCHVISION)
def test_classifier_of_torchvision_on_the_features_gives_the_logits(name):
    backbone = models.load(f"torchvision:{name}", pretrained=False, image_size=64)
    reader = taps.resolve(backbone)
    (tap,) = reader.taps
    assert (tap.dim, tap.pooling) == TORCHVISION[name]
    batch = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        features = reader.read(batch)["penultimate"]
        logits = backbone.model(batch)
        if name == "squeezenet1_1":
            return  # its classifier convolves the map before it is pooled
        torch.testing.assert_close(backbone.model.get_submodule(backbone.head[0])(features), logits)


def test_squeezenet_is_averaged_over_its_map():
    backbone = models.load("torchvision:squeezenet1_1", pretrained=False, image_size=64)
    reader = taps.resolve(backbone)
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = backbone.model.features(batch).mean((2, 3))
        torch.testing.assert_close(reader.read(batch)["penultimate"], expected)


@pytest.fixture(scope="module")
def twins() -> tuple[models.Backbone, models.Backbone]:
    """One ResNet-18, its weights under torchvision's code and under timm's."""
    theirs = models.load("torchvision:resnet18", pretrained=False, image_size=64)
    ours = models.load("resnet18", pretrained=False, image_size=64)
    ours.model.load_state_dict(theirs.model.state_dict())
    return ours, theirs


LAYERS = ["layer1", "layer2", "layer3", "layer4", "penultimate"]


@pytest.mark.parametrize("pool", [None, ["max"], ["flatten"], ["max", "layer3=patch-mean"]])
def test_both_libraries_agree_on_every_layer(twins, pool):
    """The same weights by `forward_intermediates` and by hooks: an oracle for either."""
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = (taps.resolve(one, LAYERS, pool).read(batch) for one in twins)
    assert list(ours) == LAYERS
    for name in LAYERS:
        torch.testing.assert_close(ours[name], theirs[name])


def activations(model: torch.nn.Module, batch: torch.Tensor, path: str) -> torch.Tensor:
    """Return what a module gives, by a hook of this test's own."""
    seen = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, inputs, output: seen.append(output.clone())
    )
    with torch.inference_mode():
        model(batch)
    handle.remove()
    return seen[-1]


@pytest.mark.parametrize("pool", ["avg", "max", "cls", "patch-mean", "flatten"])
def test_tokens_are_pooled_as_named(pool):
    backbone = models.load("test_vit", pretrained=False)
    batch = torch.randn(3, 3, 160, 160)
    tokens = activations(backbone.model, batch, "blocks.2")
    expected = {
        "avg": tokens.mean(1),
        "max": tokens.amax(1),
        "cls": tokens[:, 0],
        "patch-mean": tokens[:, 1:].mean(1),
        "flatten": tokens.reshape(3, -1),
    }[pool]
    reader = taps.resolve(backbone, ["blocks.2", "blocks.2.mlp.fc2"], {"": pool})
    with torch.inference_mode():
        features = reader.read(batch)
    torch.testing.assert_close(features["blocks.2"], expected)
    assert reader.taps[0].pooling == pool
    assert [tap.dim for tap in reader.taps] == [features[tap.name].shape[1] for tap in reader.taps]


@pytest.fixture(scope="module")
def swin() -> models.Backbone:
    """A small network that computes in NHWC."""
    torch.manual_seed(3)
    model = timm.models.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 2), window_size=4
    ).eval()
    network = models.classifiers.timm.network(model, ("head.fc",))
    small = models.load("test_resnet", pretrained=False, image_size=32)
    return replace(small, name="swin", model=model, network=network)


@pytest.mark.parametrize("pool", ["avg", "max", "flatten"])
def test_maps_are_pooled_as_named_whatever_the_order_of_axes_inside(swin, pool):
    batch = torch.randn(2, 3, 32, 32)
    nhwc = activations(swin.model, batch, "layers.1")
    assert nhwc.shape == (2, 4, 4, 32)
    expected = {
        "avg": nhwc.mean((1, 2)),
        "max": nhwc.amax((1, 2)),
        "flatten": nhwc.permute(0, 3, 1, 2).reshape(2, -1),
    }[pool]
    inside = "layers.1.blocks.1"
    with torch.inference_mode():
        features = taps.resolve(swin, ["layers.1", inside, "last"], pool).read(batch)
    torch.testing.assert_close(features["layers.1"], expected)
    torch.testing.assert_close(features[inside], expected)
    assert features["last"].shape == expected.shape


def test_a_layer_is_read_before_the_next_one_overwrites_it(twins):
    backbone = twins[1]
    batch = torch.randn(2, 3, 64, 64)
    normalised = activations(backbone.model, batch, "bn1")
    assert normalised.min() < 0  # the ReLU after it works in place
    with torch.inference_mode():
        features = taps.resolve(backbone, ["bn1"], "flatten").read(batch)["bn1"]
    assert torch.equal(features, normalised.flatten(1))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_other_taps_do_not_change_the_penultimate_features(name):
    backbone = models.load(name, pretrained=False, image_size=64)
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        alone = taps.resolve(backbone).read(batch)["penultimate"]
        among = taps.resolve(backbone, ["all"]).read(batch)
        assert torch.equal(among["penultimate"], alone)
        first = next(iter(among))
        beside = taps.resolve(backbone, [first, "penultimate"]).read(batch)
        assert torch.equal(beside["penultimate"], alone)
        stopped = taps.resolve(backbone, [first]).read(batch)  # ends at that stage
        assert torch.equal(stopped[first], among[first])


def test_one_pass_reads_every_tap():
    backbone = models.load("test_resnet", pretrained=False)
    reader = taps.resolve(backbone, ["penultimate", "layer1", "layer1.0.conv1", "layer4.0"])
    runs = []
    for path in ("conv1", "layer1", "layer4"):
        backbone.model.get_submodule(path).register_forward_hook(
            lambda *_, path=path: runs.append(path)
        )
    with torch.inference_mode():
        reader.read(torch.randn(2, 3, 64, 64))
    assert runs == ["conv1", "layer1", "layer4"]


def test_readers_of_one_model_do_not_meet():
    backbone = models.load("test_resnet", pretrained=False, image_size=64)
    one = taps.resolve(backbone, ["layer1.0", "layer2"])
    other = taps.resolve(backbone, ["layer1.0", "penultimate"], ["layer1.0=max"])
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        first, second = one.read(batch), other.read(batch)
        assert set(first) == {"layer1.0", "layer2"}
        assert not torch.equal(first["layer1.0"], second["layer1.0"])
        assert torch.equal(one.read(batch)["layer1.0"], first["layer1.0"])


def test_flattened_layer_of_the_papers_study_has_802816_features():
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    network = models.classifiers.timm.network(model, ("fc",))
    small = models.load("test_resnet", pretrained=False, image_size=224)
    backbone = replace(small, model=model, network=network)
    (tap,) = taps.resolve(backbone, ["layer1"], "flatten").taps
    assert (tap.dim, tap.pooling) == (802_816, "flatten")


@given(shape=st.tuples(*[st.integers(1, 4)] * 4), kind=st.sampled_from(taps.POOLINGS))
@settings(max_examples=40, deadline=None, phases=[Phase.generate])
def test_pooled_features_share_no_memory_with_the_layer(shape, kind):
    activation = Activation(torch.randn(shape))
    if not taps.applies(kind, activation):
        return
    features = taps.pooled(activation, kind)
    before = features.clone()
    activation.values.fill_(9)
    assert torch.equal(features, before)
    assert features.ndim == 2
    assert features.dtype == torch.float32


def test_padding_has_no_part_in_pooling():
    tokens = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    activation = Activation(tokens, mask=mask)
    for kind, reduced in (("avg", tokens[0, :2].mean(0)), ("max", tokens[0, :2].amax(0))):
        torch.testing.assert_close(taps.pooled(activation, kind)[0], reduced)
    assert not taps.applies("flatten", activation)


# listing


def test_all_is_what_the_list_shows():
    backbone = models.load("test_resnet", pretrained=False)
    listed = taps.layers(backbone)
    assert [layer.path for layer in listed] == [
        "act1", "layer1", "layer2", "layer3", "layer4", "last", "penultimate",
    ]  # fmt: skip
    resolved = taps.resolve(backbone, ["all"]).taps
    assert [(tap.name, tap.dim, tap.pooling) for tap in resolved] == [
        (layer.path, layer.dim, layer.pooling) for layer in listed
    ]
    assert listed[1].shape == (32, 40, 40)


def test_every_module_that_is_listed_can_be_tapped():
    backbone = models.load("test_vit", pretrained=False)
    listed = taps.layers(backbone, modules=True)
    assert {"blocks.3.attn.qkv", "norm", "patch_embed"} <= {layer.path for layer in listed}
    resolved = taps.resolve(backbone, [layer.path for layer in listed]).taps
    assert [tap.dim for tap in resolved] == [layer.dim for layer in listed]


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("resnet152", "conv1", 6),
        ("vgg11", "features.0", 9),
        ("vit_b_32", "conv_proj", 14),
        ("mobilenet_v3_small", "features.0", 14),
        ("densenet121", "features.conv0", 10),
    ],
)
def test_stages_of_models_that_do_not_name_theirs(name, first, count):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    head = models.classifiers.torchvision.head(model)
    found = hooked.stages(model, head)
    assert (found[0], len(found)) == (first, count)


# what cannot be


@pytest.mark.parametrize(
    ("names", "pool", "message"),
    [
        (["layer9"], None, r"no layer 'layer9'; did you mean layer\d.*featstore taps test_resnet"),
        (["layer1", "layer1"], None, "tap 'layer1' is named twice"),
        ([], None, "no tap is named"),
        (["layer1"], "median", "no pooling 'median'; choose among avg, max, cls"),
        (["layer1"], "cls", r"layer1 of test_resnet \(32 x 40 x 40\) cannot be pooled by cls"),
        (["layer1"], "none", "cannot be pooled by none.*choose avg, max, patch-mean, flatten"),
        (["layer1"], ["layer2=max"], "given for layer2, which is not tapped; tapped: layer1"),
        (["layer1"], ["max", "avg"], "two poolings are given for all taps"),
        (["penultimate"], "max", "nothing is left to pool by max"),
        (["penultimate"], ["penultimate=max"], r"pooled by the model itself \(avg\), not by max"),
    ],
)
def test_what_cannot_be_tapped(names, pool, message):
    backbone = models.load("test_resnet", pretrained=False)
    with pytest.raises(UsageError, match=message):
        taps.resolve(backbone, names, pool)


def test_modules_without_a_row_for_each_image_are_refused(swin):
    message = r"layers.0.blocks.0.attn of swin gave \(8, 16, 16\) for two"
    with pytest.raises(UsageError, match=message):
        taps.resolve(swin, ["layers.0.blocks.0.attn"])


def test_modules_that_do_not_run_are_refused():
    backbone = models.load("test_vit", pretrained=False)
    backbone.model.add_module("spare", torch.nn.ModuleList([torch.nn.Linear(2, 2)]))
    with pytest.raises(UsageError, match=r"spare of test_vit gives no .* inside, as spare\.0"):
        taps.resolve(backbone, ["spare"])


def test_names_are_fit_for_a_store():
    assert taps._store_name("labels") == "labels_"
    assert taps._store_name("/encoder/Add_output:0") == "_encoder_Add_output_0"
    assert taps._store_name(".x") == "_x"


def test_size_that_the_model_cannot_take():
    backbone = models.load("torchvision:alexnet", pretrained=False, image_size=16)
    with pytest.raises(UsageError, match="torchvision:alexnet cannot take images of 16 px"):
        taps.resolve(backbone)


def test_model_without_vectors_before_its_classifier(monkeypatch):
    backbone = models.load("test_resnet", pretrained=False)
    monkeypatch.setattr(backbone.model, "forward_head", lambda maps, pre_logits: maps)
    with pytest.raises(BackboneError, match=r"two images gave \(2, 96, 5, 5\), not \(2, D\)"):
        taps.resolve(backbone)
