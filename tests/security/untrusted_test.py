"""What SECURITY.md promises about models, plans and data from strangers, tried one by one."""

import json
import os
import pickle
import shutil
import socket

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus.building import activations, export, variable, weights
from tfapprox.cli.main import execute
from tfapprox.compression import compress_saved_model, plan_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.report.report import Report
from tfapprox.report.text import inspection_to_json, print_inspection
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.saved_model import open_saved_model, shapes
from tfapprox.selection.problem import Budget
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import read_inputs
from tfapprox.serving.package import package_saved_model
from tfapprox.serving.signature import read_signatures

CONFIG = CompressionConfig(Budget("macs", keep=0.6), candidates=CandidateOptions(rank_multiple=1))


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def build(path, function=None):
    """Writes a model of one variable and one constant kernel."""
    w, c = variable(32, 32), tf.constant(weights(32, 32, seed=3))
    function = function or (lambda x: {"y": tf.matmul(tf.matmul(x, w), c)})
    export(path, function, {"x": activations(2, 32)}, {"w": w})
    return path


@pytest.fixture(scope="module", name="good")
def _good(tmp_path_factory):
    return build(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture(name="model")
def _model(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


def edit(model, change):
    """Changes the protos of a SavedModel."""
    proto = saved_model_pb2.SavedModel()
    file = model / "saved_model.pb"
    proto.ParseFromString(file.read_bytes())
    (meta,) = proto.meta_graphs
    change(meta)
    file.write_bytes(proto.SerializeToString())
    return model


def all_nodes(meta):
    yield from meta.graph_def.node
    for function in meta.graph_def.library.function:
        yield from function.node_def


# Code in data.


def test_pickles_in_npz_and_npy_files_are_not_loaded(model, tmp_path):
    (signature,) = (read_signatures(str(model))["serving_default"],)
    for target in (tmp_path / "bomb.npz", tmp_path / "bomb.npy"):
        array = np.array([Bomb(tmp_path / "exploded")], object)
        save = np.savez if target.suffix == ".npz" else np.save
        save(target, **({"x": array} if target.suffix == ".npz" else {"arr": array}))
        for read in (read_inputs, open_calibration_data):
            with pytest.raises(UserError):
                read(str(target), signature)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError):
        read_inputs(str(tmp_path / "raw.npz"), signature)
    assert not (tmp_path / "exploded").exists()


def test_keras_files_and_metadata_beside_the_graph_are_not_deserialised(model, tmp_path):
    layer = {"class_name": "Lambda", "config": {"function": ["4wEAAA==", None, None]}}
    (model / "keras_metadata.pb").write_bytes(json.dumps(layer).encode())
    (model / "saved_model.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    compress_saved_model(model, tmp_path / "small", CONFIG, batch_sizes=(), run=False)
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "small" / "keras_metadata.pb").exists()


def test_plans_and_reports_are_data(tmp_path):
    hostile = [
        "[" * 100_000,
        '{"tfapprox_plan": 1, "sites": [{"site": "w", "kernel_shape": [1, 1, 1e999, 1],'
        ' "choice": null}]}',
        '{"tfapprox_plan": 1, "sites": [{"site": "w", "kernel_shape": [1, 1, 8, 8],'
        ' "choice": {"decomposition": "os.system", "rank": "__import__(\'os\')"}}]}',
        '{"tfapprox_plan": 1, "sites": {"__reduce__": []}}',
    ]
    for text in hostile:
        with pytest.raises(UserError):
            Plan.from_json(text)
    with pytest.raises(UserError):
        Report.from_json({"tfapprox_report": 1, "plan": {"__class__": "os"}})


# Choices and paths.


@pytest.mark.parametrize(
    "choice",
    [
        {"decomposition": "../../etc/passwd", "rank": 1},
        {"decomposition": "svd", "scheme": 0, "slices": 1, "rank": 10**15},
        {"decomposition": "svd", "scheme": 0, "slices": 10**9, "rank": 1},
        {"decomposition": "svd", "scheme": -1, "slices": 0, "rank": -5},
        {"decomposition": "svd"},
    ],
)
def test_a_plan_that_does_not_fit_is_refused_at_once(model, tmp_path, choice):
    plan = json.loads(plan_saved_model(model, CONFIG).to_json())
    plan["sites"][0]["choice"] = choice
    with pytest.raises(UserError):
        compress_saved_model(
            model, tmp_path / "small", CONFIG, plan=Plan.from_json(json.dumps(plan)), run=False
        )
    assert not (tmp_path / "small").exists()


def test_names_of_sites_and_assets_can_t_leave_the_output_directory(model, tmp_path):
    def rename(meta):
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.name = "../../../escaped/kernel"

    edit(model, rename)
    compress_saved_model(model, tmp_path / "out" / "small", CONFIG, batch_sizes=(), run=False)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "out"}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small"]


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/passwd", "a/../../b"])
def test_assets_outside_the_model_are_refused(model, name):
    edit(model, lambda meta: meta.asset_file_def.add(filename=name))
    with pytest.raises(UserError, match="outside its own directory"):
        open_saved_model(model)


