"""Weight files: what is read, what is refused, and how misfits are told."""

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from featstore import backbones, layouts, weights
from featstore.errors import BackboneError, UsageError


def network(classes: int = 3) -> torch.nn.Module:
    return torch.nn.Sequential(
        OrderedDict(
            body=torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5)),
            head=torch.nn.Linear(5, classes),
        )
    )


@pytest.fixture
def trained():
    torch.manual_seed(1)
    model = network()
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape).mul(9))
    return model.state_dict()


def equal(state, other) -> bool:
    return set(state) == set(other) and all(torch.equal(state[key], other[key]) for key in state)


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "both": lambda state: {"model": {"state_dict": state}, "optimizer": None},
    "module.": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "options and scores": lambda state: {
        "model": state,
        "args": argparse.Namespace(lr=0.1, data="/x"),
        "best": [np.float64(0.7), np.float32(0.1), np.int64(3), np.bool_(True)],
    },
    "wrapped twice": lambda state: {
        "state_dict": {f"module._orig_mod.{key}": tensor for key, tensor in state.items()}
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_checkpoints_are_unwrapped(tmp_path, trained, wrapping, suffix):
    torch.save(WRAPPINGS[wrapping](trained), tmp_path / f"file{suffix}")
    assert equal(weights.read(tmp_path / f"file{suffix}"), trained)


def test_safetensors(tmp_path, trained):
    save_file(WRAPPINGS["module."](trained), tmp_path / "file.safetensors")
    assert equal(weights.read(str(tmp_path / "file.safetensors")), trained)


def test_prefix_of_some_keys_only_is_part_of_the_names(tmp_path, trained):
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(state, tmp_path / "file.pth")
    assert set(weights.read(tmp_path / "file.pth")) == {"module.a", "b"}


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "save", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it, 2))]
)
def test_nothing_in_a_file_is_run(tmp_path, save):
    trigger = tmp_path / "boom"
    save({"weight": Bomb(trigger)}, tmp_path / "file.pth")
    with pytest.raises(BackboneError) as caught:
        weights.read(tmp_path / "file.pth")
    assert not trigger.exists()
    for part in ("file.pth", "could run anything", "save the state dict alone"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no weight file that torch reads"),
        (b"not a checkpoint", "no weight file that torch reads"),
        ([torch.zeros(2)], "holds a list, and no state dict"),
        ({}, "holds a dict, and no state dict"),
        ({"epoch": 3, "lr": 0.1}, r"2 not a tensor \(epoch, lr\)"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    file = tmp_path / "file.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(BackboneError, match=message) as caught:
        weights.read(file)
    assert str(file) in str(caught.value)


def test_truncated_files(tmp_path, trained):
    torch.save(trained, tmp_path / "file.pth")
    save_file(trained, tmp_path / "file.safetensors")
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(BackboneError, match=f"{file.name} is no"):
            weights.read(file)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"there is no weight file .*no.pth"):
        weights.read(tmp_path / "no.pth")
    with pytest.raises(UsageError, match="there is no weight file"):
        weights.read(tmp_path)


# fitting


def test_every_tensor_arrives(trained):
    model = network()
    assert weights.fit(model, trained, ["head"]) == ()
    assert equal(model.state_dict(), trained)


def test_keys_that_do_not_fit_are_listed(trained):
    trained["extra.weight"] = trained.pop("body.0.weight")
    trained["body.1.bias"] = torch.zeros(7)
    with pytest.raises(BackboneError) as caught:
        weights.fit(network(), trained, ["head"])
    assert "1 missing (body.0.weight)" in str(caught.value)
    assert "1 unexpected (extra.weight)" in str(caught.value)
    assert "1 of another shape (body.1.bias (7,) for (5,))" in str(caught.value)


def test_long_lists_are_counted(trained):
    state = {f"other.{number}": torch.zeros(1) for number in range(100)}
    with pytest.raises(BackboneError, match=r"100 unexpected \(other.0, .* and 92 more\)"):
        weights.fit(network(), state, [])


def test_refused_weights_change_nothing(trained):
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trained.pop("body.0.weight")
    with pytest.raises(BackboneError):
        weights.fit(model, trained, ["head"])
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize("other", ["of other classes", "without bias", "absent", "renamed"])
def test_head_alone_may_differ(trained, other):
    if other == "of other classes":
        trained["head.weight"], trained["head.bias"] = torch.zeros(9, 5), torch.zeros(9)
    elif other == "without bias":
        trained.pop("head.bias")
    else:
        del trained["head.weight"], trained["head.bias"]
    model = network()
    if other == "renamed":
        trained["fc.weight"] = torch.zeros(9, 5)
        with pytest.raises(BackboneError, match=r"unexpected \(fc.weight\)"):
            weights.fit(model, trained, ["head"])
        return
    head = model.head.weight.clone()
    assert weights.fit(model, trained, ["head"]) == ("head",)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.body[0].weight, trained["body.0.weight"])


def test_counters_of_old_checkpoints_may_lack(trained):
    trained.pop("body.1.num_batches_tracked")
    assert weights.fit(network(), trained, ["head"]) == ()


# files of other projects


