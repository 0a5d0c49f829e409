"""The paper's study: its list, its printed numbers, and ours beside them."""

import json
import math
import re

import fake_sets
import layer_stores
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from fake_sets import TREES
from test_cli_commands import run as command

from featstore import probe
from featstore.errors import BadStudy
from featstore.probe.plans import described
from featstore.probe.solvers import SGD
from featstore.probe.subsets import random_order
from featstore.study import page as beside, spec
from featstore.study.facts import Facts
from featstore.study.features import features_of
from featstore.study.spec import several
from featstore.study.sweeps import arguments_of, solver_of

PUBLISHED = spec.published()


def probes_of(study, feature: str):
    """The arguments of every probe of random features of this feature."""
    for name, each in study.probes.items():
        if feature in several(each.features):
            arguments, modes = arguments_of(study, name, 2048)
            if "random" in modes:
                yield arguments


def test_the_list_holds_every_published_number():
    study = spec.study(("sgd",))
    names = {feature.name for feature in features_of(study)}
    published = list(beside.of_accuracies(PUBLISHED))
    assert len(published) == 2 * 4 * 10 + 3 * 6
    for model, data, fraction, accuracy in published:
        name = f"{PUBLISHED['models'][model]}-{data}"
        assert name in names
        assert 0 < accuracy < 100
        (arguments,) = probes_of(study, name)
        assert fraction == 1 or fraction in arguments["fractions"]
        assert arguments["seeds"] == [1, 2, 3, 4, 5]
        assert arguments["epochs"] == 100
        assert arguments["l2"] == (5e-4 if data.startswith("cifar") else 1e-4)
    (arguments,) = probes_of(study, "resnet50-cifar10")
    assert [*arguments["fractions"], 1.0] == PUBLISHED["fractions_resnet50"]
    for model, known in PUBLISHED["accuracy_percent"].items():
        sizes = [int(f * known["D"]) for f in known["fractions"]]
        assert sizes == known.get("k", sizes), model
    asked = study.analyses
    assert asked.cka_fractions == PUBLISHED["cka"]["pairs"]["fractions"]
    assert asked.cka_sizes == PUBLISHED["cka"]["full"]["k"]
    assert asked.cka_rows == PUBLISHED["cka"]["test_images"]
    assert PUBLISHED["diffused_redundancy"]["delta"] in asked.deltas


def test_one_figure_costs_what_it_cost_as_published():
    (arguments,) = probes_of(spec.study(("sgd",)), "resnet50-cifar10")
    trainings = len(arguments["fractions"]) * len(arguments["seeds"]) + 1
    assert trainings == PUBLISHED["cost"]["figure_trainings"]
    passes = trainings * arguments["epochs"] * 50_000
    assert passes == PUBLISHED["cost"]["figure_image_passes"]


def test_every_model_is_a_library_s_and_what_no_hub_has_says_so():
    study = spec.study()
    for name, model in study.models.items():
        assert timm.is_model(model.model.partition(".")[0]), name
        tagged = model.model in timm.list_pretrained(model.model)
        assert tagged or model.absent, name
        if model.absent:
            assert f"--weights {name}=FILE" in model.absent


IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def steps(name, epochs):
    """Return after how many epochs the rate falls, and rows of a step, as the scripts have them."""
    first, *_, kind, _ = name.split("-")
    known = {
        "trained": (20, 3, 1024),
        "layers": (50, 10, 256),
        "imagenet": (10, 1, 512) if first == "resnet50" else (25, 5, 512),
        "places": (50, 5 if first == "resnet50" else 10, 512 if first == "vgg16" else 1024),
    }
    wanted, every, rows = known.get(first) or known.get(kind) or (epochs, None, 256)
    assert epochs == wanted
    assert epochs in (50, 100) or kind == "imagenet" or first == "trained"
    if (first, kind) == ("vit", "imagenet"):
        rows = 1024
    return {"step_every": str(every), "batch_size": str(rows)}


def test_the_list_has_the_networks_and_sets_of_the_appendix():
    names = {feature.name: feature for feature in features_of(spec.study(("sgd",)))}
    assert len(names) == 4 * (23 + 9 + 2) + 2 * 10
    for model in ("resnet50-drop01", "resnet50-drop08", "resnet50-decov", "resnet50-layers"):
        for data in ("cifar10", "cifar100", "flowers102", "oxford_iiit_pet"):
            assert f"--weights {model}=FILE" in names[f"{model}-{data}"].absent
    layers = names["resnet50-layers-cifar10"]
    assert layers.request["taps"] == ["layer3.5", "layer4.0", "layer4.1", "layer4.2"]
    assert layers.taps == ("all",)
    assert {"vit-s32-imagenet", "resnet18-l2-places365"} <= set(names)
    assert "mrl-imagenet" not in names


