"""Runs a rewritten Keras model against the original, both in memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfapprox.rewriters.agreement import Verification, compare_outputs
from tfapprox.serving.inputs import generate_inputs
from tfapprox.serving.signature import Signature, TensorSpec

BATCH_SIZE = 4


def verify_keras_model(
    candidate: Any, reference: Any, inputs: Any = None, *, seed: int = 0
) -> Verification:
    """Returns how well one Keras model stands in for another, in inference mode.

    Failures are other outputs, shapes or dtypes, and entries that are not finite
    where the reference's are.

    Args:
      candidate, reference: of the same flavour, with the same inputs.
      inputs: what `reference(inputs)` takes; made up when None.
      seed: of the made-up inputs.
    """
    origin = "given"
    if inputs is None:
        inputs, origin = _made_up(reference, seed), f"made up, batch {BATCH_SIZE}, seed {seed}"
    agreements, failures = compare_outputs(
        _outputs(candidate, inputs), _outputs(reference, inputs), "call"
    )
    return Verification(
        candidate.name, reference.name, origin, None, tuple(agreements), tuple(failures)
    )


def _made_up(model: Any, seed: int) -> Any:
    """Returns one array an input, in the order of `model.inputs`, or the only one."""
    # Numbered, because generate_inputs fills inputs in the order of their keys.
    keys = [f"{i:04}" for i in range(len(model.inputs))]
    specs = {
        key: TensorSpec(key, str(getattr(x.dtype, "name", x.dtype)), tuple(x.shape))
        for key, x in zip(keys, model.inputs, strict=True)
    }
    arrays = generate_inputs(Signature(specs, {}), BATCH_SIZE, seed)
    values = [arrays[key] for key in keys]
    return values[0] if len(values) == 1 else values


def _outputs(model: Any, inputs: Any) -> Mapping[str, np.ndarray]:
    import tensorflow as tf

    flat = tf.nest.flatten(model(inputs, training=False))
    return {f"output {i}": np.asarray(value) for i, value in enumerate(flat)}
