"""What a training writes as it goes: one JSON record a segment or epoch, and TensorBoard's."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfapprox.training.sampling_board import SamplingBoard
from tfapprox.training.sampling_schedules import sampled_layers

Record = dict[str, float]


class RecordFile:
    """JSON lines that survive a kill at any moment.

    Args:
      keep: whether a record that is there already stays; the others will be written
        anew. So is a last line that was cut short.
    """

    def __init__(self, path: pathlib.Path, keep: Callable[[Record], bool]):
        self._path = path
        self.records = [record for record in _read(path) if keep(record)]
        path.parent.mkdir(parents=True, exist_ok=True)
        # Replaced in one go: a kill in between leaves the old file.
        fresh = path.with_suffix(".new")
        fresh.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        os.replace(fresh, path)

    def append(self, record: Record) -> None:
        self.records.append(record)
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def merge(segments: Sequence[Record]) -> Record:
    """Returns the record of several segments: sums, the highest memory, means over steps."""
    steps = sum(segment["steps"] for segment in segments)
    merged: Record = {"epoch": segments[0]["epoch"], "steps": steps}
    for name in ("seconds", "cpu_seconds"):
        merged[name] = sum(segment[name] for segment in segments)
    merged["peak_memory_mib"] = max(segment["peak_memory_mib"] for segment in segments)
    for name in segments[0]:
        if name.startswith("train_") or name == "compute_reduction":
            merged[name] = sum(s[name] * s["steps"] for s in segments) / steps
    return merged


@contextlib.contextmanager
def tensorboard(
    folder: pathlib.Path, model: Any = None, batch: Any = None
) -> Iterator[Callable[[Record], None]]:
    """Yields what writes a record for TensorBoard, or does nothing where it is not installed.

    Args:
      model: if it has sampled layers, their ratios and kept channels are written, too.
      batch: (x, y) to see these channels on.
    """
    try:
        import tensorboard  # type: ignore[import,unused-ignore]  # noqa: F401
    except ImportError:
        yield lambda record: None
        return
    writer: Any = tf.summary.create_file_writer(str(folder / "tensorboard"))
    boards = []
    if model is not None and sampled_layers(model):
        boards.append(SamplingBoard(folder / "tensorboard" / "sampling", batch))
        boards[0].set_model(model)

    def write(record: Record) -> None:
        with writer.as_default(step=int(record["epoch"])):
            for name, value in record.items():
                tf.summary.scalar(name, value)
        writer.flush()
        for board in boards:
            board.on_epoch_end(int(record["epoch"]) - 1)

    yield write
    writer.close()
    for board in boards:
        board.on_train_end()


def _read(path: pathlib.Path) -> Iterator[Record]:
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