def test_the_list_is_the_released_protocol():
    """Return what a run of the list does, request by request and argument by argument."""
    study = spec.study(("sgd",))
    for name, model in study.models.items():
        known = HALF if name.endswith("21k") else IMAGENET
        assert {key: model.transform[key] for key in known} == known, name
        assert (model.transform["size"], model.transform["resize"]) == (224, 224)
    assert study.models["resnet50"].model == "resnet50.a1_in1k"
    assert study.models["resnet18"].model == "resnet18.tv_in1k"
    assert "S_16-i1k-300ep-lr_0.001-aug_light1-wd_0.03" in study.models["vit-s16"].absent
    assert study.models["vit-s16-21k"].model == "vit_small_patch16_224.augreg_in21k"
    for feature in features_of(study):
        own = feature.name.endswith("flowers102")
        assert feature.request.get("splits") == (("train", "val", "test") if own else None)
    assert (study.analyses.cka_rows, study.analyses.cka_rows_from) == (1000, "first")
    for name, each in study.probes.items():
        arguments, modes = arguments_of(study, name, 2048)
        assert arguments["solver"] == "sgd"
        assert arguments["l2"] == (5e-4 if "-cifar-" in name else 1e-4), name
        kind = name.split("-")[-2]
        sets = {
            "cifar": ("cifar10", "cifar100"),
            "fine": ("flowers102", "oxford_iiit_pet"),
            "imagenet": ("imagenet",),
            "places": ("places365",),
        }[kind]
        assert {f.rpartition("-")[2] for f in each.features} == set(sets), name
        assert not {"pca-uncentred"} & set(modes)
        assert ("pca" in modes) == name.startswith("bases")
        text = described(solver_of(arguments))[1]
        facts = dict(word.split("=") for word in text.split())
        assert facts == {
            "standardize": "True", "lr": "0.1", "momentum": "0.9", "gamma": "0.1",
            "epochs": str(arguments["epochs"]),
            **steps(name, arguments["epochs"]),
            "val_fraction": "0.1", "split_seed": "0", "order_seed": "0", "validate_every": "5",
            "one_start": "True",
        }  # fmt: skip
        if kind in ("imagenet", "places") or name.startswith(("trained", "layers")):
            continue
        every = 10 if arguments["epochs"] == 50 else 20
        rates = SGD(epochs=arguments["epochs"]).rates()
        assert [rates[every - 1], rates[every]] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize(
    ("model", "data", "fraction", "seeds"),
    [
        ("resnet50.a1_in1k", "cifar10", 0.1, 5),
        ("resnet50.a1_in1k", "oxford_iiit_pet", 1.0, 1),
        ("resnet50 adversarially trained, l2 eps 3", "cifar10", 0.1, 30),
        ("resnet50 adversarially trained, l2 eps 3", "cifar10", 0.3, 30),
        ("resnet50 adversarially trained, l2 eps 3", "cifar10", 0.5, 5),
        ("resnet50 adversarially trained, l2 eps 3", "cifar100", 0.003, 5),
        ("resnet50 adversarially trained, l2 eps 3", "cifar100", 0.05, 4),
        ("resnet50 adversarially trained, l2 eps 3", "cifar100", 0.1, 29),
        ("resnet50 adversarially trained, l2 eps 3", "cifar100", 0.2, 28),
        ("resnet50 adversarially trained, l2 eps 3", "cifar100", 0.3, 27),
        ("resnet50 adversarially trained, l2 eps 3", "flowers102", 0.2, 5),
        ("vit_small_patch16_224.augreg_in21k", "cifar10", 0.9, 8),
        ("vit_small_patch16_224.augreg_in21k", "cifar10", 0.1, 9),
        ("vit_small_patch16_224.augreg_in21k", "cifar100", 0.9, 9),
        ("vit_small_patch16_224.augreg_in21k", "flowers102", 0.05, 10),
        ("vit_small_patch16_224.augreg_in21k", "flowers102", 1.0, 1),
    ],
)
def test_published_means_are_over_as_many_seeds_as_were_run(model, data, fraction, seeds):
    assert beside.seeds_behind(PUBLISHED, model, data, fraction) == seeds


