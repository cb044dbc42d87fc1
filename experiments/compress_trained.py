"""Compresses a network that an experiment has trained, and reports both."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
from rich.markdown import Markdown
from tensorflow import keras

from experiments.config import ExperimentConfig
from experiments.console import wide_console
from experiments.datasets import Data, Split
from experiments.export import export_saved_model
from experiments.task import Model, Task
from tfapprox.accounting.cost import Cost
from tfapprox.compression import compress_model
from tfapprox.config import CompressionConfig
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.selection.problem import Budget
from tfapprox.training.trade_off import TradeOff, markdown

Accuracy = Callable[[Model, Split], float]


def compress_trained(
    task: Task,
    config: ExperimentConfig,
    data: Data,
    model: Model,
    seed: int,
    accuracy: Accuracy,
    folder: pathlib.Path,
) -> list[TradeOff]:
    """Returns the trained network's row and one for each share in config.compress.

    The compressed ones are not trained again. Each goes to `folder`/compressed-SHARE as
    a SavedModel; trade_offs.json and compressed.md have the rows.

    Args:
      model: trained, of stock layers.
      accuracy: of a compiled model on a split.

    Raises:
      UserError: a share is out of reach; the message names the floor.
    """
    whole, sample = inspect_keras_model(model).cost, np.asarray(task.standardize(data.test.x[:2]))
    rows = [_row("dense", seed, 1.0, model, whole, data, accuracy)]
    for share in config.compress:
        settings = CompressionConfig(Budget("params", keep=share))
        compressed, _ = compress_model(model, settings, inputs=sample)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        compressed.compile(loss=loss, metrics=["accuracy"])
        rows.append(_row(settings.selector, seed, share, compressed, whole, data, accuracy))
        export_saved_model(compressed, folder / f"compressed-{share:g}", sample)
    (folder / "trade_offs.json").write_text(json.dumps([r.to_json() for r in rows], indent=1))
    (folder / "compressed.md").write_text(markdown(rows))
    wide_console().print(Markdown(markdown(rows)))
    return rows


def _row(
    method: str,
    seed: int,
    keep: float,
    model: Model,
    whole: Cost,
    data: Data,
    accuracy: Accuracy,
) -> TradeOff:
    cost = inspect_keras_model(model).cost
    ratios = cost.params / whole.params, cost.macs / whole.macs
    valid, test = accuracy(model, data.valid), accuracy(model, data.test)
    return TradeOff(method, seed, keep, cost.params, cost.macs, *ratios, 0, valid, test)
