"""Trains epoch by epoch on disk: nothing is lost by a kill, and the best epoch is kept."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

from tfapprox.errors import UserError
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.training.multi_worker import is_multi_worker
from tfapprox.training.snapshots import read_record, restore_snapshot, save_snapshot
from tfapprox.training.trade_off import TradeOff

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class RetrainData:
    """What `fit` and `evaluate` take.

    Attributes:
      train: from the number of an epoch to its data, so that the order of examples
        follows from the epoch and a resumed run equals one that was not interrupted.
      valid: batches (x, y); decides which epoch is kept.
      test: likewise, only reported.
    """

    train: Callable[[int], Any]
    valid: Any
    test: Any

    def __post_init__(self):
        if not callable(self.train):
            raise UserError(
                "RetrainData(train=...) must be a function from the number of an epoch to its "
                f"data, got {type(self.train).__name__}: write train=lambda epoch: data"
            )
        for name in ("valid", "test"):
            if isinstance(getattr(self, name), tuple):
                raise UserError(
                    f"RetrainData({name}=...) must be batches, got a tuple: write "
                    "tf.data.Dataset.from_tensor_slices((x, y)).batch(32)"
                )


class BestEpochTraining:
    """Trains models on one set of data; each has a folder of its own.

    The folder gets training.npz (the state after the last whole epoch), best.npz (after
    the best one), and, once the training is finished, model.keras and row.json.
    """

    def __init__(self, data: RetrainData, seed: int, whole: tuple[int, int]):
        """Args: whole: parameters and MACs of the original, which ratios refer to."""
        self._data, self._seed, self._whole = data, seed, whole

    def train(
        self, model: Any, place: pathlib.Path, epochs: range, method: str, keep: float
    ) -> tuple[Any, TradeOff]:
        """Returns the model at its best validation epoch and what it reaches there.

        Args:
          model: compiled with the metric "accuracy".
          place: the folder; a training that it holds goes on, or is finished.
          epochs: their numbers; without any the model is evaluated as it is.
          method, keep: for the row.

        Raises:
          UserError: the model is trained on several workers, or has no such metric.
        """
        if is_multi_worker(model):
            raise UserError(
                "every worker would read and write the folder for itself: train under "
                "MirroredStrategy, or the dense model on several workers and this on one"
            )
        state, best = place / "training.npz", place / "best.npz"
        record = read_record(state)
        if record is None:
            record = {"epoch": epochs.start, "best": {}}
            self._keep_if_better(model, record, best)
        else:
            restore_snapshot(state, model)
        for epoch in range(record["epoch"], epochs.stop):
            model.fit(
                self._data.train(epoch),
                epochs=epoch + 1,
                initial_epoch=epoch,
                shuffle=False,
                verbose=0,
            )
            record["epoch"] = epoch + 1
            self._keep_if_better(model, record, best)
            self._save(state, model, record)
        if not state.exists():
            self._save(state, model, record)
        restore_snapshot(best, model)
        row = self._row(model, read_record(best) or {}, method, keep)
        if not (place / "row.json").exists():
            model.save(place / "model.keras")
            write_whole(place / "row.json", json.dumps(row.to_json(), indent=1))
        return model, row

    def accuracy(self, model: Any, split: Any) -> float:
        """Returns the model's accuracy on a split.

        Raises:
          UserError: it is not compiled with that metric.
        """
        results = model.evaluate(split, verbose=0, return_dict=True)
        if "accuracy" not in results:
            raise UserError(
                f"model {model.name!r} has metrics {sorted(results)}, and not accuracy: compile it "
                "with metrics=['accuracy']"
            )
        return float(results["accuracy"])

    def _save(self, path: pathlib.Path, model: Any, record: dict) -> None:
        save_snapshot(path, model, {**record, "steps": int(model.optimizer.iterations.numpy())})

    def _keep_if_better(self, model: Any, record: dict, best: pathlib.Path) -> None:
        """Evaluates the model; keeps it if no epoch before was better in validation."""
        valid = self.accuracy(model, self._data.valid)
        _LOG.info("%s epoch %d: validation %.4f", best.parent.name, record["epoch"], valid)
        if not record["best"] or valid > record["best"]["valid"]:
            test = self.accuracy(model, self._data.test)
            record["best"] = {"epoch": record["epoch"], "valid": valid, "test": test}
            save_snapshot(best, model, record["best"])

    def _row(self, model: Any, best: dict, method: str, keep: float) -> TradeOff:
        cost = inspect_keras_model(model).cost
        ratios = cost.params / self._whole[0], cost.macs / self._whole[1]
        return TradeOff(
            method, self._seed, keep, cost.params, cost.macs, *ratios,
            best["epoch"], best["valid"], best["test"],
        )  # fmt: skip


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a text so that a crash leaves the former file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    staging.write_text(text)
    staging.replace(path)
