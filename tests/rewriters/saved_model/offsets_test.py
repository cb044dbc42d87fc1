"""Offsets of factorizations reach the output, and models that have them can be restored."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus import saved_models_tf1
from tests.corpus.building import CORPUS, activations, export, variable
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.rewriters.saved_model.restoring import restore_saved_model
from tfapprox.serving.cc_loader import CcSession

assert saved_models_tf1  # it fills the corpus


def _dense(w, b):
    return lambda x: {"y": tf.nn.relu(tf.nn.bias_add(tf.matmul(x, w), b))}


def _added(w, b):
    return lambda x: {"y": tf.nn.relu(b + tf.matmul(x, w))}


def _bare(w, b):
    return lambda x: {"y": tf.nn.relu(tf.matmul(x, w))}


def _left(w, b):
    return lambda x: {"y": tf.nn.relu(tf.transpose(tf.matmul(w, x, True, True)))}


def _einsum(w, b):
    kernel = tf.reshape(w, [8, 3, 4])
    return lambda x: {"y": tf.nn.relu(tf.reshape(tf.einsum("nd,dhk->nhk", x, kernel), [-1, 12]))}


def _two_readers(w, b):
    def serve(x):
        y = tf.matmul(x, w)
        return {"y": tf.nn.relu(y + 0 * tf.nn.bias_add(y, b))}

    return serve


def _convolution(w, b):
    def serve(x):
        kernel, pixels = tf.reshape(w, [1, 1, 8, 12]), tf.reshape(x, [-1, 1, 1, 8])
        return {"y": tf.nn.relu(tf.nn.conv2d(pixels, kernel, 1, "SAME")[:, 0, 0])}

    return serve


MODELS = {"bias": _dense, "sum": _added, "none": _bare, "left": _left, "einsum": _einsum} | {
    "two readers": _two_readers,
    "convolution": _convolution,
}


def _low_rank(site, rank, offset=None):
    matrix = site.kernel.reshape(-1, site.out_channels).astype(np.float64)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    first = (left[:, :rank] * values[:rank]).reshape(*site.kernel.shape[:3], rank)
    stages = (
        Stage(first.astype("f4")),
        Stage(right[:rank][None, None].astype("f4"), 1, (False,) * 2),
    )
    return Factorization(stages, offset=offset)


def _run(path, x):
    with CcSession(str(path)) as session:
        cxx = session.run({"x": x}, "serving_default")["y"]
    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    np.testing.assert_allclose(function(x=tf.constant(x))["y"].numpy(), cxx, rtol=1e-5, atol=1e-5)
    return cxx


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_offset_is_added_before_the_activation_and_the_model_restores(name, tmp_path):
    w, b = variable(8, 12), tf.Variable(np.linspace(-1, 1, 12, dtype=np.float32), name="b")
    x = activations(5, 8)
    export(tmp_path / "source", MODELS[name](w, b), {"x": x}, {"w": w, "b": b})
    source = open_saved_model(tmp_path / "source")
    (site,) = source.inspection.sites
    offset = np.linspace(-2, 3, 12).astype(np.float32)
    built = _low_rank(site, 3, offset)
    write_saved_model(source, {site.name: built}, tmp_path / "out")
    bias = b.numpy() if name in ("bias", "sum") else 0
    want = np.maximum(x @ built.reconstruct()[0, 0] + bias + offset, 0)
    compressed = _run(tmp_path / "out", x)
    np.testing.assert_allclose(compressed, want, rtol=1e-4, atol=1e-4)
    result = restore_saved_model(tmp_path / "out", tmp_path / "restored", inputs={"x": x})
    assert len(result.restored) == 1
    error = np.linalg.norm(_run(tmp_path / "restored", x) - compressed)
    assert error < 1e-5 * np.linalg.norm(compressed)


def test_the_convolution_and_its_bias_stay_neighbours(tmp_path):
    w, b = variable(3, 3, 4, 6), tf.Variable(np.zeros(6, np.float32), name="b")
    x = activations(2, 7, 7, 4)

    def serve(x):
        return {"y": tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, w, 1, "SAME"), b))}

    export(tmp_path / "source", serve, {"x": x}, {"w": w, "b": b})
    source = open_saved_model(tmp_path / "source")
    (site,) = source.inspection.sites
    offset = np.arange(6, dtype=np.float32)
    built = _low_rank(site, 2, offset)
    write_saved_model(source, {site.name: built}, tmp_path / "out")
    kernel = tf.constant(built.reconstruct())
    want = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + offset).numpy()
    np.testing.assert_allclose(_run(tmp_path / "out", x), want, rtol=1e-4, atol=1e-4)
    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "out/saved_model.pb").read_bytes())
    for function in proto.meta_graphs[0].graph_def.library.function:
        nodes = {node.name: node for node in function.node_def}
        for node in nodes.values():
            if node.op == "BiasAdd":
                assert nodes[node.input[0].split(":")[0]].op == "Conv2D"


def test_offsets_reach_fetched_nodes_of_tf1_graphs(tmp_path):
    inputs = CORPUS["tf1_frozen_graph"].build(tmp_path / "source")
    source = open_saved_model(tmp_path / "source")
    site = source.inspection.sites[-1]
    results = []
    for index, offset in enumerate((None, np.ones(site.out_channels, np.float32))):
        whole = Factorization((Stage(np.ascontiguousarray(site.kernel)),), offset=offset)
        path = tmp_path / f"out{index}"
        write_saved_model(source, {site.name: whole}, path)
        with CcSession(str(path)) as session:
            results.append(next(iter(session.run(inputs, "serving_default").values())))
    assert np.abs(results[1] - results[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["tf1_frozen_graph", "tf1_resource_variables", "tf1_loop"])
def test_tf1_graphs_with_offsets_can_be_restored_and_compressed_again(name, tmp_path):
    inputs = CORPUS[name].build(tmp_path / "source")
    for path, following in (("source", "once"), ("dense", "twice")):
        source = open_saved_model(tmp_path / path)
        built = {
            site.name: _low_rank(site, 3, np.linspace(-1, 1, site.out_channels, dtype="f4"))
            for site in source.inspection.sites
        }
        write_saved_model(source, built, tmp_path / following)
        if path == "source":
            result = restore_saved_model(tmp_path / "once", tmp_path / "dense", inputs=inputs)
            assert len(result.restored) == len(built) and not result.kept
    wanted, got = (_outputs(tmp_path / path, inputs) for path in ("once", "dense"))
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)
    again = restore_saved_model(tmp_path / "twice", tmp_path / "again", inputs=inputs)
    assert len(again.restored) == len(built)


def _outputs(path, inputs):
    with CcSession(str(path)) as session:
        return next(iter(session.run(inputs, "serving_default").values()))
