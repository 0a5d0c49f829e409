"""Taps: the penultimate features are what the classifier sees."""

import pytest
import timm
import torch
import torchvision

from featstore import backbones, taps
from featstore.errors import BackboneError, UsageError

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
    backbone = backbones.load(name, pretrained=False)
    reader = taps.resolve(backbone)
    (tap,) = reader.taps
    assert (tap.name, tap.dim, tap.pooling) == ("penultimate", *TIMM[name])
    batch = torch.randn(3, *backbone.model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        features = reader.read(batch)["penultimate"]
        logits = backbone.model.get_submodule(backbone.head[0])(features)
        torch.testing.assert_close(logits, backbone.model(batch))
    assert features.shape == (3, tap.dim)


@pytest.mark.parametrize("name", TORCHVISION)
def test_classifier_of_torchvision_on_the_features_gives_the_logits(name):
    backbone = backbones.load(f"torchvision:{name}", pretrained=False)
    reader = taps.resolve(backbone)
    (tap,) = reader.taps
    assert (tap.dim, tap.pooling) == TORCHVISION[name]
    batch = torch.randn(3, 3, 224, 224)
    with torch.inference_mode():
        features = reader.read(batch)["penultimate"]
        logits = backbone.model(batch)
        if name == "squeezenet1_1":
            return  # its classifier convolves the map before it is pooled
        torch.testing.assert_close(backbone.model.get_submodule(backbone.head[0])(features), logits)


def test_squeezenet_is_averaged_over_its_map():
    backbone = backbones.load("torchvision:squeezenet1_1", pretrained=False)
    reader = taps.resolve(backbone)
    batch = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = backbone.model.features(batch).mean((2, 3))
        torch.testing.assert_close(reader.read(batch)["penultimate"], expected)


def test_both_libraries_agree_on_resnet18():
    """The same weights under both libraries' code: an oracle for either's way to the features."""
    torch.manual_seed(0)
    theirs, ours = torchvision.models.resnet18().eval(), timm.create_model("resnet18").eval()
    ours.load_state_dict(theirs.state_dict())
    read = [
        taps.resolve(
            backbones.Backbone(
                name=name, model=model, weights_id="", head=("fc",),
                transform=backbones.timm_models.transform(ours, "resnet18", 64),
            )
        ).read
        for name, model in (("torchvision:resnet18", theirs), ("resnet18", ours))
    ]  # fmt: skip
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(read[0](batch)["penultimate"], read[1](batch)["penultimate"])


def test_unknown_tap_names_those_there():
    backbone = backbones.load("test_resnet", pretrained=False)
    with pytest.raises(UsageError, match="test_resnet has no tap 'layer9'; it has penultimate"):
        taps.resolve(backbone, ["penultimate", "layer9"])


def test_size_that_the_model_cannot_take():
    backbone = backbones.load("torchvision:alexnet", pretrained=False, image_size=16)
    with pytest.raises(UsageError, match="torchvision:alexnet cannot take images of 16 px"):
        taps.resolve(backbone)


def test_model_without_vectors_before_its_classifier(monkeypatch):
    backbone = backbones.load("test_resnet", pretrained=False)
    monkeypatch.setattr(backbone.model, "forward_head", lambda maps, pre_logits: maps)
    with pytest.raises(BackboneError, match=r"one image gave \(1, 96, 5, 5\), not \(1, D\)"):
        taps.resolve(backbone)
