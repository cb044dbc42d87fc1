"""TFLite models: converted, checked for what the converter did, and run."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import VerificationError

_CALIBRATION = 200  # training inputs that settle the ranges of post-training quantization


def convert_tflite(model: Any, quantization: str | None, calibration: np.ndarray) -> bytes:
    """Returns the model as a flat buffer with floating-point inputs and outputs.

    Args:
      model: of tf_keras.
      quantization: mode of `Quantize`, or None for floating-point weights.
      calibration: [n, ...] inputs.

    Raises:
      VerificationError: the converter left everything in floating point.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "post_training":
        rows = calibration[:_CALIBRATION]
        converter.representative_dataset = lambda: ([row[np.newaxis]] for row in rows)
        # Fails, rather than leaving an operation in floating point.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.float32
    with warnings.catch_warnings():
        # "Statistics for quantized inputs were expected": they are in the fake-quantization nodes.
        warnings.simplefilter("ignore")
        content = converter.convert()
    if quantization is not None and not TfliteModel(content).integer_tensors:
        raise VerificationError(f"the TFLite converter left {model.name!r} in floating point")
    return content


class TfliteModel:
    """A TFLite model in an interpreter; inputs and outputs are arrays, in the model's order."""

    def __init__(self, content: bytes, threads: int | None = None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it moves to another package, some day
            self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        self._shape: tuple[int, ...] | None = None

    @property
    def integer_tensors(self) -> int:
        """Number of 8-bit tensors."""
        details = self._interpreter.get_tensor_details()
        return sum(detail["dtype"] == np.int8 for detail in details)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Returns the only output for the only input, [n, ...]."""
        (given,), (taken,) = self._details()
        if x.shape != self._shape:
            self._interpreter.resize_tensor_input(given["index"], x.shape)
            self._interpreter.allocate_tensors()
            self._shape = x.shape
        self._interpreter.set_tensor(given["index"], x.astype(given["dtype"], copy=False))
        self._interpreter.invoke()
        return self._interpreter.get_tensor(taken["index"])

    def _details(self) -> tuple[Sequence[Any], Sequence[Any]]:
        return self._interpreter.get_input_details(), self._interpreter.get_output_details()
