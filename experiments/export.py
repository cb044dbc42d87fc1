"""Writes a trained Keras model as a SavedModel that TF Serving's loader reads."""

import pathlib
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.serving.cc_loader import CcSession


def export_saved_model(model: Any, path: pathlib.Path, sample: np.ndarray) -> None:
    """Exports logits of float or int inputs, and checks the result with the C API's loader.

    Saving the Keras 3 model itself would give a SavedModel that only Python loads; a
    module that tracks the variables loads everywhere and holds each of them once.

    Args:
      sample: [n, ...] inputs; their size but for the batch becomes the signature's.

    Raises:
      RuntimeError: the loader's outputs are not the model's.
    """
    module = tf.Module()
    module.model_variables = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
    spec = tf.TensorSpec([None, *sample.shape[1:]], sample.dtype, name="inputs")

    @tf.function(input_signature=[spec])
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.cast(model(inputs, training=False), tf.float32)}

    module.serve = serve
    shutil.rmtree(path, ignore_errors=True)
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    expected = serve(tf.constant(sample))["logits"].numpy()
    with CcSession(str(path)) as session:
        actual = session.run({"inputs": sample}, "serving_default")["logits"]
    if not np.allclose(actual, expected, rtol=1e-4, atol=1e-4):
        raise RuntimeError(f"{path} loads elsewhere but gives other outputs than the model")
