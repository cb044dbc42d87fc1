"""SavedModels written from a tf.Module, one for each construct.

`CORPUS` maps the name of every builder, of this and its sister modules, to a `Case`.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.corpus.building import Arrays, activations, case, export, variable, weights

# Products of matrices.


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


# Convolutions.


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


# Ways a kernel takes to its product.


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


# Calls, branches, loops.


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


# What surrounds the kernels.


@case(sites=1)
def changed_variable_stays(path: Path) -> Arrays:
    w, state = variable(96, 128), variable(96, 128, seed=1)
    root = tf.Module()
    root.w, root.state = w, state

    @tf.function(input_signature=[tf.TensorSpec([None, 96], name="x")])
    def serve(x):
        return {"y": tf.matmul(x, w) + tf.matmul(x, state)}

    @tf.function(input_signature=[tf.TensorSpec([], name="rate")])
    def decay(rate):
        state.assign(state * rate)
        return {"norm": tf.norm(state)}

    root.decay = decay
    tf.saved_model.save(root, str(path), {"serving_default": serve, "decay": decay})
    return {"x": activations(3, 96)}


@case(sites=1)
def tied_embedding_stays(path: Path) -> Arrays:
    table, w = variable(200, 96), variable(96, 128)

    def serve(ids):
        x = tf.reduce_mean(tf.gather(table, ids), 1)
        return {"y": tf.matmul(x, w), "logits": tf.matmul(x, table, transpose_b=True)}

    inputs = {"ids": np.arange(12).reshape(3, 4)}
    return export(path, serve, inputs, {"table": table, "w": w})


@case(sites=1)
def tables_and_assets(path: Path) -> Arrays:
    vocabulary = path.parent / f"{path.name}_vocabulary.txt"
    vocabulary.write_text("\n".join(["red", "green", "blue"]))
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    w = variable(96, 128)

    def serve(word):
        x = tf.one_hot(table.lookup(word) + 1, 96)
        return {"y": tf.matmul(x, w)}

    inputs = {"word": np.array([b"red", b"blue", b"pink"], object)}
    root = tf.Module()
    root.w, root.table = w, table
    root.serve = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "word")])
    tf.saved_model.save(root, str(path), {"serving_default": root.serve})
    vocabulary.unlink()
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / "tf_serving_warmup_requests").write_bytes(bytes(range(256)))
    return inputs


@case(sites=1)
def polymorphic_function(path: Path) -> Arrays:
    w = variable(96, 128)
    root = tf.Module()
    root.w = w

    @tf.function
    def apply(x, scale=2.0, *, training=False):
        y = tf.matmul(x, w)
        return tf.nn.dropout(y, 0.5) if training else y * scale

    apply(tf.zeros([2, 96]))
    apply(tf.zeros([4, 96]), scale=3.0)
    apply(tf.zeros([4, 96]), training=True)
    root.apply = apply
    serve = tf.function(lambda x: {"y": apply(x)})
    concrete = serve.get_concrete_function(tf.TensorSpec([None, 96], name="x"))
    tf.saved_model.save(root, str(path), {"serving_default": concrete})
    return {"x": activations(3, 96)}


@case(sites=2)
def lists_dicts_and_tuples_of_variables(path: Path) -> Arrays:
    a, b, c = variable(96, 128), variable(128, 96, seed=1), variable(96, seed=2)
    tracked = {"stack": [c, a, b], "by_name": {"a": a, "bias": c}, "pair": (b, c)}
    return export(
        path,
        lambda x: {"y": tf.matmul(tf.matmul(x, a), b) + c},
        {"x": activations(3, 96)},
        tracked,
    )


@case(sites=1)
def weight_normalised(path: Path) -> Arrays:
    direction, length = variable(96, 128), tf.Variable(1.5, name="length")

    def serve(x):
        norm = tf.math.rsqrt(tf.reduce_sum(tf.square(direction), 0, keepdims=True))
        return {"y": tf.matmul(x, length * direction * norm)}

    tracked = {"direction": direction, "length": length}
    return export(path, serve, {"x": activations(3, 96)}, tracked)


@case(sites=1)
def training_step(path: Path) -> Arrays:
    w, v = variable(96, 128), variable(128, 64, trainable=False)
    root = tf.Module()
    root.w, root.v = w, v

    @tf.function(input_signature=[tf.TensorSpec([None, 96], name="x")])
    def serve(x):
        return {"y": tf.matmul(tf.matmul(x, w), v)}

    @tf.function(input_signature=[tf.TensorSpec([None, 96], name="x")])
    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(serve(x)["y"]))
        w.assign_sub(0.1 * tape.gradient(loss, w))
        return {"loss": loss}

    root.train = train
    tf.saved_model.save(root, str(path), {"serving_default": serve, "train": train})
    return {"x": activations(3, 96)}


@case(sites=1)
def batching_function(path: Path) -> Arrays:
    w = variable(96, 128)
    shape = [None, 96]

    @tf.nondifferentiable_batch_function(1, 8, 0)
    def negate(x):
        return -x

    return export(
        path,
        lambda x: {"y": tf.matmul(tf.ensure_shape(negate(x), shape), w)},
        {"x": activations(3, 96)},
        {"w": w},
    )


@case(sites=1)
def loop_in_a_branch_in_a_call(path: Path) -> Arrays:
    w = variable(96, 96)

    @tf.function
    def repeat(x, kernel):
        return tf.while_loop(
            lambda y: tf.norm(y) > 1e-2, lambda y: [tf.matmul(y, kernel) * 0.3], [x]
        )[0]

    def serve(x):
        y = tf.cond(tf.reduce_sum(x) > -1e9, lambda: repeat(x, w), lambda: x)
        return {"y": y * 100.0}

    return export(path, serve, {"x": activations(3, 96)}, {"w": w})
