"""SavedModels of a tf.Module, one for each way that a kernel takes to its product."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.corpus.building import Arrays, activations, case, export, variable, weights


@case(sites=3)
def kernel_chains(path: Path) -> Arrays:
    a, b, c = variable(128 * 96), variable(1, 128, 96, seed=1), variable(112, 2, 96, seed=2)

    def serve(x):
        y = tf.matmul(x, tf.transpose(tf.reshape(tf.identity(a), [128, 96])))
        y = tf.nn.relu(tf.matmul(y, tf.squeeze(b, 0)))
        return {"y": tf.matmul(y, tf.stop_gradient(c[:, 1]), transpose_b=True)}

    return export(path, serve, {"x": activations(3, 96)}, {"a": a, "b": b, "c": c})


@case(sites=4)
def split_kernel(path: Path) -> Arrays:
    fused = variable(96, 4 * 64)

    def serve(x):
        gates = tf.split(fused, 4, axis=1)
        return {"y": tf.add_n([tf.tanh(tf.matmul(x, gate)) for gate in gates])}

    return export(path, serve, {"x": activations(3, 96)}, {"fused": fused})


@case(sites=1)
def concatenated_kernels(path: Path) -> Arrays:
    left, right = variable(96, 64), variable(96, 64, seed=1)
    return export(
        path,
        lambda x: {"y": tf.matmul(x, tf.concat([left, right], 1))},
        {"x": activations(3, 96)},
        {"left": left, "right": right},
    )


@case(sites=1)
def adapted_kernel(path: Path) -> Arrays:
    """A kernel with a low-rank adapter beside it, added in the graph."""
    w, a, b = variable(96, 128), variable(96, 4, seed=1, name="a"), variable(4, 128, seed=2)
    return export(
        path,
        lambda x: {"y": tf.matmul(x, w + tf.matmul(a, b))},
        {"x": activations(3, 96)},
        {"w": w, "a": a, "b": b},
    )


@case(sites=1, precision="bfloat16")
def mixed_precision(path: Path) -> Arrays:
    w = variable(96, 128)

    def serve(x):
        y = tf.matmul(tf.cast(x, tf.bfloat16), tf.cast(w, tf.bfloat16))
        return {"y": tf.cast(y, tf.float32)}

    return export(path, serve, {"x": activations(3, 96)}, {"w": w})


@case(sites=1)
def half_stored(path: Path) -> Arrays:
    w = variable(96, 256, dtype=np.float16)
    return export(
        path,
        lambda x: {"y": tf.matmul(x, tf.cast(w, tf.float32))},
        {"x": activations(3, 96)},
        {"w": w},
    )


@case(sites=1)
def double_precision(path: Path) -> Arrays:
    w = variable(96, 128, dtype=np.float64)
    inputs = {"x": activations(3, 96, dtype=np.float64)}
    return export(path, lambda x: {"y": tf.matmul(x, w)}, inputs, {"w": w})


@case(sites=1, grows=True)
def dequantized(path: Path) -> Arrays:
    quantized = tf.Variable((weights(96, 128) * 500).astype(np.int8), name="q", trainable=False)
    scale = tf.constant(weights(1, 128, seed=1))
    return export(
        path,
        lambda x: {"y": tf.matmul(x, tf.cast(quantized, tf.float32) * scale)},
        {"x": activations(3, 96)},
        {"q": quantized},
    )


@case(sites=1)
def constant_in_a_function(path: Path) -> Arrays:
    value = weights(96, 128)
    return export(path, lambda x: {"y": tf.matmul(x, value)}, {"x": activations(3, 96)})


@case(sites=1)
def captured_constant_in_two_signatures(path: Path) -> Arrays:
    constant = tf.constant(weights(96, 128))
    return export(
        path,
        lambda x: {"y": tf.matmul(x, constant)},
        {"x": activations(3, 96)},
        other=lambda x: {"z": tf.nn.relu(tf.matmul(x, constant))},
    )
