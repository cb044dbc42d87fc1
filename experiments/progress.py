"""A progress bar within the epoch where there is a terminal, log lines where there is none."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorflow import keras


class TrainingProgress:
    """Shows steps as they are taken; lines of text go above the bar.

    Args:
      console: where; the bar is drawn on terminals only.
      total: steps of the whole training.
      done: steps that a resumed training has behind it.
    """

    def __init__(self, console: Console, label: str, total: int, done: int):
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bar.add_task(label, total=total, completed=done)

    def step(self) -> None:
        self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """Shows a line: on a terminal above the bar, else in the log."""
        if self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False)
        else:
            logging.info("%s", line)

    def callback(self) -> keras.callbacks.Callback:
        """Returns what reports each step of `fit`."""
        return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: self.step())

    def __enter__(self) -> "TrainingProgress":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._console.is_terminal:
            self._bar.stop()


@contextlib.contextmanager
def training_progress(label: str, total: int, done: int = 0) -> Iterator[TrainingProgress]:
    """Yields the progress of a training, on standard error."""
    with TrainingProgress(Console(file=sys.stderr), label, total, done) as progress:
        yield progress
