"""Makes Keras 3 train under MultiWorkerMirroredStrategy.

As it comes, `fit` of Keras 3.15 fails there in two places: it takes the mean over workers
of a whole batch, which TensorFlow refuses as no tensor, and the mean of each step's metrics
along an axis that scalars lack (https://github.com/keras-team/keras/issues/20585).
MirroredStrategy needs nothing of this.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras


def train_on_workers(model: Any) -> Any:
    """Makes `fit` and `evaluate` of this model run on several workers; returns the model.

    Every worker makes the same calls with the same data, of which it then takes its
    share. Logs of a batch are the worker's own, those of an epoch are over all workers.
    A model of another strategy stays as it is.

    Args:
      model: Keras 3 model that was made and is compiled in the strategy's scope.
    """
    if not is_multi_worker(model):
        return model
    strategy = model.distribute_strategy

    def local(values: Any) -> Any:
        """Returns what this worker's first replica holds."""
        return keras.tree.map_structure(lambda v: strategy.experimental_local_results(v)[0], values)

    def build(iterator: Any = None, data_batch: Any = None) -> None:
        # Creates the metrics' variables, which no replica could do later.
        if iterator is not None:
            data_batch = next(local(next(batches)) for _, _, batches in iterator)
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    def maker(name: str, step: Callable[[Any], Any]) -> Callable[..., None]:
        def make(force: bool = False) -> None:
            if force or getattr(model, name) is None:
                run = tf.function(
                    lambda batch: local(strategy.run(step, args=(batch,))), reduce_retracing=True
                )
                setattr(model, name, lambda batches: run(next(batches)))

        return make

    # Keras looks all three up on the instance.
    model._maybe_symbolic_build = build
    model.make_train_function = maker("train_function", model.train_step)
    model.make_test_function = maker("test_function", model.test_step)
    model.train_function = model.test_function = None
    return model


def is_multi_worker(model: Any) -> bool:
    """Says whether a Keras 3 model belongs to a MultiWorkerMirroredStrategy."""
    return isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(model: Any) -> bool:
    """Says whether this process is the one that writes files; without workers it is."""
    resolver = getattr(model.distribute_strategy, "cluster_resolver", None)
    if not is_multi_worker(model) or resolver is None or not resolver.task_type:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return (resolver.task_type, resolver.task_id) == (first, 0)


def take_from_chief(model: Any) -> None:
    """Gives a model that every worker made for itself the chief's weights.

    Factors are not unique: linear algebra of another machine may find other signs,
    while gradients are averaged factor by factor.
    """
    if is_multi_worker(model):
        for variable in model.variables:
            if "float" in str(variable.dtype):
                variable.assign(_chiefs(model, variable.numpy()))


def text_of_chief(model: Any, text: str) -> str:
    """Returns the chief's text on every worker."""
    if not is_multi_worker(model):
        return text
    content = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    length = int(_chiefs(model, np.array(len(content), np.int32)))
    return _chiefs(model, np.resize(content, length)).astype(np.uint8).tobytes().decode()


def _chiefs(model: Any, value: np.ndarray) -> np.ndarray:
    """Returns the chief's array; every worker gives one of its shape."""
    strategy = model.distribute_strategy

    def contribute() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return tf.where(tf.equal(context.replica_id_in_sync_group, 0), value, tf.zeros_like(value))

    return np.asarray(strategy.reduce("SUM", strategy.run(contribute), axis=None))
