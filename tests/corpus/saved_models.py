"""SavedModels of a tf.Module, one for each thing that may surround the kernels.

`CORPUS` maps the name of every builder, of this and its sister modules, to a `Case`; those
written from a tf.Module are filled in with this one.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.corpus import saved_models_calls, saved_models_kernels, saved_models_products
from tests.corpus.building import Arrays, activations, case, export, variable

assert saved_models_calls and saved_models_kernels and saved_models_products  # they fill the corpus


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
