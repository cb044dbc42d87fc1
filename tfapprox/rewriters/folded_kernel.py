"""A kernel that a SavedModel computes when it is loaded, from smaller variables it holds."""

import uuid
from collections.abc import Callable

import tensorflow as tf


class FoldedKernel(tf.saved_model.experimental.TrackableResource):
    """A tensor that is not saved: `compute` fills it once, at load.

    The variables that `compute` reads are restored first, by Python's loader and by
    the C++ loader of TF Serving alike; the model then runs as if the kernel had been
    stored. Track it on the object that is saved.

    Args:
      compute: returns the value, from tracked variables.
      shape, dtype: of the value.
    """

    def __init__(self, compute: Callable[[], tf.Tensor], shape: tuple[int, ...], dtype: tf.DType):
        super().__init__()
        self._compute = compute
        self._shape = shape
        self._dtype = dtype
        # Resources of one name are one resource, across all models of a process.
        self._shared_name = f"folded_kernel_{uuid.uuid4().hex}"

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(
            dtype=self._dtype, shape=self._shape, shared_name=self._shared_name
        )

    def _initialize(self) -> None:
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=self._compute())

    def read(self) -> tf.Tensor:
        """Returns the value; in eager execution, call `initialize` first."""
        value = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=self._dtype)
        return tf.ensure_shape(value, self._shape)

    def initialize(self) -> None:
        """Fills the value in this process, as loading does."""
        self._initialize()
