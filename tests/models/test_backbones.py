"""Backbones by name: from files, from hubs (one on loopback), untrained, and refused."""

import hashlib
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hub_clients import load_from
from loopback import hub, no_network  # noqa: F401
from safetensors.torch import save, save_file

from featstore import models
from featstore.errors import BackboneError, DownloadRefused, UsageError
from featstore.models import weights

SMALL = "test_resnet"


def small_state(seed: int) -> dict[str, torch.Tensor]:
    """A state dict of the small model that no initialisation gives."""
    state = timm.create_model(SMALL).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in state.items():
        if key.endswith("weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return state


# files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file(tmp_path, suffix):
    state = small_state(3)
    file = tmp_path / f"file{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save({"model": state}, file)
    backbone = models.load(SMALL, weights=file)
    loaded = backbone.model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert backbone.weights_id == weights.identity(state)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_head_of_other_classes_is_left_out_and_said(tmp_path):
    ids = []
    for classes in (10, 1000):
        state = small_state(3)
        generator = torch.Generator().manual_seed(classes)
        state["fc.weight"] = torch.randn(classes, 96, generator=generator)
        state["fc.bias"] = torch.zeros(classes)
        torch.save(state, tmp_path / f"{classes}.pth")
        backbone = models.load(SMALL, weights=tmp_path / f"{classes}.pth")
        ids.append(backbone.weights_id)
    assert backbone.notes == ()
    torch.manual_seed(5)  # the untrained head must not enter the identity
    note = models.load(SMALL, weights=tmp_path / "10.pth")
    assert note.weights_id == ids[0] != ids[1]
    assert len(note.notes) == 1
    assert "10.pth has no 'fc'" in note.notes[0]


def test_weights_of_another_model_name_file_and_keys(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(BackboneError, match=r"vit.pth: .* missing \(conv1.* unexpected \(cls_tok"):
        models.load(SMALL, weights=tmp_path / "vit.pth")


def test_torchvision_weights_of_a_file(tmp_path):
    torch.manual_seed(4)
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "file.pth")
    backbone = models.load("torchvision:squeezenet1_1", weights=tmp_path / "file.pth")
    assert backbone.weights_id == weights.identity(state)


# untrained


@pytest.mark.parametrize("name", [SMALL, "torchvision:squeezenet1_1"])
def test_untrained_weights_follow_the_seed_alone(name):
    torch.manual_seed(1)
    one = models.load(name, pretrained=False)
    state = torch.get_rng_state()
    two = models.load(name, pretrained=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.weights_id == two.weights_id
    assert one.weights_id.startswith("random:0:sha256:")
    other = models.load(name, pretrained=False, seed=1)
    assert other.weights_id.rpartition(":")[2] != one.weights_id.rpartition(":")[2]


# usage


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5O", {}, "timm has no model 'resnet5O'; did you mean resnet50"),
        ("resnet50.no_tag", {}, "timm has no weights 'no_tag' of resnet50; it has a1_in1k"),
        ("torchvision:resnet49", {}, "no classification model 'resnet49'; did you mean resnet"),
        ("torchvision:", {}, "no classification model ''"),
        ("torchvision:raft_large", {}, "no classification model 'raft_large'"),
        (SMALL, {"image_size": 0}, "an image of 0 px cannot be"),
        (SMALL, {"pretrained": False, "weights": "w.pth"}, "exclude each other"),
        (SMALL, {"weights": "no.pth"}, "there is no weight file no.pth"),
        ("torchvision:vit_b_16", {"pretrained": False, "image_size": 64}, "takes images of 224 px"),
    ],
)
def test_what_cannot_be_asked_for(name, options, message):
    with pytest.raises(UsageError, match=message):
        models.load(name, **options)


def test_model_without_published_weights():
    with pytest.raises(BackboneError, match=r"timm has no weights for test_maxvit; .*--weights"):
        models.load("test_maxvit")


