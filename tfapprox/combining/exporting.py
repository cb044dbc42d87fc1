"""A tf_keras model as a SavedModel that TF Serving's loader reads, each variable once."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import VerificationError
from tfapprox.serving.cc_loader import CcSession

INPUT, OUTPUT = "inputs", "outputs"

# Rounding of float32 in another order of operations, relative to the largest output. A
# fake-quantized value on the edge between two steps may fall on either side.
LIMIT, QUANTIZED_LIMIT = 1e-4, 0.1


def export_saved_model(model: Any, path: pathlib.Path, sample: np.ndarray, limit: float) -> None:
    """Writes the model and runs it through the C++ loader.

    Args:
      model: of tf_keras, with one input and one output.
      path: a directory that is not there yet.
      sample: [n, ...] inputs to compare on.
      limit: largest difference of an output, relative to the largest output.

    Raises:
      VerificationError: read back, it gives other outputs.
    """
    module = tf.Module()
    module.model_variables = list(model.variables)
    spec = tf.TensorSpec([None, *model.inputs[0].shape[1:]], model.inputs[0].dtype, name=INPUT)

    @tf.function(input_signature=[spec])
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: model(inputs, training=False)}

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    expected = serve(tf.constant(sample))[OUTPUT].numpy()
    with CcSession(str(path)) as session:
        found = session.run({INPUT: sample})[OUTPUT]
    difference = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12)
    if not difference <= limit:
        raise VerificationError(
            f"{path}, read back, differs from the model by {difference:.2g} of its largest output"
        )