def test_published_deviations_become_those_of_samples():
    assert PUBLISHED["seed_std_divisor"] == "n"
    rows = [{"fraction": 0.2, "k": 409, "probes": 5, "accuracy": 0.8, "accuracy_std": 0.01}]
    table = pd.DataFrame(rows).assign(store="resnet50-l2-cifar10", tap="t", probe="p")

    class SweepResults:
        def table(self, name):
            return table.assign(mode="random")

    (row,) = beside.accuracies(SweepResults(), PUBLISHED).to_dict("records")
    assert row["published_seeds"] == 30
    assert row["published_std"] == pytest.approx(0.24 * math.sqrt(30 / 29))
    assert row["error"] == pytest.approx(math.sqrt(1 / 5 + 0.24**2 / 29))


def test_a_store_s_own_validation_split_chooses_the_epoch(tmp_path):
    """Say so of a command, a comparison and a study alike, for sgd alone."""
    store = layer_stores.made(tmp_path / "own.zarr", rows={"val": 45})
    file = tmp_path / "study.toml"
    file.write_text(
        f'[stores]\nown = {{ store = "{store.path}" }}\n'
        "[probes.sgd]\nfractions = [0.5]\nseeds = 1\nepochs = 6\n"
        "[probes.ridge]\nfractions = [0.5]\nseeds = 1\nl2 = 0.1\n"
    )
    ran = command(
        "probe", store.path, "--solver", "sgd", "--fractions", "0.5", "--seeds", "1",
        "--epochs", "6", "--lr", "0.05", "--out", tmp_path / "probe.csv",
    )  # fmt: skip
    said = re.sub(r"\s+", " ", ran.output)
    assert "not as released: train images look the same in every epoch" in said
    assert "not as released: lr is 0.05, where it was 0.1" in said
    ran = command("study", file, "--only", "own*", "--out", tmp_path / "out")
    said = re.sub(r"\s+", " ", ran.output)
    once = "own: not as released: train images look the same in every epoch"
    assert said.count(once) == said.count("train images look the same") == 1
    assert "own: not as released: epochs is 6, where it was 100" in said
    # what is there is not made, and departs from nothing
    again = command("study", file, "--only", "own*", "--out", tmp_path / "out")
    assert "not as released" not in again.output
    ran = command("compare", store.path, f"{store.path}#high", "--solver", "sgd", "--fractions",
                  "0.5", "--seeds", "1")  # fmt: skip
    said = re.sub(r"\s+", " ", ran.output)
    assert said.count("not as released: train images look the same in every epoch") == 1
    results = {
        "probe": tmp_path / "probe.csv", "sgd": tmp_path / "out" / "results" / "own.sgd.csv",
        "ridge": tmp_path / "out" / "results" / "own.ridge.csv",
    }  # fmt: skip
    options = {name: pd.read_csv(path)["options"][0] for name, path in results.items()}
    assert "validation=45_rows_of_their_own" in options["probe"]
    assert "validation=45_rows_of_their_own" in options["sgd"]
    assert "validation" not in options["ridge"]
    table = pd.read_csv(results["sgd"])
    assert set(table["best_epoch"]) <= {5, 6}
    held = store.tap("val", "low")
    again = probe.sweep(
        store.tap("train", "low"), held, validation=held, solver=SGD(epochs=6), fractions=[0.5],
        device="cpu",
    ).table  # fmt: skip
    assert again["accuracy"].tolist() == table["val_accuracy"].tolist()


def test_published_draws_are_the_ones_made_here():
    assert random_order(384, 1)[:5].tolist() == [37, 88, 258, 104, 307]


def test_solvers_weights_and_rows_can_be_chosen(tmp_path):
    study = spec.study(("sgd", "logistic"), {"resnet50-l2": tmp_path / "w.pt"}, tmp_path)
    assert study.models["resnet50-l2"].absent is None
    assert study.models["resnet50-l2"].weights == str(tmp_path / "w.pt")
    assert study.models["resnet50-linf"].absent
    assert study.probes["resnet50-fine-logistic"].l2 == "auto"
    assert study.probes["resnet50-fine-logistic"].epochs is None
    assert study.probes["resnet50-fine-sgd"].epochs == 100
    by = {feature.name: feature for feature in features_of(spec.limited(study, 50))}
    assert by["resnet50-cifar10"].request["limit"] == 50
    assert by["resnet50-cifar10"].request["data_dir"] == tmp_path
    with pytest.raises(BadStudy, match="did you mean resnet50-l2"):
        spec.study(weights={"resnet50_l2": "w.pt"})
    with pytest.raises(BadStudy, match="did you mean sgd"):
        spec.study(("sdg",))