def test_position_embedding_is_interpolated():
    backbone = models.load("test_vit", pretrained=False, image_size=96)
    native = models.load("test_vit", pretrained=False)
    assert backbone.weights_id == native.weights_id
    assert backbone.transform_text != native.transform_text
    with torch.inference_mode():
        assert backbone.model(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)


# Hugging Face's hub, in a process of its own: its client reads the address when it is imported


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def hub_id() -> str:
    return timm.get_pretrained_cfg(SMALL).hf_hub_id


def test_hub_serves_and_then_its_cache(tmp_path):
    state = small_state(7)
    path = f"/{hub_id()}/resolve/main/model.safetensors"
    with hub({path: save(state)}) as (address, seen):
        told = load_from(address, tmp_path, SMALL)
    assert told.get("id") == weights.identity(state), told
    assert f"GET {path}" in seen
    # The hub is gone; what it gave is still there, and is found without asking twelve times.
    again = load_from(address, tmp_path, SMALL)
    assert again.get("id") == told["id"], again
    assert again["seconds"] < 10


@pytest.mark.parametrize("refusal", ["closed port", "no such repository", "offline"])
def test_hub_refuses(tmp_path, refusal):
    if refusal == "closed port":
        address = f"http://127.0.0.1:{closed_port()}"
        told = load_from(address, tmp_path, SMALL)
    elif refusal == "offline":
        address = "http://127.0.0.1:1"
        told = load_from(address, tmp_path, SMALL, HF_HUB_OFFLINE="1")
    else:
        with hub({}, code="RepoNotFound") as (address, _):
            told = load_from(address, tmp_path, SMALL)
    assert told["error"] == "DownloadRefused"
    for part in (SMALL, f"{address}/{hub_id()}", "--weights FILE", "--no-pretrained"):
        assert part in told["text"]
    assert "\n" not in told["text"]
    assert told["seconds"] < 15


# torch.hub's files, in this process


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """A cache of torch.hub's that is this test's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def published_at(monkeypatch, url: str) -> None:
    published = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.value
    monkeypatch.setattr(published, "url", url)


def test_torchvision_fetches(tmp_path, monkeypatch):
    torch.manual_seed(9)
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "served.pth")
    content = (tmp_path / "served.pth").read_bytes()
    name = f"/squeezenet-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    with hub({name: content}) as (address, seen):
        published_at(monkeypatch, address + name)
        backbone = models.load("torchvision:squeezenet1_1")
    assert backbone.weights_id == weights.identity(state)
    assert seen == [f"GET {name}"]
    assert models.load("torchvision:squeezenet1_1").weights_id == backbone.weights_id


@pytest.mark.parametrize("refusal", ["closed port", "404", "wrong content"])
def test_torchvision_is_refused(monkeypatch, refusal):
    files = {"/squeezenet-12345678.pth": b"something else"} if refusal == "wrong content" else {}
    with hub(files) as (address, _):
        if refusal == "closed port":
            address = f"http://127.0.0.1:{closed_port()}"
        published_at(monkeypatch, f"{address}/squeezenet-12345678.pth")
        began = time.monotonic()
        wanted = BackboneError if refusal == "wrong content" else DownloadRefused
        with pytest.raises(wanted) as caught:
            models.load("torchvision:squeezenet1_1")
    for part in ("torchvision:squeezenet1_1", address, "--weights FILE", "--no-pretrained"):
        assert part in str(caught.value)
    assert time.monotonic() - began < 10
    assert socket.getdefaulttimeout() is None


def test_torchvision_runs_nothing_of_a_file(tmp_path, monkeypatch):
    trigger = tmp_path / "boom"
    torch.save({"weight": Bomb(trigger)}, tmp_path / "served.pth")
    content = (tmp_path / "served.pth").read_bytes()
    name = f"/squeezenet-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    with hub({name: content}) as (address, _):
        published_at(monkeypatch, address + name)
        with pytest.raises(BackboneError, match="do not load") as caught:
            models.load("torchvision:squeezenet1_1")
    assert "\n" not in str(caught.value)
    assert not trigger.exists()
