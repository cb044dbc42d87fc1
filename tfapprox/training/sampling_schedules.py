"""Callbacks that move the sampling ratio between epochs: warm-up, per epoch, per layer."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.column_row_sampled import ColumnRowSampled

Schedule = Callable[[int], float]
"""From the epoch, counted from 0, to the forward ratio."""


def constant(ratio: float) -> Schedule:
    """Returns a schedule that stays at `ratio`."""
    return lambda epoch: ratio


def warm_up(ratio: float, epochs: int, start: float = 1.0, steps: int = 4) -> Schedule:
    """Returns a schedule from `start` down to `ratio` over the first epochs, in `steps` stairs.

    Every stair costs one more trace of the train step, hence few of them.

    Args:
      epochs: when `ratio` is reached; 0 starts there.

    Raises:
      UserError: fewer than one stair.
    """
    if steps < 1:
        raise UserError(f"a warm-up needs at least one stair, got steps={steps}")

    def schedule(epoch: int) -> float:
        if epoch >= epochs:
            return ratio
        stair = epoch * steps // epochs
        return start + (ratio - start) * stair / steps

    return schedule


class SamplingSchedule(keras.callbacks.Callback):
    """Sets the forward ratio of sampled layers at the start of each epoch.

    A sampled product has a static size, so the train step is traced again whenever a
    ratio changes.

    Args:
      schedules: one for all sampled layers, or regular expression to schedule; a
        layer follows the first expression found in its name, others stay as they are.

    Raises:
      UserError: a schedule is no function, or the model has no sampled layer that one
        speaks of.
    """

    def __init__(self, schedules: Schedule | Mapping[str, Schedule]):
        super().__init__()
        self._schedules = schedules if isinstance(schedules, Mapping) else {"": schedules}
        for pattern, schedule in self._schedules.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{pattern!r} is not a regular expression: {error}") from error
            if not callable(schedule):
                raise UserError(
                    "a schedule must be a function from the epoch to a ratio, got "
                    f"{schedule!r}: constant({schedule!r}) stays there"
                )

    def on_train_begin(self, logs: Any = None) -> None:
        if not any(self._schedule_of(layer) for layer in sampled_layers(self.model)):
            raise UserError(
                f"model {self.model.name!r} has no sampled layer whose name matches "
                f"{', '.join(map(repr, self._schedules))}"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        ratios = {}
        for layer in sampled_layers(self.model):
            schedule = self._schedule_of(layer)
            if schedule:
                ratios[layer] = schedule(epoch)
        set_ratios(self.model, ratios)

    def _schedule_of(self, layer: Any) -> Schedule | None:
        matching = (s for pattern, s in self._schedules.items() if re.search(pattern, layer.name))
        return next(matching, None)


def sampled_layers(model: Any) -> list[Any]:
    """Returns the model's column-row-sampled layers, those of nested models too."""
    return [x for x in model._flatten_layers() if isinstance(x, ColumnRowSampled)]


def set_ratios(model: Any, ratios: Mapping[Any, float]) -> bool:
    """Sets forward ratios of layers; returns whether any changed.

    If so, the model's compiled train step is made anew. Call it between steps.
    """
    changed = False
    for layer, ratio in ratios.items():
        sampling = layer.sampling.with_ratio(ratio)
        if layer.sampling != sampling:
            layer.sampling = sampling
            changed = True
    if changed and getattr(model, "train_function", None) is not None:
        made = model.make_train_function(force=True)
        # tf_keras returns the function, Keras 3 keeps it.
        model.train_function = made or model.train_function
    return changed
