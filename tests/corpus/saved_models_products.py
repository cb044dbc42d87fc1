"""SavedModels of a tf.Module, one for each linear operation: products and convolutions."""

from pathlib import Path

import tensorflow as tf

from tests.corpus.building import Arrays, activations, case, export, variable


@case(sites=2)
def matmul(path: Path) -> Arrays:
    v, w = variable(96, 128), variable(128, 112)
    return export(
        path,
        lambda x: {"y": tf.matmul(tf.nn.relu(tf.matmul(x, v)), w) + 1.0},
        {"x": activations(3, 96)},
        {"v": v, "w": w},
    )


@case(sites=4)
def matmul_flags(path: Path) -> Arrays:
    a, b, c, d = (variable(96, 128, seed=i) for i in range(4))

    def serve(x):
        right = tf.matmul(tf.matmul(x, a), b, transpose_b=True)
        left = tf.matmul(c, right, transpose_a=True, transpose_b=True)  # [128, N]
        wide = tf.matmul(left, d, transpose_a=True, transpose_b=True)  # [N, 96]
        return {"y": wide}

    return export(path, serve, {"x": activations(3, 96)}, {"a": a, "b": b, "c": c, "d": d})


@case(sites=1)
def matmul_kernel_on_the_left(path: Path) -> Arrays:
    w = variable(128, 96)
    return export(
        path,
        lambda x: {"y": tf.transpose(tf.matmul(w, x, transpose_b=True))},
        {"x": activations(3, 96)},
        {"w": w},
    )


@case(sites=1)
def tied_and_transposed(path: Path) -> Arrays:
    w = variable(96, 128)
    return export(
        path,
        lambda x: {"y": tf.matmul(tf.nn.relu(tf.matmul(x, w)), w, transpose_b=True)},
        {"x": activations(3, 96)},
        {"w": w},
    )


@case(sites=1)
def tensordot(path: Path) -> Arrays:
    w = variable(96, 128)
    return export(
        path,
        lambda x: {"y": tf.tensordot(x, w, [[2], [0]])},
        {"x": activations(2, 5, 96)},
        {"w": w},
    )


@case(sites=2)
def batch_matmul(path: Path) -> Arrays:
    w, v = variable(96, 128), variable(112, 128, seed=1)

    def serve(x):
        y = tf.raw_ops.BatchMatMulV2(x=x, y=w)
        kernel = tf.expand_dims(v, 0)
        return {"y": tf.raw_ops.BatchMatMulV3(x=y, y=kernel, Tout=tf.float32, adj_y=True)}

    return export(path, serve, {"x": activations(2, 5, 96)}, {"w": w, "v": v})


@case(sites=2)
def einsum(path: Path) -> Arrays:
    heads, merge = variable(96, 4, 32), variable(4, 32, 96, seed=1)

    def serve(x):
        y = tf.einsum("btd,dhk->bthk", x, heads)
        return {"y": tf.einsum("hkd,...hk->...d", merge, y)}

    return export(path, serve, {"x": activations(2, 5, 96)}, {"heads": heads, "merge": merge})


@case(sites=1)
def product_of_activations(path: Path) -> Arrays:
    w = variable(96, 128)

    def serve(x):
        y = tf.matmul(x, w)
        return {"y": tf.matmul(y, y, transpose_b=True)}

    return export(path, serve, {"x": activations(2, 5, 96)}, {"w": w})


@case(sites=3)
def conv2d(path: Path) -> Arrays:
    a, b, c = variable(3, 3, 16, 64), variable(3, 5, 64, 32, seed=1), variable(1, 1, 32, 64)

    def serve(x):
        y = tf.nn.relu(tf.nn.conv2d(x, a, [1, 2, 1, 1], "SAME"))
        y = tf.nn.relu(tf.nn.conv2d(y, b, [1, 1, 2, 1], "VALID"))
        return {"y": tf.nn.conv2d(y, c, 1, "VALID")}

    return export(path, serve, {"x": activations(2, 11, 14, 16)}, {"a": a, "b": b, "c": c})


@case(sites=2)
def conv2d_explicit_padding_and_dilation(path: Path) -> Arrays:
    a, b = variable(3, 3, 16, 64), variable(3, 3, 64, 32, seed=1)

    def serve(x):
        pads = [[0, 0], [2, 1], [0, 3], [0, 0]]
        y = tf.raw_ops.Conv2D(
            input=x,
            filter=a,
            strides=[1, 2, 1, 1],
            padding="EXPLICIT",
            explicit_paddings=[n for pair in pads for n in pair],
        )
        return {
            "y": tf.raw_ops.Conv2D(
                input=y, filter=b, strides=[1, 1, 1, 1], padding="SAME", dilations=[1, 2, 3, 1]
            )
        }

    return export(path, serve, {"x": activations(2, 11, 14, 16)}, {"a": a, "b": b})


@case(sites=2)
def conv1d(path: Path) -> Arrays:
    a, b = variable(5, 32, 64), variable(3, 64, 48, seed=1)

    def serve(x):
        y = tf.nn.relu(tf.nn.conv1d(x, a, 2, "SAME"))
        return {"y": tf.nn.conv1d(y, b, 1, "VALID", dilations=2)}

    return export(path, serve, {"x": activations(2, 17, 32)}, {"a": a, "b": b})


@case(sites=1)
def conv1d_open_length(path: Path) -> Arrays:
    a = variable(5, 32, 64)
    inputs = {"x": activations(2, 17, 32)}
    shapes = {"x": [None, None, 32]}
    return export(path, lambda x: {"y": tf.nn.conv1d(x, a, 1, "SAME")}, inputs, {"a": a}, shapes)


@case(sites=1)
def convolutions_that_stay(path: Path) -> Arrays:
    grouped, depth = variable(3, 3, 8, 32), variable(3, 3, 32, 1, seed=1)
    up, point = variable(2, 2, 24, 32, seed=2), variable(1, 1, 32, 96, seed=3)

    def serve(x):
        y = tf.nn.conv2d(x, grouped, 1, "SAME")
        y = tf.nn.depthwise_conv2d(y, depth, [1, 1, 1, 1], "SAME")
        z = tf.nn.conv2d_transpose(y, up, [tf.shape(x)[0], 12, 12, 24], 2)
        return {"y": tf.nn.conv2d(y, point, 1, "SAME"), "z": z}

    tracked = {"grouped": grouped, "depth": depth, "up": up, "point": point}
    return export(path, serve, {"x": activations(2, 6, 6, 16)}, tracked)