def test_a_difference_is_in_standard_errors_of_both_sides(tmp_path):
    rows = [
        # published: 83.2 with a spread of 0.72 over 5 seeds at 20 %, 77.9 at 10 %
        {"fraction": 0.2, "k": 409, "probes": 5, "accuracy": 0.84, "accuracy_std": 0.006},
        {"fraction": 0.1, "k": 204, "probes": 4, "accuracy": 0.80, "accuracy_std": 0.01},
        {"fraction": 1.0, "k": 2048, "probes": 5, "accuracy": 0.90, "accuracy_std": 0.0},
    ]
    table = pd.DataFrame(rows).assign(store="resnet50-cifar10", tap="t", probe="p", mode="random")
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables" / "accuracy.csv", index=False)
    found = beside.accuracies(Facts(tmp_path, ["resnet50-cifar10"]), PUBLISHED)
    at = found.set_index("fraction")
    assert at["published"].to_dict() == {0.1: 77.9, 0.2: 83.2, 1.0: 89.14}
    assert at["spread"].to_dict() == {0.1: "ours", 0.2: "both", 1.0: "none"}
    # the published deviation has divisor n
    error = math.sqrt(0.6**2 / 5 + 0.72**2 * 5 / 4 / 5)
    assert at.loc[0.2, "errors"] == pytest.approx((84.0 - 83.2) / error)
    assert at.loc[0.1, "errors"] == pytest.approx((80.0 - 77.9) / (1.0 / 2))
    assert np.isnan(at.loc[1.0, "errors"])
    assert at.loc[1.0, "difference"] == pytest.approx(0.86)
    sheet = beside.sheet(Facts(tmp_path, []), PUBLISHED, "beside")
    assert "| 20 %, k = 409 | 84.0 ± 0.6 | 83.2 ± 0.8 | +0.8 | +1.8 | both |" in sheet


@pytest.fixture
def small_sets(tmp_path, monkeypatch):
    """CIFAR-10 and Flowers-102 of a few images each, read by the real code."""
    labels = {"train": [0, 1] * 10, "test": [0, 1] * 4}
    monkeypatch.setattr(fake_sets, "LABELS", labels)
    TREES["cifar10"](tmp_path / "data", monkeypatch)
    return tmp_path / "data"


@pytest.mark.long
def test_it_runs_what_is_here_and_names_the_rest(small_sets, tmp_path, monkeypatch):
    torch.manual_seed(0)
    weights = tmp_path / "resnet50.pth"
    torch.save(timm.create_model("resnet50").state_dict(), weights)
    out = tmp_path / "out"
    ran = command(
        "study", "--paper", "--solver", "sgd,ridge", "--data-dir", small_sets, "--limit", "12",
        "--weights", f"resnet50={weights}", "--out", out,
        "--only", "resnet50-cifar10.resnet50*,vit-s16-21k-cifar10,resnet50-l2-cifar10,analyses",
        status=1,
    )  # fmt: skip
    assert "14,413 trainings and 7.4e+10 image passes" in ran.output
    assert "resnet50-l2-cifar10 cannot be had: the weights of Salman et al." in ran.output
    said = re.sub(r"\s+", " ", ran.output)
    assert "vit-s16-21k-cifar10: the weights of" in said
    assert "could not be fetched" in said
    table = pd.read_csv(out / "tables" / "beside.csv")
    assert set(table["probe"]) == {"resnet50-cifar-sgd", "resnet50-cifar-ridge"}
    assert len(table) == 2 * 10
    published = PUBLISHED["accuracy_percent"]["resnet50.a1_in1k"]["cifar10"]
    sgd = table[table["probe"] == "resnet50-cifar-sgd"]
    assert sgd["published"].tolist() == published
    assert np.allclose(sgd["difference"], sgd["ours"] - sgd["published"])
    similar = pd.read_csv(out / "tables" / "beside_cka.csv")
    assert similar["published"].tolist() == [0.43, 0.62, 0.78, 0.92, 0.26, 0.45, 0.70, 0.90, 0.96]
    differences = pd.read_csv(out / "tables" / "differences.csv")
    assert set(differences["what"]) == {"solver"}
    page = (out / "page.md").read_text()
    for title in ("Beside the published accuracies", "Beside the published diffused", "missing"):
        assert title in page
    record = json.loads((out / ".made" / "features" / "resnet50-cifar10.json").read_text())
    assert record["images"] == 12 + 8
