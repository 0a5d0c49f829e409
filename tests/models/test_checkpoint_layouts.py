"""Layouts of checkpoints as projects of self-supervised learning leave them: the right network."""

import pytest
import timm
import torch

from featstore import models


def named(state, prefix="", **more):
    return {**{f"{prefix}{key}": value for key, value in state.items()}, **more}


@pytest.fixture(scope="module")
def two():
    """Two networks of one shape: the one to take, and another."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(timm.create_model("test_resnet", num_classes=0).state_dict())
    return found


LAYOUTS = {
    "moco_v3": lambda a, b: {"state_dict": named(a, "module.base_encoder.")
                             | named(b, "module.momentum_encoder."), "epoch": 9},
    "byol": lambda a, b: {"online_network": a, "target_network": b},
    "swav": lambda a, b: named(a, "module.", **{"module.prototypes.weight": torch.ones(3, 8)}),
    "dino": lambda a, b: {"student": named(b, "module.backbone."),
                          "teacher": named(a, "backbone."), "epoch": 3},
    "ibot": lambda a, b: {"state_dict": a},
    "vicreg": lambda a, b: {"model": named(a, "module.backbone.")
                            | {"module.projector.0.weight": torch.ones(4, 4)}},
    "barlow_twins": lambda a, b: {"model": named(a, "module.backbone."), "optimizer": {"lr": 0.1}},
    "mmpretrain": lambda a, b: {"meta": {"epoch": 1}, "state_dict": named(a, "backbone.")
                                | {"head.fc.weight": torch.ones(3, 8)}},
    "mmselfsup": lambda a, b: {"state_dict": named(a, "backbone.")
                               | {"neck.fc0.weight": torch.ones(3, 8)}},
    "solo_learn": lambda a, b: {"state_dict": named(a, "backbone.")
                                | named(b, "momentum_backbone.")
                                | {"classifier.weight": torch.ones(3, 8)}},
    "lightly": lambda a, b: {"state_dict": named(a, "backbone.")
                             | {"projection_head.layers.0.weight": torch.ones(3, 8)}},
    "vissl": lambda a, b: {"classy_state_dict": {"base_model": {"model": {
        "trunk": named(a, "_feature_blocks."), "heads": {"0.weight": torch.ones(3, 8)}}}}},
    "lightning": lambda a, b: {"state_dict": named(a, "model."), "pytorch-lightning_version": "2"},
    "lightning_ema": lambda a, b: {"state_dict": named(b, "model.") | named(a, "ema_model.")},
    "compiled": lambda a, b: named(a, "_orig_mod."),
    "ddp_twice": lambda a, b: {"state_dict": named(a, "module.module.")},
    "ddp_compiled": lambda a, b: named(a, "module._orig_mod."),
    "fsdp": lambda a, b: {"model": named(a, "_fsdp_wrapped_module.")},
    "deepspeed": lambda a, b: {"module": a, "global_steps": 7, "ds_version": "0.1"},
    "data2vec": lambda a, b: {"model": named(a, "encoder."), "cfg": {"task": "image"}},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_network_is_found(layout, two, tmp_path):
    wanted, other = two
    file = tmp_path / "w.pth"
    torch.save(LAYOUTS[layout](wanted, other), file)
    found = models.load("test_resnet", weights=file)
    state = found.model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in wanted.items())
    assert not all(torch.equal(wanted[key], other[key]) for key in wanted)
