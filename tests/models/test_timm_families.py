"""Families of timm's models, each in its own way of showing layers, by the survey's own checks."""

import pytest
import timm
import torch

from benchmarks import taps_survey
from featstore import models
from featstore.errors import UsageError
from featstore.models import taps

# Several maps and no list of stages; two branches of tokens; a class token that comes late; two
# heads; tokens that are pooled between stages; several resolutions at once; a plain one.
ODD = {
    "coat_lite_tiny": 320,
    "crossvit_tiny_240": 288,
    "convit_tiny": 192,
    "levit_128s": 384,
    "pit_ti_224": 256,
    "hrnet_w18_small": 2048,
    "test_efficientnet": 256,
}


@pytest.mark.parametrize("name", ODD)
def test_every_family_is_tapped_whole(name):
    row = taps_survey.surveyed(name)
    assert (row["penultimate"], row["remark"]) == (ODD[name], "ok")
    assert row["layers"] >= 4


def test_what_is_wrong_is_the_remark(monkeypatch):
    backbone = models.load("test_resnet", pretrained=False, image_size=64)
    layers, reader = taps.layers(backbone), taps.resolve(backbone, ["all"])
    with torch.inference_mode():
        features = reader.read(taps_survey.images(backbone))
    own = features["penultimate"]

    def wrong(**changed):
        return taps_survey._wrong(layers, reader.taps, features | changed, own)

    assert wrong() == []
    assert wrong(penultimate=own + 0.1) == ["penultimate is not the head's"]
    assert wrong(layer1=features["layer1"][:1]) == ["layer1 is (1, 32) or not finite"]
    assert wrong(layer2=features["layer2"] * torch.nan) == ["layer2 is (2, 48) or not finite"]
    assert taps_survey._wrong(layers[1:], reader.taps, features, own) == [
        "all is not what is listed"
    ]
    monkeypatch.setattr(backbone.model, "forward_features", lambda batch: [])
    monkeypatch.setattr(models, "load", lambda *_, **__: backbone)
    with pytest.raises(AttributeError):
        taps_survey.surveyed("test_resnet")


def test_what_all_leaves_out_is_refused_by_name():
    backbone = models.load("crossvit_tiny_240", pretrained=False)
    names = [tap.name for tap in taps.resolve(backbone, ["all"]).taps]
    assert names == ["blocks.0", "blocks.1", "blocks.2", "penultimate"]
    with pytest.raises(
        UsageError, match=r"last of crossvit_tiny_240 gives no .*, as blocks.0, blocks.1, blocks.2"
    ):
        taps.resolve(backbone, ["all", "last"])


def test_a_stage_without_a_path_is_none():
    model = timm.create_model("test_resnet")
    model.feature_info = [{"module": ""}, {"module": "layer1"}, {"module": "gone"}]
    assert models.classifiers.timm.stages(model) == ("layer1",)


def test_the_smallest_model_of_a_module_is_chosen():
    assert taps_survey.smallest("convit") == "convit_tiny"


def test_the_document_lists_models_that_there_are():
    names = taps_survey.committed()
    modules = [taps_survey._module(name) for name in names]
    assert len(set(modules)) == len(modules) > 75
    assert set(modules) <= set(timm.list_modules())
