"""Weight files: what is read, what is refused, and how misfits are told."""

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from featstore import models
from featstore.errors import BackboneError, UsageError
from featstore.models import classifiers, weights


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
        (b"", r"is empty \(0 bytes\)"),
        (b"not a checkpoint", "is text that begins 'not a checkpoint'"),
        (
            b"\x01\x02\x03\xff" * 40,
            r"no weight file that torch reads .*first bytes are 01 02 03 ff",
        ),
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
        with pytest.raises(BackboneError, match=f"{file.name} is .*the end .*missing") as caught:
            weights.read(file)
        assert "fetch it again" in str(caught.value)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 97781949\n"
OTHER_FILES = {
    "pointer": (POINTER, "is a Git LFS pointer of 97.8 MB, not the file itself: .* git lfs pull"),
    "page": (
        b"\n<!DOCTYPE html><html><title>Sign in</title>",
        "is a web page .'Sign in'., not the file",
    ),
    "refusal": (b'{"error": "Repository not found"}', "is text that begins .*Repository not found"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, as Keras saves weights"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "is packed by gzip: unpack it"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "is a tar archive: unpack it"),
    "gguf": (b"GGUF" + bytes(99), "is a GGUF file"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_called_by_their_kind(tmp_path, kind, suffix):
    content, message = OTHER_FILES[kind]
    file = tmp_path / f"file{suffix}"
    file.write_bytes(content)
    with pytest.raises(BackboneError, match=message) as caught:
        weights.read(file)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/constants.pkl", "a/code/__torch__.py", "a/data.pkl"], "is a TorchScript archive"),
        (["config.json", "model.weights.h5"], "is a model of Keras"),
        (["x.npy", "y.npy"], "is an archive of NumPy arrays"),
        (["weights/model.bin"], "is a zip archive of weights/model.bin: unpack it"),
        ([], "is a zip archive of nothing"),
    ],
)
def test_zip_archives_of_another_kind(tmp_path, names, message):
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    with pytest.raises(BackboneError, match=message):
        weights.read(tmp_path / "file.pth")


def test_content_decides_and_not_the_suffix(tmp_path, trained):
    torch.save(trained, tmp_path / "pickled.safetensors")
    save_file(trained, tmp_path / "tensors.pth")
    torch.save(trained, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        assert equal(weights.read(file), trained)


def test_advice_to_read_unsafely_is_not_passed_on(tmp_path):
    for kind, content in {
        "protocol": b"\x80\x05K\x01.",
        "cut": pickle.dumps([1.0] * 99)[:-20],
    }.items():
        (tmp_path / kind).write_bytes(content)
        with pytest.raises(BackboneError) as caught:
            weights.read(tmp_path / kind)
        assert "eights" not in str(caught.value)


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
    backbone = models.load("test_resnet", weights=tmp_path / "robust.pt")
    assert backbone.weights_id == weights.identity(state)
    assert backbone.transform.mean == pytest.approx((0.1, 0.2, 0.3))
    assert backbone.transform.std == pytest.approx((0.4, 0.5, 0.6))
    torch.save(state, tmp_path / "plain.pt")
    plain = models.load("test_resnet", weights=tmp_path / "plain.pt")
    assert plain.weights_id == backbone.weights_id
    assert plain.transform_text != backbone.transform_text

    native = plain.transform
    for place in ("normalizer", "attacker.normalize"):
        wrapped[f"module.{place}.new_mean"] = torch.tensor(native.mean)[:, None, None]
        wrapped[f"module.{place}.new_std"] = torch.tensor(native.std)[:, None, None]
    torch.save({"model": wrapped}, tmp_path / "usual.pt")
    usual = models.load("test_resnet", weights=tmp_path / "usual.pt")
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
    backbone = models.load("test_resnet", weights=tmp_path / "mrl.pt")
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
        models.load("test_resnet", weights=tmp_path / "mrl.pt")


# checkpoints that hold more than one network


def under(prefix: str, state: dict) -> dict:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def without_head(seed: int) -> dict[str, torch.Tensor]:
    state = small_state(seed)
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


GOOD, OTHER, SOME = without_head(1), without_head(2), torch.ones(2, 2)
# what training scripts save, which of it is the network, and what a notice has to name
CHECKPOINTS = {
    "MoCo": (
        {
            "arch": "resnet",
            "state_dict": {
                **under("module.encoder_k.", OTHER),
                **under("module.encoder_q.", GOOD),
                "module.encoder_q.fc.0.weight": SOME,
                "module.queue": SOME,
            },
        },
        ["module.encoder_q.* of state_dict", "not module.encoder_k.*", "module.queue", "fc.0"],
    ),
    "MoCo v3": (
        {
            "state_dict": {
                **under("module.momentum_encoder.", OTHER),
                **under("module.base_encoder.", GOOD),
                "module.predictor.0.weight": SOME,
            }
        },
        ["module.base_encoder.*", "not module.momentum_encoder.*", "module.predictor.0.weight"],
    ),
    "DINO": (
        {
            "student": under("module.backbone.", OTHER),
            "teacher": {**under("backbone.", GOOD), "head.mlp.0.weight": SOME},
            "optimizer": {"state": {0: {"exp_avg": SOME}}},
            "dino_loss": {"center": SOME},
        },
        ["backbone.* of teacher", "not module.backbone.* of student", "head.mlp.0", "dino_loss"],
    ),
    "DINOv2": (
        {
            "model": {
                **under("student.backbone.", OTHER),
                **under("teacher.backbone.", GOOD),
                "teacher.dino_head.mlp.0.weight": SOME,
            }
        },
        ["teacher.backbone.* of model", "not student.backbone.*", "teacher.dino_head"],
    ),
    "iBOT": (
        {"student": under("module.", OTHER), "momentum_teacher": under("module.", GOOD)},
        ["momentum_teacher", "a teacher is taken before its student"],
    ),
    "SwAV": ({**under("module.", GOOD), "module.prototypes.weight": SOME}, ["module.prototypes"]),
    "SimCLR": (
        {"state_dict": {**under("backbone.", GOOD), "projector.0.weight": SOME}},
        ["backbone.*", "projector.0.weight"],
    ),
    "BYOL": (
        {"online_encoder": under("net.", GOOD), "target_encoder": under("net.", OTHER)},
        ["net.* of online_encoder", "not net.* of target_encoder", "momentum copy"],
    ),
    "I-JEPA": (
        {"encoder": under("module.", OTHER), "target_encoder": under("module.", GOOD)},
        ["target_encoder", "the target encoder is taken"],
    ),
    "Lightning": (
        {
            "pytorch-lightning_version": "2.0",
            "state_dict": {**under("net.", GOOD), "criterion.weight": SOME},
            "hyper_parameters": {"lr": 0.1},
            "optimizer_states": [{"state": {0: {"exp_avg": SOME}}}],
        },
        ["net.*", "criterion.weight"],
    ),
    "mmpretrain": (
        {
            "meta": {"epoch": 1},
            "state_dict": {
                **under("backbone.", GOOD),
                "head.fc.weight": SOME,
                "data_preprocessor.mean": torch.tensor([123.675, 116.28, 103.53]),
            },
        },
        ["backbone.*", "head.fc.weight", "data_preprocessor.mean (123.7, 116.3, 103.5) is not"],
    ),
    "VISSL": (
        {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", GOOD)}}
            }
        },
        ["_feature_blocks.* of classy_state_dict/base_model/model/trunk"],
    ),
    "timm, EMA": (
        {"state_dict": OTHER, "state_dict_ema": GOOD, "epoch": 9},
        ["took state_dict_ema", "not state_dict", "EMA", "as timm does"],
    ),
    "torchvision, EMA": (
        {"model": OTHER, "model_ema": {**under("module.", GOOD), "n_averaged": torch.tensor(3)}},
        ["module.* of model_ema", "n_averaged"],
    ),
    "EMA alone": ({"model_ema": GOOD, "epoch": 1}, ["took model_ema"]),
    "EMA inside": (
        {"state_dict": {**under("model.", OTHER), **under("ema_model.", GOOD)}},
        ["ema_model.* of state_dict", "not model.*"],
    ),
    "a student that was distilled": (
        {"model": GOOD, "teacher": OTHER},
        ["took model", "not teacher", "before its teacher"],
    ),
    "DeepSpeed": ({"module": GOOD, "dp_world_size": 2}, []),
    "compiled": ({"state_dict": under("model._orig_mod.", GOOD)}, []),
    "compiled, DDP": (under("_orig_mod.module.", GOOD), []),
    "FSDP, blocks compiled": (
        {
            key.replace("layer1.", "layer1._fsdp_wrapped_module._orig_mod."): tensor
            for key, tensor in under("_fsdp_wrapped_module.", GOOD).items()
        },
        [],
    ),
    "CLIP": (
        {**under("visual.", GOOD), "transformer.x.weight": SOME, "logit_scale": torch.tensor(1.0)},
        ["visual.*", "transformer.x.weight", "logit_scale"],
    ),
    "a sequence": ({**under("0.", GOOD), "1.weight": SOME}, ["0.*", "1.weight"]),
    "a name of one's own": (
        {"state_dict": {**under("my_net.stem_and_body.", GOOD), "my_loss": SOME}},
        ["my_net.stem_and_body.*", "my_loss"],
    ),
}


@pytest.fixture(scope="module")
def plain_id(tmp_path_factory):
    file = tmp_path_factory.mktemp("plain") / "plain.pth"
    torch.save(GOOD, file)
    return models.load("test_resnet", weights=file).weights_id


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_network_of_a_checkpoint_is_found(tmp_path, plain_id, name):
    content, named = CHECKPOINTS[name]
    torch.save(content, tmp_path / "file.pth")
    backbone = models.load("test_resnet", weights=tmp_path / "file.pth")
    assert backbone.weights_id == plain_id
    told = [note for note in backbone.notes if "has no 'fc'" not in note]
    assert bool(told) == bool(named)
    for part in named:
        assert part in " | ".join(told)


def test_key_and_prefix_decide(tmp_path, plain_id):
    content = {"student": under("module.backbone.", GOOD), "teacher": under("backbone.", OTHER)}
    torch.save(content, tmp_path / "dino.pth")
    torch.save({"model": under("a.", GOOD) | under("b.", OTHER)}, tmp_path / "two.pth")
    for file, place in {
        "dino.pth": {"weights_key": "student", "weights_prefix": "backbone."},
        "two.pth": {"weights_prefix": "a"},
    }.items():
        loaded = models.load("test_resnet", weights=tmp_path / file, **place)
        assert loaded.weights_id == plain_id
    with pytest.raises(UsageError, match=r"several networks that fit: a.\* of model and b.\* of"):
        models.load("test_resnet", weights=tmp_path / "two.pth")
    with pytest.raises(UsageError, match=r"no state dict under 'pupil'; it has student, teacher"):
        models.load("test_resnet", weights=tmp_path / "dino.pth", weights_key="pupil")
    with pytest.raises(UsageError, match=r"begins with 'c.'; its keys begin with a., b."):
        models.load("test_resnet", weights=tmp_path / "two.pth", weights_prefix="c.")
    with pytest.raises(UsageError, match="give it with --weights FILE"):
        models.load("test_resnet", pretrained=False, weights_key="student")


@pytest.mark.parametrize("extra", ["layer1.7.conv1.weight", "norm_pre.weight", "reg_token"])
def test_keys_of_another_architecture_are_refused(tmp_path, extra):
    torch.save({**GOOD, extra: SOME}, tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=rf"1 unexpected \({extra}\)"):
        models.load("test_resnet", weights=tmp_path / "file.pth")


def test_weights_of_another_model_name_the_prefix_that_all_keys_share(tmp_path):
    torch.save(under("encoder.body.", {"a.weight": SOME, "b.weight": SOME}), tmp_path / "file.pth")
    with pytest.raises(BackboneError, match=r"all keys begin with 'encoder.body.'"):
        models.load("test_resnet", weights=tmp_path / "file.pth")


def test_position_embeddings_of_another_size(tmp_path):
    large = timm.create_model("test_vit", img_size=224)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        large.pos_embed.copy_(torch.randn(large.pos_embed.shape, generator=generator))
    torch.save(large.state_dict(), tmp_path / "large.pth")
    taken = models.load("test_vit", weights=tmp_path / "large.pth", image_size=224)
    assert torch.equal(taken.model.pos_embed, large.pos_embed)
    assert taken.weights_id == weights.identity(large.state_dict())
    assert taken.notes == ()
    native = models.load("test_vit", weights=tmp_path / "large.pth")
    expected = timm.create_model("test_vit")
    timm.models.load_checkpoint(
        expected, str(tmp_path / "large.pth"),
        filter_fn=timm.models.vision_transformer.checkpoint_filter_fn,
    )  # fmt: skip
    assert torch.equal(native.model.pos_embed, expected.pos_embed)
    assert "interpolated to the model's size: pos_embed (1, 197, 64) to" in native.notes[0]


def test_mask_tokens_and_decoders_of_masked_autoencoders_are_named(tmp_path):
    state = timm.create_model("test_vit").state_dict()
    extra = {"mask_token": SOME, "decoder_blocks.0.mlp.weight": SOME, "decoder_pos_embed": SOME}
    torch.save({"model": state | extra}, tmp_path / "mae.pth")
    loaded = models.load("test_vit", weights=tmp_path / "mae.pth")
    assert loaded.weights_id == weights.identity(state)
    assert "left out mask_token, decoder_blocks.0.mlp.weight, decoder_pos_embed" in loaded.notes[0]


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
    assert classifiers.in_timm_names(trained, ["conv_stem.weight"]) == trained
    assert classifiers.in_timm_names(state, ["conv1.weight"]) == state


def test_keys_beyond_a_layout_keep_their_names():
    state = {"_conv_stem.weight": 1, "_blocks.7._expand_conv.weight": 2, "_swish.x": 3}
    renamed = classifiers.in_timm_names(state, ["conv_stem.weight", "blocks.0.0.conv_pw.weight"])
    assert renamed == {
        "conv_stem.weight": 1, "_blocks.7._expand_conv.weight": 2, "_swish.x": 3,
    }  # fmt: skip
