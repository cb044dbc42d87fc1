"""What Keras's callbacks remember from one epoch to the next, so that a kill loses none of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow import keras

_KINDS = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.ModelCheckpoint,
)
_NUMBERS = ("best", "best_epoch", "wait", "cooldown_counter", "stopped_epoch")


def callback_states(
    callbacks: Sequence[Any],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Returns the states of callbacks that have one: numbers as JSON holds them, and arrays.

    These are EarlyStopping, with its best weights, ReduceLROnPlateau and ModelCheckpoint.
    """
    states: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for index, callback in enumerate(_with_state(callbacks)):
        own = {name: getattr(callback, name) for name in _NUMBERS if hasattr(callback, name)}
        numbers = {name: None if x is None else np.asarray(x).item() for name, x in own.items()}
        weights = getattr(callback, "best_weights", None)
        count = None if weights is None else len(weights)
        states.append({"kind": type(callback).__name__, "numbers": numbers, "weights": count})
        arrays |= {_name(index, i): np.asarray(x) for i, x in enumerate(weights or ())}
    return states, arrays


def restore_callback_states(
    callbacks: Sequence[Any], states: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Gives callbacks the states that `callback_states` returned of others of their kinds.

    Callbacks of other kinds than those begin anew, all of them.
    """
    own = _with_state(callbacks)
    if [type(callback).__name__ for callback in own] != [state["kind"] for state in states]:
        return
    for index, (callback, state) in enumerate(zip(own, states, strict=True)):
        for name, value in state["numbers"].items():
            setattr(callback, name, value)
        if state["weights"] is not None:
            callback.best_weights = [arrays[_name(index, i)] for i in range(state["weights"])]


def _with_state(callbacks: Sequence[Any]) -> list[Any]:
    return [callback for callback in callbacks if isinstance(callback, _KINDS)]


def _name(callback: int, weight: int) -> str:
    return f"{callback}-{weight:05d}"
