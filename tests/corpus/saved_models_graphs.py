"""SavedModels with more than one graph, and graphs that are large."""

from pathlib import Path

import tensorflow as tf

from tests.corpus.building import Arrays, activations, variable, weights

v1 = tf.compat.v1


def two_graphs(path: Path, share: bool) -> Arrays:
    """Writes a graph tagged serve and one tagged other, with or without the same variable."""
    builder = v1.saved_model.Builder(str(path))
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 96], "x")
        w = v1.get_variable("kernel", initializer=weights(96, 128), use_resource=True)
        u = v1.get_variable("other", initializer=weights(96, 64), use_resource=True)
        session.run(v1.global_variables_initializer())
        y, z = tf.matmul(x, w), tf.matmul(x, w if share else u)
        sign = v1.saved_model.predict_signature_def
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": sign({"x": x}, {"y": y})},
            saver=None if share else v1.train.Saver([w, u]),
        )
        builder.add_meta_graph(
            ["other"],
            {"serving_default": sign({"x": x}, {"z": z})},
            saver=None if share else v1.train.Saver([u]),
        )
    builder.save()
    return {"x": activations(3, 96)}


def long_chain(path: Path, layers: int) -> Arrays:
    """Writes a model of `layers` products of tiny kernels, with three nodes for each."""
    root = tf.Module()
    root.kernels = [variable(8, 8, seed=i, name=f"layer_{i}/kernel") for i in range(layers)]

    @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x")])
    def serve(x):
        for kernel in root.kernels:
            x = tf.tanh(tf.matmul(x, kernel))
        return {"y": x}

    tf.saved_model.save(root, str(path), {"serving_default": serve})
    return {"x": activations(3, 8)}
