"""SavedModels of several graphs, damaged ones, and what rewriting costs."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus import saved_models  # noqa: F401 (fills the corpus)
from tests.corpus.building import CORPUS
from tests.corpus.saved_models_graphs import long_chain, two_graphs
from tests.rewriters.saved_model.contract_test import run_cc, run_python, truncated
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.serving.cc_loader import CcSession


def test_a_second_graph_of_its_own_variables_stays(tmp_path):
    inputs = two_graphs(tmp_path / "source", share=False)
    source = open_saved_model(tmp_path / "source")
    write_saved_model(source, {"kernel": truncated(source.inspection.sites[0])}, tmp_path / "out")
    want = run_cc(tmp_path / "source", inputs)["y"]
    np.testing.assert_allclose(run_cc(tmp_path / "out", inputs)["y"], want, rtol=1e-4, atol=1e-5)
    with CcSession(str(tmp_path / "source"), ("other",)) as session:
        other = session.run(inputs, "serving_default")["z"]
    with CcSession(str(tmp_path / "out"), ("other",)) as session:
        assert session.run(inputs, "serving_default")["z"].tobytes() == other.tobytes()


def test_a_second_graph_that_shares_the_kernel_is_refused(tmp_path):
    two_graphs(tmp_path / "source", share=True)
    source = open_saved_model(tmp_path / "source")
    factorizations = {"kernel": truncated(source.inspection.sites[0])}
    with pytest.raises(UserError, match="'kernel' is shared with the graph tagged 'other'"):
        write_saved_model(source, factorizations, tmp_path / "out")


def test_optimizer_moments_of_a_kernel_go_with_it(tmp_path):
    w = tf.Variable(tf.ones([96, 128]), name="w")
    root = tf.train.Checkpoint(w=w)
    moment = tf.Variable(tf.ones([96, 128]), name="w/momentum")
    optimizer = tf.Module()
    optimizer.momentum = moment
    root.optimizer = optimizer
    root.serve = tf.function(
        lambda x: {"y": tf.matmul(x, w)}, input_signature=[tf.TensorSpec([None, 96], name="x")]
    )
    tf.saved_model.save(root, str(tmp_path / "source"), {"serving_default": root.serve})
    _add_slot(tmp_path / "source" / "saved_model.pb")
    source = open_saved_model(tmp_path / "source")
    write_saved_model(source, {"w": truncated(source.inspection.sites[0], 0.5)}, tmp_path / "out")
    kept = open_saved_model(tmp_path / "out").files.tensor_shapes
    assert not any("momentum" in name for name in kept)
    run_cc(tmp_path / "out", {"x": np.ones((1, 96), np.float32)})
    run_python(tmp_path / "out", {"x": np.ones((1, 96), np.float32)})


def _add_slot(file):
    """Declares the moment a slot variable, as optimizers of Keras 2 do."""
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    nodes = model.meta_graphs[0].object_graph_def.nodes
    names = {node.variable.name: i for i, node in enumerate(nodes) if node.HasField("variable")}
    (owner,) = [n for n in nodes if any(c.local_name == "momentum" for c in n.children)]
    owner.slot_variables.add(
        original_variable_node_id=names["w"],
        slot_name="momentum",
        slot_variable_node_id=names["w/momentum"],
    )
    file.write_bytes(model.SerializeToString())


DAMAGED = ("matmul", "while_loop", "captured_constant_in_two_signatures")


def build_whole(folder):
    for name in DAMAGED:
        CORPUS[name].build(Path(folder, name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The models to damage, built in a process of its own: names count a process's functions."""
    folder = tmp_path_factory.mktemp("whole")
    code = f"from {__name__} import build_whole; build_whole({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
    return folder


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_graphs_are_refused_in_one_line_or_rewritten(name, whole, tmp_path):
    shutil.copytree(whole / name, tmp_path / "model")
    file = tmp_path / "model" / "saved_model.pb"
    content = file.read_bytes()
    chance = random.Random(name)
    refused = 0
    for attempt in range(25):
        damage = _break_bytes if attempt % 2 else _break_nodes
        file.write_bytes(damage(content, chance))
        try:
            source = open_saved_model(tmp_path / "model")
            chosen = {site.name: truncated(site) for site in source.inspection.sites}
            write_saved_model(source, chosen, tmp_path / f"out_{attempt}")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


def _break_bytes(content: bytes, chance: random.Random) -> bytes:
    broken = bytearray(content)
    for _ in range(chance.choice([1, 3, 20])):
        broken[chance.randrange(len(broken))] = chance.randrange(256)
    return bytes(broken)


def _break_nodes(content: bytes, chance: random.Random) -> bytes:
    model = saved_model_pb2.SavedModel.FromString(content)
    graph = model.meta_graphs[0].graph_def
    for _ in range(chance.choice([1, 2, 5])):
        nodes = chance.choice([graph.node, *(f.node_def for f in graph.library.function)])
        node = chance.choice(nodes)
        kind = chance.randrange(5)
        if kind == 0:
            nodes.remove(node)
        elif kind == 1 and node.input:
            node.input[0] = chance.choice(nodes).name
        elif kind == 2 and node.input:
            del node.input[-1]
        elif kind == 3 and node.attr:
            del node.attr[chance.choice(sorted(node.attr))]
        else:
            node.op = chance.choice(["MatMul", "Const", "Reshape", "Nothing", "While", "Split"])
    return model.SerializeToString()


def test_a_deep_model_is_no_trouble(tmp_path):
    inputs = long_chain(tmp_path / "source", 150)
    source = open_saved_model(tmp_path / "source")
    sites = source.inspection.sites
    assert [site.name for site in sites][:2] == ["layer_0", "layer_1"] and len(sites) == 150
    write_saved_model(source, {site.name: truncated(site) for site in sites}, tmp_path / "out")
    want = run_python(tmp_path / "source", inputs)["y"]
    np.testing.assert_allclose(run_cc(tmp_path / "out", inputs)["y"], want, rtol=1e-3, atol=1e-4)
