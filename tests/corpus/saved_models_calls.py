"""SavedModels of a tf.Module with calls, branches and loops."""

from pathlib import Path

import tensorflow as tf

from tests.corpus.building import Arrays, activations, case, export, variable, weights


@case(sites=2)
def nested_calls_with_different_kernels(path: Path) -> Arrays:
    v, w = variable(96, 96), variable(96, 96, seed=1)
    small = variable(1, name="gain")

    @tf.function(input_signature=[tf.TensorSpec([None, 96]), tf.TensorSpec([96, 96])])
    def product(x, kernel):
        return tf.matmul(x, kernel) * small

    @tf.function
    def layer(x, kernel):
        return tf.nn.relu(product(x, kernel))

    def serve(x):
        return {"y": layer(layer(layer(x, v), w), v)}

    tracked = {"v": v, "w": w, "small": small}
    return export(path, serve, {"x": activations(3, 96)}, tracked)


@case(sites=1)
def constant_as_argument(path: Path) -> Arrays:
    value = weights(96, 128)

    @tf.function
    def product(x, kernel):
        return tf.matmul(x, kernel)

    def serve(x):
        return {"y": product(x, tf.constant(value))}

    return export(path, serve, {"x": activations(3, 96)})


@case(sites=3)
def signatures_that_share_kernels(path: Path) -> Arrays:
    v, w, u = variable(96, 128), variable(128, 64), variable(128, 80, seed=2)

    def embed(x):
        return tf.nn.relu(tf.matmul(x, v))

    return export(
        path,
        lambda x: {"y": tf.matmul(embed(x), w)},
        {"x": activations(3, 96)},
        {"v": v, "w": w, "u": u},
        embed=lambda x: {"embedding": embed(x)},
        score=lambda x: {"a_score": tf.matmul(embed(x), u), "z": tf.reduce_sum(x, 1)},
    )


@case(sites=2)
def while_loop(path: Path) -> Arrays:
    w, v = variable(96, 96), variable(96, 128, seed=1)

    def serve(x):
        y = tf.while_loop(
            lambda i, y: i < 5, lambda i, y: (i + 1, tf.tanh(tf.matmul(y, w))), (0, x)
        )[1]
        return {"y": tf.matmul(y, v)}

    return export(path, serve, {"x": activations(3, 96)}, {"w": w, "v": v})


@case(sites=2)
def branches(path: Path) -> Arrays:
    w, v = variable(96, 128), variable(96, 128, seed=1)

    def serve(x):
        big = tf.reduce_sum(x) > 0
        y = tf.cond(big, lambda: tf.matmul(x, w), lambda: tf.matmul(x, v))
        z = tf.switch_case(tf.cast(big, tf.int32), [lambda: y, lambda: tf.matmul(x, v) + y])
        return {"y": z}

    return export(path, serve, {"x": activations(3, 96)}, {"w": w, "v": v})


@case(sites=1)
def map_fn(path: Path) -> Arrays:
    w = variable(96, 128)
    return export(
        path,
        lambda x: {"y": tf.map_fn(lambda row: tf.matmul(row, w), x)},
        {"x": activations(3, 4, 96)},
        {"w": w},
        {"x": [3, 4, 96]},
    )
