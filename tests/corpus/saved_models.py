"""Small SavedModels, one for each construct that the rewriter must understand.

`CORPUS` maps a name to a `Case`; the contract in saved_model_contract_test.py runs on all.
Kernels are large enough for a rewrite to show on disk, and small enough to build fast.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]
Builder = Callable[[Path], Arrays]


@dataclasses.dataclass(frozen=True)
class Case:
    """One SavedModel of the corpus.

    Attributes:
      build: writes it to a directory and returns inputs for its default signature.
      sites: how many sites it has.
      precision: dtype that the products are computed in.
      grows: whether a rewrite is allowed to be no smaller (kernels too small, or quantized).
    """

    build: Builder
    sites: int
    precision: str = "float32"
    grows: bool = False


CORPUS: dict[str, Case] = {}


def case(sites: int, **settings) -> Callable[[Builder], Builder]:
    """Registers a builder under its function's name."""

    def register(build: Builder) -> Builder:
        CORPUS[build.__name__] = Case(build, sites, **settings)
        return build

    return register


def weights(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Returns a kernel with a falling spectrum, as trained ones have, of unit-size outputs."""
    generator = np.random.default_rng([seed, *shape])
    fan_in = int(np.prod(shape[:-1]))
    return (generator.standard_normal(shape) / np.sqrt(fan_in)).astype(dtype)


def activations(*shape: int, seed: int = 1, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def export(
    path: Path,
    function: Callable,
    inputs: Arrays,
    tracked: dict | None = None,
    shapes: dict[str, list[int | None]] | None = None,
    **signatures: Callable,
) -> Arrays:
    """Saves a root with one function, called with the inputs by name, as its signature.

    Args:
      tracked: attributes of the root, variables mostly.
      shapes: input shapes of the signature; the arrays' with an open batch by default.
      signatures: more functions of the same inputs.
    """
    root = tf.Module()
    for name, value in (tracked or {}).items():
        setattr(root, name, value)
    shapes = shapes or {key: [None, *value.shape[1:]] for key, value in inputs.items()}
    specs = {key: tf.TensorSpec(shapes[key], inputs[key].dtype, key) for key in inputs}
    root.serve = tf.function(function)
    exported = {"serving_default": root.serve.get_concrete_function(**specs)}
    for name, other in signatures.items():
        setattr(root, name, tf.function(other))
        exported[name] = getattr(root, name).get_concrete_function(**specs)
    tf.saved_model.save(root, str(path), exported)
    return inputs


def variable(*shape: int, seed: int = 0, dtype: type = np.float32, name: str = "w", **settings):
    return tf.Variable(weights(*shape, seed=seed, dtype=dtype), name=name, **settings)


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
        return {"y": tf.raw_ops.BatchMatMulV2(x=y, y=tf.expand_dims(v, 0), adj_y=True)}

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


# Keras.


def _keras_model(keras):
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(32, 3, activation="relu", padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(64, 3, strides=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(128, activation="gelu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


@case(sites=4)
def keras3_export(path: Path) -> Arrays:
    import keras

    _keras_model(keras).export(str(path), verbose=False)
    return _default_inputs(path, activations(2, 12, 12, 3))


@case(sites=4)
def keras3_plain_save(path: Path) -> Arrays:
    import keras

    tf.saved_model.save(_keras_model(keras), str(path))
    return _default_inputs(path, activations(2, 12, 12, 3))


@case(sites=4)
def tf_keras_save(path: Path) -> Arrays:
    import tf_keras

    model = _keras_model(tf_keras)
    model.compile("adam", "mse")
    model.save(str(path), save_format="tf")
    return _default_inputs(path, activations(2, 12, 12, 3))


@case(sites=3)
def keras3_sequence_model(path: Path) -> Arrays:
    import keras

    inputs = keras.Input((9, 48))
    y = keras.layers.Conv1D(64, 3, padding="causal", activation="relu")(inputs)
    y = keras.layers.Dense(96)(y)
    y = keras.layers.EinsumDense("abc,cd->abd", output_shape=(None, 64))(y)
    keras.Model(inputs, y).export(str(path), verbose=False)
    return _default_inputs(path, activations(2, 9, 48))


def _default_inputs(path: Path, x: np.ndarray) -> Arrays:
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]
    (name,) = loaded.structured_input_signature[1]
    return {name: x}
