"""Choosing between two forms of one computation by what compiles it."""

from collections.abc import Callable

import tensorflow as tf


def by_compiler(graph: Callable[[], tf.Tensor], xla: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns graph() where TensorFlow's own kernels run on a CPU, else xla(): equal values.

    Whether XLA compiles a graph is not known when it is traced: DeviceIndex gives 0 on a
    CPU, 1 within XLA, and either compiler folds the choice away. GPUs take the second
    form: they would round a product's factors to TF32.
    """
    if tf.config.list_physical_devices("GPU"):
        return xla()
    compiler = tf.raw_ops.DeviceIndex(device_names=["CPU"])
    return tf.switch_case(compiler, {0: graph}, default=xla)
