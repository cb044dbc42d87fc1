"""Lets callbacks see one training where `fit` is called several times, on several models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow import keras


class CallbackRelay(keras.callbacks.CallbackList):
    """A list of callbacks whose training begins and ends when it is told, not with `fit`.

    Attributes:
      history: the History among the callbacks; one is added if there is none.
    """

    def __init__(self, callbacks: Sequence[Any], model: Any, epochs: int, verbose: Any):
        """Args: as for `fit`."""
        super().__init__(
            list(callbacks),
            add_history=True,
            add_progbar=verbose != 0,
            model=model,
            epochs=epochs,
            steps=None,
            verbose=verbose,
        )
        kind = keras.callbacks.History
        self.history = next(c for c in self.callbacks if isinstance(c, kind))
        self._last_logs: Any = None

    def begin(self) -> int:
        """Begins the training; returns the epoch that BackupAndRestore goes on with, or 0."""
        super().on_train_begin()
        # Where that callback leaves it for `fit`; every later call would start there too.
        epoch, self.model._initial_epoch = self.model._initial_epoch, None
        return epoch or 0

    def finish(self) -> None:
        """Ends the training."""
        super().on_train_end(self._last_logs)

    def on_train_begin(self, logs: Any = None) -> None:
        """Ignores the beginning of one call of `fit`."""

    def on_train_end(self, logs: Any = None) -> None:
        """Ignores the end of one call of `fit`."""
        self._last_logs = logs

    def change_model(self, model: Any) -> None:
        """Gives the callbacks another model."""
        self.set_model(model)
        for callback in self.callbacks:
            if isinstance(callback, keras.callbacks.EarlyStopping):
                if callback.restore_best_weights:
                    callback.on_train_begin()  # its weights do not fit any more

    def restore_history(self, records: Mapping[str, Any]) -> None:
        """Fills History as `history_records` gave it."""
        self.history.epoch = list(records["epoch"])
        self.history.history = {k: list(v) for k, v in records["history"].items()}

    def history_records(self) -> dict[str, Any]:
        """Returns what History holds, as JSON can hold it."""
        values = {k: [np.asarray(x).tolist() for x in v] for k, v in self.history.history.items()}
        return {"epoch": list(self.history.epoch), "history": values}
