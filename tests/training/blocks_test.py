"""Where a graph is cut into blocks: after a site alone, or where branches come together."""

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.rewriters.flat_graph import FlatGraph
from tfapprox.training.blocks import find_blocks


def _variables(*names):
    return {name: tf.Variable(np.eye(4, dtype="f4") + 0.1, name=name) for name in names}


def _blocks(network, variables, left_out=(), factors=None):
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        return {"x": x}, network(x)

    flat = FlatGraph(build, variables)
    operations = flat.graph.get_operations()
    names = {t.name for o in operations for t in o.outputs} - set(left_out)
    handles = {k: v for k, v in flat.handles.items() if k in (factors or variables)}
    outputs = list(flat.outputs.values())
    return flat, find_blocks(flat.graph, list(flat.inputs.values()), outputs, handles, names)


def _names(blocks):
    return [(b.variables, [x.op.name for x in b.inputs], [x.op.name for x in b.outputs])
            for b in blocks]  # fmt: skip


def test_in_a_plain_network_each_site_is_a_block_with_what_lies_behind_it():
    v = _variables("a", "b")

    def network(x):
        h = tf.nn.relu(tf.matmul(x, v["a"], name="first") + 1.0, name="relu")
        return {"y": tf.add(tf.matmul(h, v["b"], name="second"), 1.0, name="end")}

    _, blocks = _blocks(network, v)
    assert _names(blocks) == [(("a",), ["x"], ["relu"]), (("b",), ["relu"], ["end"])]


def test_factors_of_one_site_are_one_block_since_between_them_there_is_nothing_to_compare():
    v = _variables("a0", "a1", "b")

    def network(x):
        h = tf.matmul(tf.matmul(x, v["a0"], name="site/stage"), v["a1"], name="site")
        return {"y": tf.matmul(tf.nn.relu(h, name="relu"), v["b"], name="end")}

    _, blocks = _blocks(network, v, left_out=["site/stage:0"])
    assert [b.variables for b in blocks] == [("a0", "a1"), ("b",)]
    assert blocks[0].name == "relu"


def test_a_residual_block_ends_where_its_branches_meet():
    v = _variables("a", "b", "c")

    def network(x):
        h = tf.nn.relu(tf.matmul(x, v["a"]))
        joined = tf.nn.relu(x + tf.matmul(h, v["b"]), name="joined")
        return {"y": tf.matmul(joined, v["c"], name="end")}

    _, blocks = _blocks(network, v)
    assert _names(blocks) == [(("a", "b"), ["x"], ["joined"]), (("c",), ["joined"], ["end"])]


def test_a_skip_that_no_factor_changes_comes_in_as_an_input():
    v = _variables("a", "b")

    def network(x):
        before = tf.tanh(x, name="before")
        h = tf.matmul(before, v["a"])
        joined = tf.add(h, tf.exp(before, name="skip"), name="joined")
        return {"y": tf.matmul(joined, v["b"], name="end")}

    _, blocks = _blocks(network, v)
    assert sorted(x.op.name for x in blocks[0].inputs) == ["before", "skip"]


def test_several_outputs_are_all_compared_each_in_its_block():
    v = _variables("a", "b", "c")

    def network(x):
        h = tf.nn.relu(tf.matmul(x, v["a"]), name="shared")
        return {
            "early": tf.matmul(h, v["b"], name="early"),
            "late": tf.nn.softmax(tf.matmul(tf.tanh(h), v["c"]), name="late"),
        }

    _, blocks = _blocks(network, v)
    assert [b.variables for b in blocks] == [("a",), ("b",), ("c",)]
    assert [[x.op.name for x in b.outputs] for b in blocks[1:]] == [["early"], ["late"]]


def test_a_factor_of_two_blocks_is_in_none():
    v = _variables("a", "b")

    def network(x):
        h = tf.nn.relu(tf.matmul(x, v["a"]), name="first")
        h = tf.nn.relu(tf.matmul(h, v["b"]), name="second")
        return {"y": tf.matmul(h, v["a"], name="end")}

    _, blocks = _blocks(network, v)
    assert [b.variables for b in blocks] == [("b",)]


def test_loops_stay_whole_and_their_factors_belong_to_what_comes_out():
    v = _variables("a", "b")

    def network(x):
        loop = tf.while_loop(
            lambda i, h: i < 3, lambda i, h: (i + 1, tf.tanh(tf.matmul(h, v["a"]))), (0, x)
        )
        return {"y": tf.matmul(tf.nn.relu(loop[1], name="out"), v["b"], name="end")}

    flat, blocks = _blocks(network, v)
    assert [b.variables for b in blocks] == [("a",), ("b",)] and blocks[0].name == "out"
    inside = flat.function(blocks[0].inputs, blocks[0].outputs)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype("f4")
    with tf.GradientTape() as tape:
        (y,) = inside(tf.constant(x))
        loss = tf.reduce_sum(y)
    want = x
    for _ in range(3):
        want = np.tanh(want @ v["a"].numpy())
    np.testing.assert_allclose(y, np.maximum(want, 0), rtol=1e-5)
    assert np.abs(tape.gradient(loss, v["a"]).numpy()).sum() > 0


def test_a_block_runs_by_itself_and_what_comes_in_is_what_the_model_makes():
    v = _variables("a", "b")

    def network(x):
        h = tf.nn.relu(tf.matmul(x, v["a"]), name="relu")
        return {"y": tf.matmul(h, v["b"], name="end")}

    flat, blocks = _blocks(network, v)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("f4")
    incoming = flat.runner(blocks[1].inputs)({"x": x})
    (y,) = flat.function(blocks[1].inputs, blocks[1].outputs)(tf.constant(incoming["0000"]))
    want = np.maximum(x @ v["a"].numpy(), 0) @ v["b"].numpy()
    np.testing.assert_allclose(y, want, rtol=1e-5)
    np.testing.assert_array_equal(flat.runner(blocks[0].inputs)({"x": x})["0000"], x)


@pytest.mark.parametrize("kind", ["argmax", "static"])
def test_what_can_not_be_trained_makes_no_block(kind):
    v = _variables("a")

    def network(x):
        if kind == "argmax":
            return {"y": tf.argmax(tf.matmul(x, v["a"]), axis=1)}
        return {"y": x * 2.0}

    left_out = [f"{name}:0" for name in ("MatMul",)]
    assert _blocks(network, v, left_out)[1] == []
