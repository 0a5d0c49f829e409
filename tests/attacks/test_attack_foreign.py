"""Things of others: bad entries of a root, hostile graphs and folders, headers that lie."""

import json
import os
import pickle
import random
import shutil
import signal

import h5py
import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
import transformers
from attack import Record, attempts, instants, no_longer_than
from click.testing import CliRunner
from forked import processes
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from test_attack_results import damaged

import featstore
from featstore import models
from featstore.cli import main
from featstore.errors import FeatstoreError
from featstore.store.sources import source
from featstore.testing import filled, spec_of

ENTRIES = {
    "pipe": lambda path, draw: os.mkfifo(path),
    "loop": lambda path, draw: path.symlink_to(path),
    "device": lambda path, draw: path.symlink_to(draw.choice(["/dev/zero", "/dev/tty"])),
    "dangling": lambda path, draw: path.symlink_to("/nowhere"),
    "bytes": lambda path, draw: path.write_bytes(draw.randbytes(draw.randrange(4000))),
    "empty folder": lambda path, draw: path.mkdir(),
    "folder of a pipe": lambda path, draw: (path.mkdir(), os.mkfifo(path / "zarr.json")),
    "deep JSON": lambda path, draw: (
        path.mkdir(), (path / "zarr.json").write_text("[" * 10**5),
    ),
    "JSON": lambda path, draw: (
        path.mkdir(),
        (path / "zarr.json").write_text(
            draw.choice(["null", "3", '{"attributes": 3}', '{"attributes": {"featstore": []}}'])
        ),
    ),
    "HDF5 signature": lambda path, draw: path.write_bytes(
        b"\x89HDF\r\n\x1a\n" + draw.randbytes(draw.randrange(1, 3000))
    ),
    "unreadable": lambda path, draw: (path.mkdir(), path.chmod(0)),
}  # fmt: skip


def test_bad_entries_of_a_root(store_root):
    draw = instants("root")
    store = filled(store_root / "good.zarr", "zarr")
    with Record("bad entries of a root") as record:
        for number in range(attempts(12, 1)):
            kind = list(ENTRIES)[number % len(ENTRIES)]
            path = store_root / f"bad{draw.choice(['', '.zarr', '.h5', '.lock', '.moments'])}"
            ENTRIES[kind](path, draw)
            with no_longer_than(120):
                for command in (["ls"], ["gc", "--days", "0", "--yes"]):
                    ran = CliRunner().invoke(main, command)
                    assert ran.exit_code == 0, (kind, ran.output)
                    assert "Traceback" not in ran.output
                assert featstore.newest_complete().path == store.path
                for command in (
                    ["info", str(path)],
                    ["verify", str(path)],
                    ["rm", str(path), "--yes"],
                ):
                    if kind == "dangling" or not os.path.lexists(path):
                        continue
                    ran = CliRunner().invoke(main, command)
                    assert ran.exit_code in (1, 2), (kind, command, ran.output)
                    assert "unexpected" not in ran.output, (kind, ran.output)
            record(kind)
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit") / "m"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


HOSTILE = ["org/name@rev", "../../x", "/etc/passwd", "x" * 10**4, -1, 10**30, None, [], {}, True,
           "flash_attention_2", {"": "org/name"}, "\0", "\x1b[2J", 1e400]  # fmt: skip


