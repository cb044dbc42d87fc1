"""SavedModels in the way of TensorFlow 1: all in the main graph, no objects, no functions."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.corpus.building import Arrays, activations, case, weights

v1 = tf.compat.v1


def _save(path: Path, session, inputs: dict, outputs: dict, **settings) -> None:
    builder = v1.saved_model.Builder(str(path))
    signature = v1.saved_model.predict_signature_def(inputs, outputs)
    builder.add_meta_graph_and_variables(
        session, ["serve"], {"serving_default": signature}, **settings
    )
    builder.save()


@case(sites=2)
def tf1_frozen_graph(path: Path) -> Arrays:
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 96], "x")
        y = tf.nn.relu(tf.matmul(x, tf.constant(weights(96, 128)), name="one"))
        y = tf.matmul(y, tf.constant(weights(128, 112)), name="two")
        _save(path, session, {"x": x}, {"y": tf.identity(y, "out")})
    return {"x": activations(3, 96)}


def _tf1_variables(path: Path, use_resource: bool) -> Arrays:
    with v1.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None], "words")
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["red", "green"], np.arange(2)), -1
        )
        x = tf.one_hot(table.lookup(words) + 1, 96)
        with v1.variable_scope("net", use_resource=use_resource):
            w = v1.get_variable("dense/kernel", initializer=weights(96, 128))
            b = v1.get_variable("dense/bias", initializer=weights(128))
            v = v1.get_variable("out/kernel", initializer=weights(128, 112))
        y = tf.nn.relu(tf.matmul(x, w) + b)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        _save(
            path,
            session,
            {"words": words},
            {"y": tf.matmul(y, v)},
            main_op=v1.tables_initializer(),
        )
    return {"words": np.array([b"red", b"green", b"blue"], object)}


@case(sites=2)
def tf1_reference_variables(path: Path) -> Arrays:
    return _tf1_variables(path, use_resource=False)


@case(sites=2)
def tf1_resource_variables(path: Path) -> Arrays:
    return _tf1_variables(path, use_resource=True)


@case(sites=1)
def tf1_partitioned_variable(path: Path) -> Arrays:
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 96], "x")
        with v1.variable_scope("net", partitioner=v1.fixed_size_partitioner(3)):
            w = v1.get_variable("kernel", initializer=tf.constant(weights(96, 128)))
        y = tf.matmul(x, tf.convert_to_tensor(w))
        session.run(v1.global_variables_initializer())
        _save(path, session, {"x": x}, {"y": y})
    return {"x": activations(3, 96)}


@case(sites=2)
def tf1_loop(path: Path) -> Arrays:
    with v1.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [None, 96], "x")
        w = v1.get_variable("kernel", initializer=weights(96, 96), use_resource=True)
        v = tf.constant(weights(96, 96, seed=1))
        y = v1.while_loop(
            lambda i, y: i < 4,
            lambda i, y: (i + 1, tf.tanh(tf.matmul(tf.matmul(y, w), v))),
            [0, x],
        )[1]
        session.run(v1.global_variables_initializer())
        _save(path, session, {"x": x}, {"y": y})
        v1.enable_control_flow_v2()
    return {"x": activations(3, 96)}


@case(sites=1)
def tf1_control_inputs(path: Path) -> Arrays:
    """A call is counted because the product waits for the count."""
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 96], "x")
        w = v1.get_variable("kernel", initializer=weights(96, 128), use_resource=True)
        calls = v1.get_variable("calls", initializer=np.float32(0), use_resource=True)
        with tf.control_dependencies([calls.assign_add(1.0)]):
            y = tf.matmul(x, w)
        with tf.control_dependencies([y]):
            count = calls.read_value()
        session.run(v1.global_variables_initializer())
        _save(path, session, {"x": x}, {"y": y, "count": count})
    return {"x": activations(3, 96)}
