"""Products behind layers that return sequences count every step, however they are stacked."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.serving.cc_loader import CcSession

STEPS, WIDTH, UNITS, OUT = 6, 10, 8, 12


def _recurrent(name):
    layers = keras.layers
    return {
        "lstm": lambda: [layers.LSTM(UNITS, return_sequences=True)],
        "gru": lambda: [layers.GRU(UNITS, return_sequences=True)],
        "unrolled": lambda: [layers.LSTM(UNITS, return_sequences=True, unroll=True)],
        "bidirectional": lambda: [
            layers.Bidirectional(layers.GRU(UNITS // 2, return_sequences=True))
        ],
        "stacked": lambda: [
            layers.LSTM(UNITS, return_sequences=True),
            layers.LSTM(UNITS, return_sequences=True),
        ],
    }[name]()


@pytest.mark.parametrize("name", ["lstm", "gru", "unrolled", "bidirectional", "stacked"])
def test_a_dense_layer_behind_a_sequence_runs_at_every_step(name, tmp_path):
    model = keras.Sequential([keras.Input((STEPS, WIDTH)), *_recurrent(name)])
    model.add(keras.layers.Dense(OUT, name="head"))
    path = str(tmp_path / "model")
    model.export(path, verbose=False)
    inspection = open_saved_model(path).inspection
    (head,) = [site for site in inspection.sites if site.kernel.shape[-2:] == (UNITS, OUT)]
    assert head.cost.macs == STEPS * UNITS * OUT
    assert not head.assumed_size
    for site in inspection.sites:
        if "recurrent" in site.name and name != "unrolled":
            assert site.cost.macs == STEPS * site.kernel.size
    x = np.ones((1, STEPS, WIDTH), np.float32)
    with CcSession(path) as session:
        ((key, spec),) = (
            tf.saved_model.load(path)
            .signatures["serving_default"]
            .structured_input_signature[1]
            .items()
        )
        (out,) = session.run({key: x}, "serving_default").values()
    assert out.shape == (1, STEPS, OUT) and spec.shape[1] == STEPS


def _module(dynamic):
    class Growing(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(tf.ones([4, 16]))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(self, x):
            made = tf.TensorArray(tf.float32, 0 if dynamic else 5, dynamic, element_shape=[None, 4])
            for step in tf.range(5):
                made = made.write(step, x * tf.cast(step, tf.float32))
            return {"y": made.stack() @ self.kernel}

    return Growing()


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_list_that_grows_is_not_taken_for_longer_than_is_known(dynamic, tmp_path):
    module = _module(dynamic)
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.serve})
    (site,) = open_saved_model(str(tmp_path)).inspection.sites
    assert site.cost.macs == (1 if dynamic else 5) * 64
    assert bool(site.assumed_size) == dynamic
    with CcSession(str(tmp_path)) as session:
        made = session.run({"x": np.ones((2, 4), np.float32)}, "serving_default")["y"]
    assert made.shape == (5, 2, 16)