def hostile_folder(vit, folder, canary, draw) -> str:
    """Make a folder of a model that somebody has been at; say how."""
    shutil.copytree(vit, folder)
    config = json.loads((folder / "config.json").read_text())
    kind = draw.choice(["field", "known field", "pickle", "index", "bytes", "code", "dtype"])
    if kind == "field":
        name = draw.choice(
            ["attn_implementation", "_attn_implementation", "_attn_implementation_internal",
             "experts_implementation", "quantization_config", "auto_map", "transformers_weights",
             "kernel_config", "use_kernels", "base_model_name_or_path", "_name_or_path"]
        )  # fmt: skip
        config[name] = draw.choice(HOSTILE)
    elif kind == "known field":
        config[draw.choice(sorted(config))] = draw.choice(HOSTILE)
    elif kind == "pickle":
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Canary(canary)}))
    elif kind == "index":
        (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
        place = draw.choice(["../elsewhere.safetensors", "/etc/passwd", "model", 3, None])
        names = dict.fromkeys(load_file(folder.parent / "elsewhere.safetensors"), place)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    elif kind == "bytes":
        file = draw.choice(sorted(folder.iterdir()))
        data = bytearray(file.read_bytes())
        for _ in range(draw.randrange(1, 5)):
            data[draw.randrange(min(len(data), 3000))] = draw.randrange(256)
        file.write_bytes(bytes(data[: draw.choice([None, draw.randrange(len(data))])]))
        return kind
    elif kind == "code":
        text = f"import os; os.mkdir({str(canary)!r})"
        for name in ("modeling_vit.py", "configuration_vit.py", "image_processing_vit.py"):
            (folder / name).write_text(text)
        config["auto_map"] = {
            "AutoModel": "modeling_vit.Model",
            "AutoConfig": "configuration_vit.C",
        }
        config["model_type"] = draw.choice(["vit", "mine"])
    else:
        tensors = load_file(folder / "model.safetensors")
        name = draw.choice(sorted(tensors))
        tensors[name] = draw.choice([tensors[name].to(torch.int8), tensors[name][:0]])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    return kind


def test_hostile_folders_of_hugging_face(vit, tmp_path):
    draw, canary, told = instants("hf"), tmp_path / "canary", []
    with Record("hostile Hugging Face folders") as record:
        for number in range(attempts(6, 2)):
            folder = tmp_path / str(number) / "m"
            folder.parent.mkdir()
            kind = hostile_folder(vit, folder, canary, draw)
            with no_longer_than(60):
                try:
                    backbone = models.load(f"hf:{folder}")
                except FeatstoreError as error:
                    told.append(str(error))
                    record(f"{kind}: refused")
                else:
                    how = backbone.model.config._attn_implementation
                    assert how in ("sdpa", "eager"), (kind, how)
                    record(f"{kind}: loaded as ours")
            assert not canary.exists(), kind
            shutil.rmtree(folder.parent)
    assert [text for text in told if "\n" in text] == []


def a_graph() -> onnx.ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    weight = numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32), "w")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([[3]]))),
        helper.make_node("Mul", ["x", "w"], ["m"]),
        helper.make_node("GlobalAveragePool", ["m"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Mul", ["f", "c"], ["y"]),
    ]
    return helper.make_model(
        helper.make_graph(nodes, "g", [image], [result], [weight]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip


def hostile_graph(file, draw) -> str:
    """Write a graph that somebody has been at; say how."""
    model = a_graph()
    kind = draw.choice(["outside", "operator", "bytes", "tensor", "link"])
    if kind in ("outside", "link"):
        tensor = draw.choice([model.graph.initializer[0], model.graph.node[0].attribute[0].t])
        place = draw.choice(["../w", "/etc/passwd", "a/../../w", ""])
        if kind == "link":
            place = "w.bin"
            (file.parent / place).symlink_to("/etc/passwd")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", place
    elif kind == "operator":
        model.graph.node[1].op_type = draw.choice(["PyOp", "System", "EPContext"])
        model.graph.node[1].domain = draw.choice(["", "com.microsoft", "evil"])
    elif kind == "tensor":
        tensor = model.graph.initializer[0]
        tensor.dims[:] = [draw.choice([2**40, 0, -1, 10**6])] * draw.randrange(1, 5)
    data = bytearray(model.SerializeToString())
    if kind == "bytes":
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    file.write_bytes(data)
    return kind


def test_hostile_graphs_of_onnx(tmp_path):
    draw, told = instants("onnx"), []
    stated = {"size": 8, "layout": "NCHW"}
    with Record("hostile ONNX graphs") as record:
        for number in range(attempts(8, 3)):
            file = tmp_path / str(number) / "m.onnx"
            file.parent.mkdir()
            kind = hostile_graph(file, draw)
            with no_longer_than(60):
                try:
                    models.load(f"onnx:{file}#y", transform=stated)
                except FeatstoreError as error:
                    told.append(str(error))
                    record(f"{kind}: refused")
                else:
                    assert kind in ("bytes", "tensor"), kind
                    record(f"{kind}: loaded")
            shutil.rmtree(file.parent)
    assert [text for text in told if "\n" in text] == []


def test_stores_that_are_someone_elses(tmp_path):
    """A header that claims what is not there: sizes beyond all memory, names that lead out."""
    draw = instants("headers")
    claims = [
        {"splits": [{"name": "train", "n_rows": 10**15, "fingerprint": "f"}]},
        {"splits": [{"name": "../train", "n_rows": 3, "fingerprint": "f"}]},
        {"splits": [{"name": "train", "n_rows": -3, "fingerprint": "f"}]},
        {"taps": [{"name": "t", "dim": 10**12, "pooling": "p"}]},
        {"taps": [{"name": "..", "dim": 3, "pooling": "p"}]},
        {"taps": [{"name": "labels", "dim": 3, "pooling": "p"}]},
        {"dtype": "object"},
        {"classes": []},
        {"nonsense": 1},
    ]
    from featstore.store.blocks import checksum_text

    with Record("headers of others") as record:
        for number in range(attempts(len(claims), 1)):
            store = filled(tmp_path / f"{number}.zarr", "zarr", spec_of())
            root = json.loads((store.path / "zarr.json").read_text())
            header = root["attributes"]["featstore"]
            header["spec"].update(claims[number % len(claims)])
            if draw.random() < 0.3:
                header["block_rows"] = draw.choice([0, 1, 10**12])
            header.pop("checksum")
            text = json.dumps(header, sort_keys=True, separators=(",", ":"))
            header["checksum"] = checksum_text(text)
            (store.path / "zarr.json").write_text(json.dumps(root))
            with no_longer_than(30):
                for command in ("info", "verify"):
                    ran = CliRunner().invoke(main, [command, str(store.path)])
                    assert ran.exit_code in (1, 2, 3), ran.output
                    assert "unexpected" not in ran.output, ran.output
            record("refused")
            shutil.rmtree(store.path)


# Arrays that `import` takes, in every kind of file.

NUMBERS = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
NAMES = [f"c{row % 3}" for row in range(60)]
PACKED = {"chunks": (10, 6), "compression": "gzip"}
ARRAYS = (
    "a.npy", "a.npz:X", "packed.npz:X", "a.safetensors:X", "a.pt:X", "old.pt:X", "a.parquet:X",
    "a.parquet:y", "a.arrow:X", "a.arrow:y", "stream.arrow:y", "a.h5:X", "a.h5:y", "a.h5:packed",
)  # fmt: skip


@pytest.fixture(scope="module")
def arrays_of_others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    tensors = {"X": torch.tensor(NUMBERS)}
    np.save(folder / "a.npy", NUMBERS)
    np.savez(folder / "a.npz", X=NUMBERS)
    np.savez_compressed(folder / "packed.npz", X=NUMBERS)
    save_file(tensors, folder / "a.safetensors")
    torch.save(tensors, folder / "a.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    table = pa.table({"X": pa.array(list(NUMBERS)), "y": NAMES})
    parquet.write_table(table, folder / "a.parquet")
    for name, new in (("a.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with new(folder / name, table.schema) as file:
            file.write_table(table)
    with h5py.File(folder / "a.h5", "w") as file:
        file["X"], file["y"] = NUMBERS, NAMES
        file.create_dataset("packed", data=NUMBERS, **PACKED)
    return folder


def _read_damaged(file, name, seed, number, told) -> None:
    """Read an array of a file so many times, each time otherwise damaged; note each outcome."""
    draw, whole = random.Random(seed), file.read_bytes()
    for _ in range(number):
        signal.alarm(30)  # which ends the process, whatever a library is at
        file.write_bytes(damaged(whole, draw))
        try:
            source(f"{file}{name}").rows(0, len(NUMBERS))
            outcome = "read"
        except FeatstoreError as error:
            outcome = "told at length" if "\n" in str(error) else "refused"
        with told.open("a") as lines:
            print(outcome, file=lines)


@pytest.mark.parametrize("name", ARRAYS)
def test_damaged_arrays_of_others(arrays_of_others, tmp_path, name):
    """The library of no format crashes on one, goes round, or raises what nobody expects."""
    file, told = tmp_path / name.partition(":")[0], tmp_path / "told"
    shutil.copy(arrays_of_others / file.name, file)
    number, seed = attempts(3, 1), instants(f"arrays {name}").random()
    with Record(f"damaged arrays of others: {name}") as record:
        given = (file, name[len(file.name) :], seed, number, told)
        process = processes.Process(target=_read_damaged, args=given)
        process.start()
        process.join()
        outcomes = told.read_text().split("\n")[:-1] if told.exists() else []
        assert process.exitcode == 0, (process.exitcode, len(outcomes), file.read_bytes())
        for outcome in outcomes:
            record(outcome)
        assert record.seen.total() == number
        assert not record.seen["told at length"]
