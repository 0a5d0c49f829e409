"""The transform cut in two gives what the library's whole transform gives, bit for bit."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import Phase, given, settings, strategies as st
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.utils._python_dispatch import TorchDispatchMode

from featstore.errors import UsageError
from featstore.models import timm as timm_models, torchvision as torchvision_models
from featstore.models.transforms import ImageRecipe, nearest, sources

# Between them: bicubic and bilinear; crops of all and of a part; means of ImageNet, CLIP and 0.5.
TIMM = ["test_vit", "test_resnet", "tf_efficientnet_lite0", "vit_base_patch32_clip_224"]
TORCHVISION = ["squeezenet1_1", "mobilenet_v3_small", "efficientnet_v2_s"]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


@pytest.fixture(scope="module")
def transforms():
    """Ours and the library's, by model."""
    pairs = {}
    for name in TIMM:
        model = timm.create_model(name)
        theirs = create_transform(**resolve_model_data_config(model), is_training=False)
        pairs[name] = (timm_models.transform(model, name, None), theirs)
    for name in TORCHVISION:
        theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        pairs[name] = (torchvision_models.transform(None, name, None), theirs)
    return pairs


@pytest.mark.parametrize("name", [*TIMM, *TORCHVISION])
@given(width=st.integers(1, 400), height=st.integers(1, 400))
@settings(max_examples=8, deadline=None, phases=[Phase.generate])
def test_image_by_image(transforms, name, width, height):
    ours, theirs = transforms[name]
    image = picture(width, height)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("name", ["test_vit", "squeezenet1_1"])
def test_batch_has_the_bits_of_each_image(transforms, name):
    ours, theirs = transforms[name]
    images = [picture(40 + 30 * seed, 200, seed) for seed in range(5)]
    pixels = torch.from_numpy(np.stack([ours.pixels(image) for image in images]))
    batch = ours.normalized(pixels)
    assert pixels.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, torch.stack([theirs(image) for image in images]))


class Names(TorchDispatchMode):
    """Notes what torch computes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_mean_and_scale_are_brought_over_once(transforms):
    """A copy to the device for each batch would make the host wait for the one before."""
    ours, _ = transforms["test_vit"]
    pixels = torch.zeros(2, 31, 37, 3, dtype=torch.uint8)
    seen = []
    for _ in range(2):
        with torch.inference_mode(bool(seen)), Names() as names:
            ours.normalized(pixels)
        seen.append(names.seen)
    made = {"repeat", "lift_fresh", "detach"}
    assert made & set(seen[0])
    assert not made & set(seen[1])


def test_image_size_of_timm_keeps_the_share_of_the_crop():
    model = timm.create_model("tf_efficientnet_lite0")
    ours = timm_models.transform(model, "tf_efficientnet_lite0", 96)
    config = {**resolve_model_data_config(model), "input_size": (3, 96, 96)}
    theirs = create_transform(**config, is_training=False)
    image = picture(150, 130)
    assert "size=109" in str(theirs)
    assert torch.equal(ours(image), theirs(image))
    assert '"input_size": [3, 96, 96]' in ours.text


def test_image_size_of_torchvision_keeps_the_share_of_the_crop():
    ours = torchvision_models.transform(None, "squeezenet1_1", 112)
    weights = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT
    theirs = weights.transforms(crop_size=112, resize_size=128)
    image = picture(150, 130)
    assert torch.equal(ours(image), theirs(image))


def test_text_tells_transforms_apart(transforms):
    texts = {ours.text for ours, _ in transforms.values()}
    assert len(texts) >= 5
    assert all("mean" in text and "std" in text for text in texts)


GEOMETRIES = {
    "one size": ImageRecipe(size=(40, 56)),
    "shorter side": ImageRecipe(size=48, resize=64, interpolation="bicubic"),
    "both sides": ImageRecipe(size=(30, 44), resize=(60, 50), interpolation="lanczos"),
}


@pytest.mark.parametrize(
    "name", [*GEOMETRIES, "test_vit", "vit_base_patch32_clip_224", "squeezenet1_1"]
)
@pytest.mark.parametrize("size", [(150, 110), (90, 210), (64, 64)])
def test_pixels_come_from_where_the_geometry_takes_them(transforms, name, size):
    """Large squares of one colour come out the same of both, but at their borders."""
    ours = GEOMETRIES[name].transform() if name in GEOMETRIES else transforms[name][0]
    squares = picture(size[0] // 10 + 1, size[1] // 10 + 1).resize(
        (10 * (size[0] // 10 + 1), 10 * (size[1] // 10 + 1)), Image.Resampling.NEAREST
    )
    image = squares.crop((0, 0, *size))
    down, across = sources(nearest(ours.geometry))(size)
    pixels = ours.pixels(image)
    assert down.shape == across.shape == pixels.shape[:2] == ours.sides
    assert (np.diff(down, axis=0) >= 0).all()
    assert (np.diff(across, axis=1) >= 0).all()
    assert (np.diff(down, axis=1) == 0).all()
    assert (np.diff(across, axis=0) == 0).all()
    apart = np.abs(np.asarray(image)[down, across].astype(int) - pixels).max(2)
    inside = (down % 10 > 2) & (down % 10 < 7) & (across % 10 > 2) & (across % 10 < 7)
    assert inside.mean() > 0.1
    # filters overshoot; a pixel of another square is 85 levels away in the mean
    assert apart[inside].max() <= 24


def test_a_geometry_that_no_map_can_follow_is_refused():
    blurred = lambda image: image.resize((40, 40), Image.Resampling.BICUBIC)  # noqa: E731
    with pytest.raises(UsageError, match="in a way that maps cannot follow"):
        nearest(blurred)