def test_links_out_of_the_model_are_not_followed_into_the_result(model, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (model / "assets.extra").mkdir()
    (model / "assets.extra" / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"is a link to .*secret, outside the SavedModel"):
        compress_saved_model(model, tmp_path / "small", CONFIG, batch_sizes=(), run=False)
    with pytest.raises(UserError, match="outside the SavedModel"):
        package_saved_model(model, "name", tmp_path / "models")
    assert not (tmp_path / "small").exists() and not (tmp_path / "models" / "name" / "1").exists()


# Too much of everything.


def grow_constants(meta):
    for node in all_nodes(meta):
        tensor = node.attr["value"].tensor
        if node.op == "Const" and len(tensor.tensor_shape.dim) == 2:
            tensor.ClearField("tensor_content")
            tensor.float_val[:] = [1.0]
            for dim in tensor.tensor_shape.dim:
                dim.size = 10**6


def served_function(meta):
    """Returns the function with most products among those that the main graph reaches."""
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    reached, nodes = set(), list(meta.graph_def.node)
    while nodes:
        node = nodes.pop()
        for name in {a.func.name for a in node.attr.values() if a.func.name} - reached:
            reached.add(name)
            nodes.extend(functions[name].node_def)
    bodies = [functions[name] for name in sorted(reached)]
    return max(bodies, key=lambda f: sum(n.op == "MatMul" for n in f.node_def))


def grow_packs(meta):
    """Packs a kernel 40 times, six times over: 40^6 copies of it out of a few hundred bytes."""
    body = served_function(meta)
    product = [node for node in body.node_def if node.op == "MatMul"][-1]
    reference = product.input[1]
    for i in range(6):
        node = body.node_def.add(name=f"pack_{i}", op="Pack")
        node.input.extend([reference] * 40)
        node.attr["N"].i, node.attr["T"].type = 40, 1
        reference = f"pack_{i}:output:0"
    product.input[1] = reference


@pytest.mark.parametrize("grow", [grow_constants, grow_packs])
def test_little_data_is_not_blown_up(model, grow):
    inspection = open_saved_model(edit(model, grow)).inspection
    assert any("can't be worked out" in kept.reason for kept in inspection.kept)


def test_variables_larger_than_their_files_are_refused(model, monkeypatch):
    from tfapprox.rewriters.saved_model.files import SavedModelFiles

    real = SavedModelFiles.tensor_shapes.func
    monkeypatch.setattr(
        SavedModelFiles,
        "tensor_shapes",
        property(lambda self: {name: [2**20, 2**20] for name in real(self)}),
    )
    with pytest.raises(UserError, match="is said to have shape"):
        open_saved_model(model)


def double_calls(meta):
    """Calls the function through 40 more, each of which calls the one before it twice."""
    library = meta.graph_def.library
    body = served_function(meta)
    original = last = body.signature.name
    (key,) = body.ret
    for level in range(40):
        function = library.function.add()
        function.CopyFrom(body)
        function.signature.name = f"level_{level}"
        del function.node_def[:]
        function.control_ret.clear()
        del function.signature.control_output[:]
        for i in range(2):
            call = function.node_def.add(name=f"call_{i}", op="StatefulPartitionedCall")
            for argument in body.signature.input_arg:
                call.input.append(argument.name)
                call.attr["Tin"].list.type.append(argument.type)
            call.attr["Tout"].list.type.append(1)
            call.attr["f"].func.name = last
        both = function.node_def.add(name="both", op="AddV2", input=["call_0:output:0"])
        both.input.append("call_1:output:0")
        both.attr["T"].type = 1
        function.ret[key] = "both:z:0"
        last = function.signature.name
    for node in all_nodes(meta):
        if node.attr["f"].func.name == original and not node.name.startswith("call_"):
            node.attr["f"].func.name = last


def test_calls_that_double_at_every_level_end(model, monkeypatch):
    # A minute's worth of operations by default; the test need not wait so long.
    monkeypatch.setattr(shapes, "_MOST_OPERATIONS", 2000)
    walks = []
    real = shapes.ShapeInference._walk
    monkeypatch.setattr(
        shapes.ShapeInference, "_walk", lambda *args: walks.append(0) or real(*args)
    )
    inspection = open_saved_model(edit(model, double_calls)).inspection
    assert len(inspection.sites) == 2
    assert 100 < len(walks) < 10_000


def test_functions_that_call_themselves_are_refused(model):
    def recurse(meta):
        for function in meta.graph_def.library.function:
            call = function.node_def.add(name="again", op="StatefulPartitionedCall")
            call.input.extend(argument.name for argument in function.signature.input_arg)
            call.attr["f"].func.name = function.signature.name

    with pytest.raises(UserError, match="calls itself"):
        open_saved_model(edit(model, recurse))


# What is shown.


def test_names_can_t_give_orders_to_a_terminal(model, capsys):
    def rename(meta):
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.name = "\x1b]0;owned\x07[red]net"

    inspection = open_saved_model(edit(model, rename)).inspection
    print_inspection(inspection)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "owned" in shown and "[red]" in shown
    assert "\x1b" in inspection_to_json(inspection)["sites"][0]["name"]  # JSON escapes it


# What runs, and what does not.


def test_reading_planning_and_writing_run_nothing(tmp_path, monkeypatch):
    canary = tmp_path / "canary"

    def write(x):
        tf.io.write_file(str(canary), "ran")
        return {"y": tf.matmul(x, variable_kernel)}

    variable_kernel = variable(32, 32)
    export(tmp_path / "m", write, {"x": activations(2, 32)}, {"w": variable_kernel})
    canary.unlink(missing_ok=True)
    for name in ("saved_model.load", "compat.v1.Session"):
        owner = tf.saved_model if name.startswith("saved") else tf.compat.v1
        monkeypatch.setattr(owner, name.rpartition(".")[2], _forbidden)
    monkeypatch.setattr(CcSession, "__init__", _forbidden)
    monkeypatch.setattr(socket.socket, "connect", _forbidden)
    report = compress_saved_model(tmp_path / "m", tmp_path / "small", CONFIG, run=False)
    assert not canary.exists()
    assert report.verification is None and report.latency == ()
    assert any("neither model was run" in note for note in report.notes)
    assert any("reaches beyond its inputs" in note and "WriteFile" in note for note in report.notes)
    monkeypatch.undo()
    with CcSession(str(tmp_path / "small")) as session:
        session.run({"x": activations(2, 32)})
    assert canary.exists()  # running it is what SECURITY.md warns of


def _forbidden(*args, **kwargs):
    raise AssertionError("the model was run")


def test_what_needs_running_is_refused_when_that_is_not_allowed(model, tmp_path):
    with pytest.raises(UserError, match="an evaluate function needs to run the model"):
        compress_saved_model(
            model, tmp_path / "small", CONFIG, run=False, evaluate=lambda path: 1.0
        )


def test_ordinary_models_are_not_said_to_reach_outside(good):
    assert not [note for note in open_saved_model(good).inspection.notes if "beyond" in note]


def test_python_functions_are_named(tmp_path):
    w = variable(8, 8)

    def call(x):
        return {"y": tf.matmul(tf.numpy_function(lambda a: a, [x], tf.float32), w)}

    export(tmp_path / "m", call, {"x": activations(2, 8)}, {"w": w})
    notes = " ".join(open_saved_model(tmp_path / "m").inspection.notes)
    assert "PyFunc" in notes


def test_the_command_line_can_be_told_not_to_run_the_model(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CcSession, "__init__", _forbidden)
    target = tmp_path / "small"
    start = ["compress", "--dir", str(model), "--output_dir", str(target), "--dont_run"]
    assert execute([*start, "--keep_macs", "0.7", "--rank_multiple", "1"]) == 0
    assert "neither model was run" in capsys.readouterr().out
    assert (target / "saved_model.pb").is_file()
    assert execute([*start, "--keep_latency", "0.7"]) == 2
    assert "of latency needs to run the model" in capsys.readouterr().err
