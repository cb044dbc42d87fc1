"""Steps that only look: what training would have moved is put back."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def only_looking(model: Any) -> Iterator[None]:
    """Puts back all that a training step moves besides weights, whatever happens within.

    Those are moving statistics, counters of draws, seeds of dropout and recurrent states.
    """
    moved = [v for v in model.variables if not v.trainable] + recurrent_states(model)
    before = [tf.identity(v) for v in moved]
    try:
        yield
    finally:
        for variable, value in zip(moved, before, strict=True):
            variable.assign(value)


def recurrent_states(model: Any) -> list[Any]:
    """Returns the states that stateful layers carry from batch to batch.

    Keras 3 doesn't count them among a model's variables.
    """
    stateful = [layer for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
    return [state for layer in stateful for state in tf.nest.flatten(layer.states)]


def raw(variable: Any) -> tf.Variable:
    """Returns TensorFlow's variable, which a Keras 3 one wraps."""
    return variable if isinstance(variable, tf.Variable) else variable.value
