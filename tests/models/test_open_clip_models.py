"""open_clip's image towers: a tiny one whose weights are a file, and what is refused."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from featstore import models
from featstore.errors import BackboneError, DownloadRefused, UsageError
from featstore.models import taps, weights

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "tiny-vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "tiny-timm": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token",
                  "timm_proj": "linear"},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def configurations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    for name, tower in TOWERS.items():
        config = {"embed_dim": 12, "vision_cfg": tower, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def picture(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def trained(name: str, file) -> torch.nn.Module:
    torch.manual_seed(5)
    model = open_clip.create_model(name).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    return model


@pytest.mark.parametrize("name", TOWERS)
def test_penultimate_is_the_embedding(tmp_path, name):
    model = trained(name, tmp_path / "clip.pt")
    backbone = models.load(f"open_clip:{name}", weights=tmp_path / "clip.pt")
    images = [picture(90, 70), picture(160, 170)]
    theirs = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), False
    )
    batch = backbone.prepare(backbone.encode_batch(images))
    assert torch.equal(batch, torch.stack([theirs(image) for image in images]))
    reader = taps.resolve(backbone, ["all"])
    with torch.inference_mode():
        features = reader.read(batch)
        torch.testing.assert_close(features["penultimate"], model.encode_image(batch))
    assert backbone.weights_id == weights.identity(model.visual.state_dict())
    assert len(features) >= 3


def test_position_embeddings_of_another_size(tmp_path):
    state = trained("tiny-vit", tmp_path / "clip.pt").state_dict()
    larger = open_clip.create_model("tiny-vit", force_image_size=64)
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    backbone = models.load("open_clip:tiny-vit", weights=tmp_path / "clip.pt", image_size=64)
    assert weights.identity(larger.visual.state_dict()) == backbone.weights_id
    assert "clip.pt: interpolated to the model's size: positional_embedding (17, 32)" in "".join(
        backbone.notes
    )


def test_layers_of_the_tower(tmp_path):
    model = trained("tiny-vit", tmp_path / "clip.pt")
    backbone = models.load("open_clip:tiny-vit", weights=tmp_path / "clip.pt")
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tower = model.visual
        last = tower.transformer(tower._embeds(batch))
        names = ["transformer.resblocks.1", "ln_post"]
        features = taps.resolve(backbone, names, "cls").read(batch)
        torch.testing.assert_close(features[names[0]], last[:, 0])
        torch.testing.assert_close(features["ln_post"] @ tower.proj, model.encode_image(batch))


def test_untrained_follows_the_seed():
    one, two = (models.load("open_clip:tiny-vit", pretrained=False) for _ in range(2))
    assert one.weights_id == two.weights_id
    assert one.weights_id.startswith("random:0:")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("no-such", {}, UsageError, "open_clip has no model 'no-such'"),
        ("ViT-B-32/no_tag", {}, UsageError, "no weights 'no_tag' of ViT-B-32; it has openai"),
        ("ViT-B-32", {}, UsageError, "needs a tag that says which weights, as open_clip:ViT-B-32/"),
        ("tiny-vit", {"weights": "FILE"}, BackboneError, r"missing \(class_embedding.* unexpected"),
        ("ViT-B-32/laion2b_s34b_b79k", {}, DownloadRefused, "laion.*--weights FILE"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, name, options, error, message):
    if options:
        torch.save({"visual.x": torch.zeros(1)}, tmp_path / "other.pt")
        options = {"weights": tmp_path / "other.pt"}
    with pytest.raises(error, match=message) as caught:
        models.load(f"open_clip:{name}", **options)
    assert "\n" not in str(caught.value)
