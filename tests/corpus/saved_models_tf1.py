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


@case(sites=2)
def tf1_estimator(path: Path) -> Arrays:
    """What Estimator.export_saved_model writes: serialized examples, three signatures, a step."""
    vocabulary = path.parent / f"{path.name}_vocabulary.txt"
    vocabulary.write_text("red\ngreen\nblue")
    with v1.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "input_example_tensor")
        features = {
            "x": tf.io.FixedLenFeature([48], tf.float32),
            "word": tf.io.FixedLenFeature([], tf.string),
        }
        parsed = v1.io.parse_example(examples, features)
        asset = tf.constant(str(vocabulary))
        rows, lines = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        initializer = tf.lookup.TextFileInitializer(asset, tf.string, rows, tf.int64, lines)
        table = tf.lookup.StaticHashTable(initializer, -1)
        v1.train.create_global_step()
        words = tf.one_hot(table.lookup(parsed["word"]) + 1, 48)
        with v1.variable_scope("dnn", use_resource=True):
            w = v1.get_variable("hidden/kernel", initializer=weights(96, 128))
            b = v1.get_variable("hidden/bias", initializer=weights(128))
            v = v1.get_variable("logits/kernel", initializer=weights(128, 96))
        hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(tf.concat([parsed["x"], words], 1), w), b))
        logits = tf.matmul(hidden, v, name="logits")
        probabilities = tf.nn.softmax(logits)
        classes = tf.tile(tf.as_string(tf.range(96))[None], [tf.shape(logits)[0], 1])
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        sign = v1.saved_model.signature_def_utils
        inputs = {"examples": examples}
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": sign.classification_signature_def(
                    examples, classes, probabilities
                ),
                "regression": sign.regression_signature_def(examples, logits[:, 0]),
                "predict": sign.predict_signature_def(inputs, {"logits": logits}),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
            strip_default_attrs=True,
        )
        builder.save()
    vocabulary.unlink()
    floats = [tf.train.FloatList(value=row) for row in activations(3, 48)]
    records = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "x": tf.train.Feature(float_list=row),
                    "word": tf.train.Feature(bytes_list=tf.train.BytesList(value=[word])),
                }
            )
        )
        for row, word in zip(floats, (b"red", b"blue", b"pink"), strict=True)
    ]
    return {"inputs": np.array([record.SerializeToString() for record in records], object)}


@case(sites=2)
def fused_operations(path: Path) -> Arrays:
    """A graph that an optimizer went over: bias and activation are parts of the products."""
    graph = v1.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 6, 6, 32], "x")
        for name, value in (
            ("conv/kernel", weights(3, 3, 32, 64)),
            ("conv/bias", weights(64)),
            ("dense/kernel", weights(64, 96)),
            ("dense/bias", weights(96)),
        ):
            tf.constant(value, name=name)
        tf.constant([1, 2], name="axes")
    nodes = graph.as_graph_def()
    conv = _fused(nodes, "_FusedConv2D", "conv/fused", [x.op.name, "conv/kernel", "conv/bias"])
    conv.attr["strides"].list.i.extend([1, 2, 2, 1])
    conv.attr["dilations"].list.i.extend([1, 1, 1, 1])
    conv.attr["padding"].s, conv.attr["data_format"].s = b"SAME", b"NHWC"
    conv.attr["TArgs"].list.type.append(tf.float32.as_datatype_enum)
    mean = nodes.node.add(name="mean", op="Mean", input=["conv/fused", "axes"])
    mean.attr["T"].type, mean.attr["Tidx"].type = 1, 3
    _fused(nodes, "_FusedMatMul", "dense/fused", ["mean", "dense/kernel", "dense/bias"])
    with v1.Graph().as_default(), v1.Session() as session:
        x, y = tf.import_graph_def(nodes, return_elements=["x:0", "dense/fused:0"], name="")
        _save(path, session, {"x": x}, {"y": y})
    return {"x": activations(2, 6, 6, 32)}


def _fused(graph, op: str, name: str, inputs: list[str]):
    node = graph.node.add(name=name, op=op, input=inputs)
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["num_args"].i = 1
    node.attr["fused_ops"].list.s.extend([b"BiasAdd", b"Relu"])
    return node