def small_state(seed: int) -> dict[str, torch.Tensor]:
    model = timm.create_model("test_resnet")
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for key, tensor in state.items():
        if key.endswith("weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return state


def test_files_of_the_robustness_library(tmp_path):
    state = small_state(1)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    wrapped = {f"module.model.{key}": tensor for key, tensor in state.items()}
    wrapped |= {f"module.attacker.model.{key}": tensor for key, tensor in state.items()}
    for place in ("normalizer", "attacker.normalize"):
        wrapped |= {f"module.{place}.new_mean": mean[:, None, None]}
        wrapped |= {f"module.{place}.new_std": std[:, None, None]}
    torch.save({"model": wrapped, "epoch": 3, "schedule": None}, tmp_path / "robust.pt")
    backbone = backbones.load("test_resnet", weights=tmp_path / "robust.pt")
    assert backbone.weights_id == weights.identity(state)
    assert backbone.transform.mean == pytest.approx((0.1, 0.2, 0.3))
    assert backbone.transform.std == pytest.approx((0.4, 0.5, 0.6))
    torch.save(state, tmp_path / "plain.pt")
    plain = backbones.load("test_resnet", weights=tmp_path / "plain.pt")
    assert plain.weights_id == backbone.weights_id
    assert plain.transform_text != backbone.transform_text

    native = plain.transform
    for place in ("normalizer", "attacker.normalize"):
        wrapped[f"module.{place}.new_mean"] = torch.tensor(native.mean)[:, None, None]
        wrapped[f"module.{place}.new_std"] = torch.tensor(native.std)[:, None, None]
    torch.save({"model": wrapped}, tmp_path / "usual.pt")
    usual = backbones.load("test_resnet", weights=tmp_path / "usual.pt")
    assert usual.transform_text == plain.transform_text


def matryoshka(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state as FFCV's scripts save it: nested heads, and a blur before some convolutions."""
    state = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    for place, width in enumerate((8, 16, 96)):
        state[f"fc.nesting_classifier_{place}.weight"] = torch.randn(10, width)
        state[f"fc.nesting_classifier_{place}.bias"] = torch.randn(10)
    for path in ("layer2.0.conv1", "layer3.0.conv1"):
        kernel = state.pop(f"{path}.weight")
        state[f"{path}.conv.weight"] = kernel
        blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        state[f"{path}.blur_filter"] = blur.repeat(kernel.shape[1], 1, 1, 1)
    return {f"module.{key}": tensor for key, tensor in state.items()}


def test_matryoshka_files_blur_and_have_nested_heads(tmp_path):
    state = small_state(2)
    torch.save(matryoshka(state), tmp_path / "mrl.pt")
    backbone = backbones.load("test_resnet", weights=tmp_path / "mrl.pt")
    assert "mrl.pt has no 'fc'" in backbone.notes[0]
    plain = timm.create_model("test_resnet").eval()
    plain.load_state_dict(state)
    seen = {}
    for model, name in ((plain, "plain"), (backbone.model, "blurred")):
        model.layer2[0].conv1.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        plain.forward_features(batch)
        backbone.model.forward_features(batch)
    given, expected = seen["plain"]
    assert torch.equal(seen["blurred"][0], given)
    assert not torch.allclose(seen["blurred"][1], expected)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    padded = torch.nn.functional.pad(given, (1, 1, 1, 1))
    height, width = given.shape[2:]
    smooth = sum(
        kernel[i, j] * padded[:, :, i : i + height, j : j + width]
        for i in range(3)
        for j in range(3)
    )
    with torch.inference_mode():
        torch.testing.assert_close(seen["blurred"][1], plain.layer2[0].conv1(smooth))


def test_blurs_where_the_model_has_no_convolution(tmp_path):
    torch.save({"layer9.conv.blur_filter": torch.zeros(1)}, tmp_path / "mrl.pt")
    message = "blur before layer9.conv, which is no convolution"
    with pytest.raises(BackboneError, match=message):
        backbones.load("test_resnet", weights=tmp_path / "mrl.pt")


# identity


def test_identity_sees_names_types_shapes_and_bits(trained):
    known = weights.identity(trained)
    assert known.startswith("sha256:")
    assert weights.identity(dict(reversed(trained.items()))) == known
    matrix = trained["body.0.weight"]
    for changed in (
        {"body.0.weight": matrix.nextafter(torch.tensor(100.0))},
        {"body.0.weight": matrix.T},
        {"body.0.weight": matrix.double()},
        {"body.0.weight": matrix, "more": matrix},
    ):
        assert weights.identity({**trained, **changed}) != known
    strided = matrix.T.contiguous().T
    assert weights.identity({**trained, "body.0.weight": strided}) == known


def test_layout_is_only_renamed_for_a_network_that_has_its_names(trained):
    state = {"_conv_stem.weight": 1, "_blocks.0._bn1.weight": 2}
    assert layouts.in_timm_names(trained, ["conv_stem.weight"]) == trained
    assert layouts.in_timm_names(state, ["conv1.weight"]) == state


def test_keys_beyond_a_layout_keep_their_names():
    state = {"_conv_stem.weight": 1, "_blocks.7._expand_conv.weight": 2, "_swish.x": 3}
    renamed = layouts.in_timm_names(state, ["conv_stem.weight", "blocks.0.0.conv_pw.weight"])
    assert renamed == {
        "conv_stem.weight": 1, "_blocks.7._expand_conv.weight": 2, "_swish.x": 3,
    }  # fmt: skip
