"""Compress and retrain: train, compress, train the last epochs again, at several ratios.

References:
  Liebenwein, Maalouf, Gal, Feldman and Rus: Compressing Neural Networks: Towards
  Determining the Optimal Layer-wise Decomposition, 2021, supplement, Algorithm of the
  compress-retrain cycle and Table 3; Renda, Frankle and Carbin: Comparing Rewinding and
  Fine-tuning in Neural Network Pruning, 2020 (learning-rate rewinding).
"""

import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from tensorflow import keras

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.fitting import make_score
from tfapprox.planning import make_plan
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_model import rewrite_keras_model
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.greedy import Score
from tfapprox.selection.problem import Budget
from tfapprox.training.best_epoch import BestEpochTraining, RetrainData, write_whole
from tfapprox.training.snapshots import read_record
from tfapprox.training.switching import (
    check_trainable,
    decompose_model,
    prune_model,
    reconstruct_model,
)
from tfapprox.training.trade_off import TradeOff

_PRUNING_EXAMPLES = 256

_LOG = logging.getLogger(__name__)

Mode = Literal["compress_only", "one_shot", "iterative"]


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
    """How to compress, how far, and how long to train.

    Attributes:
      compression: its budget gives the kind of cost; the ratios are these.
      keeps: shares of the original's cost that remain, falling, each in (0, 1).
      epochs: of the training before (e).
      retrain_epochs: of the retraining after each compression (r), which takes the
        schedule's last r epochs, [e - r, e], again.
      mode: "compress_only"; "one_shot": each ratio from the dense model; "iterative":
        each from the retrained model before it, composed back to dense kernels.
      name: of the method in tables; "" is the selector's.
      seed: noted in the rows.
    """

    compression: CompressionConfig
    keeps: tuple[float, ...]
    epochs: int
    retrain_epochs: int
    mode: Mode = "one_shot"
    name: str = ""
    seed: int = 0

    def __post_init__(self):
        if self.mode not in ("compress_only", "one_shot", "iterative"):
            raise UserError(f"mode must be compress_only, one_shot or iterative, got {self.mode!r}")
        if not isinstance(self.keeps, Sequence) or isinstance(self.keeps, str):
            raise UserError(f"keeps must be a tuple of ratios, e.g. (0.7, 0.5), got {self.keeps!r}")
        falling = list(self.keeps) == sorted(set(self.keeps), reverse=True)
        if not self.keeps or not falling or not 0 < self.keeps[-1] <= self.keeps[0] < 1:
            raise UserError(f"keeps must be falling ratios in (0, 1), got {self.keeps}")
        if not 0 < self.retrain_epochs <= self.epochs:
            raise UserError(
                f"retrain_epochs must be in [1, {self.epochs}], as these are the schedule's last, "
                f"got {self.retrain_epochs}"
            )

    @property
    def method(self) -> str:
        return self.name or self.compression.selector


def cascade(last: float, alpha: float = 0.8) -> tuple[float, ...]:
    """Returns the ratios alpha, alpha^2, ... down to the first that is at most `last`.

    Raises:
      UserError: either is not in (0, 1).
    """
    if not (0 < last < 1 and 0 < alpha < 1):
        raise UserError(f"a list of ratios alpha^i needs both in (0, 1), got {alpha} to {last}")
    steps = math.ceil(round(math.log(last) / math.log(alpha), 9))
    return tuple(alpha**i for i in range(1, steps + 1))


def compress_retrain(
    model: Any, data: RetrainData, config: RetrainConfig, folder: str | pathlib.Path
) -> list[TradeOff]:
    """Trains, compresses and retrains; returns the dense row and one for each ratio.

    `folder`/dense holds the trained model, `folder`/METHOD-MODE-KEEP each compressed
    one: model.keras (the best validation epoch), plan.json, and row.json once it is
    finished. What is finished is not done again, so methods with one folder share the
    dense training, and a killed run goes on after the last whole epoch, to the numbers
    it would have reached anyway. A ratio that the method can't reach is left out with a
    warning, and so are smaller ones.

    Args:
      model: compiled Keras 3 model with the metric "accuracy", untrained. Its learning
        rate follows a schedule of the optimizer's step count, or is constant.
      data: see `RetrainData`.
      config: see `RetrainConfig`.
      folder: belongs to this network, data and seed.

    Raises:
      UserError: the model is of another kind, or what is in the folder.
    """
    check_trainable(model)
    folder = pathlib.Path(folder)
    whole = inspect_keras_model(model).cost
    run = BestEpochTraining(data, config.seed, (whole.params, whole.macs))
    dense, row = run.train(model, folder / "dense", range(config.epochs), "dense", 1.0)
    steps = (read_record(folder / "dense" / "training.npz") or {})["steps"]
    rows, source = [row], dense
    for keep, place in _places(folder, config):
        try:
            if config.compression.pruning is not None:
                compressed = _pruned(source, config, keep, whole, place, data)
            else:
                plan = _plan(source, config, keep, place, lambda m: run.accuracy(m, data.valid))
                compressed = decompose_model(source, plan)
        except InfeasibleBudgetError as error:
            _LOG.warning("%s stops before keep %g: %s", config.method, keep, error)
            break
        epochs = range(config.epochs - config.retrain_epochs, config.epochs)
        _rewind(compressed, round(steps / config.epochs * epochs.start))
        if config.mode == "compress_only":
            epochs = range(config.epochs, config.epochs)
        compressed, row = run.train(compressed, place, epochs, config.method, keep)
        rows.append(row)
        if config.mode == "iterative":
            source = reconstruct_model(compressed)
    return rows


def load_model(folder: str | pathlib.Path, row: TradeOff, mode: Mode = "one_shot") -> Any:
    """Returns the model behind a row of `compress_retrain`.

    Raises:
      UserError: the folder does not hold it.
    """
    name = "dense" if row.method == "dense" else f"{row.method}-{mode}-{row.keep:.4f}"
    path = pathlib.Path(folder) / name / "model.keras"
    if not path.is_file():
        raise UserError(
            f"{path} is not there: give the folder and the mode of the compress_retrain that "
            "returned the row"
        )
    return keras.models.load_model(path)


def _places(folder: pathlib.Path, config: RetrainConfig) -> Iterator[tuple[float, pathlib.Path]]:
    for keep in config.keeps:
        yield keep, folder / f"{config.method}-{config.mode}-{keep:.4f}"


def _plan(
    model: Any,
    config: RetrainConfig,
    keep: float,
    place: pathlib.Path,
    accuracy: Callable[[Any], float],
) -> Plan:
    path = place / "plan.json"
    if path.exists():
        return Plan.from_json(path.read_text(), str(path))
    budget = Budget(config.compression.budget.kind, keep=keep)
    compression = dataclasses.replace(config.compression, budget=budget)
    inspection, score = inspect_keras_model(model), None
    if compression.selector == "greedy":
        # Of the model before this compression: one-shot ratios share the scores.
        scores = (place if config.mode == "iterative" else place.parent) / "scores.json"
        score = score_by_accuracy(model, accuracy, scores)
    plan = make_plan(inspection, compression, SpectrumCache(), score=score)
    write_whole(path, plan.to_json())
    return plan


def _pruned(
    model: Any,
    config: RetrainConfig,
    keep: float,
    whole: Cost,
    place: pathlib.Path,
    data: RetrainData,
) -> Any:
    """Returns the model without the channels that the plan, made or found, removes."""
    path, kind = place / "plan.json", config.compression.budget.kind
    plan = Plan.from_json(path.read_text(), str(path)) if path.exists() else None
    # Of the original: an iteration starts from a model that has lost channels already.
    budget = Budget(kind, limit=keep * getattr(whole, kind))
    compression = dataclasses.replace(config.compression, budget=budget)
    first = next(iter(data.train(0).unbatch().batch(_PRUNING_EXAMPLES)))
    pruned, plan = prune_model(model, compression, plan, first[0].numpy())
    if not path.exists():
        write_whole(path, plan.to_json())
    return pruned


def score_by_accuracy(model: Any, accuracy: Callable[[Any], float], scores: pathlib.Path) -> Score:
    """Returns what the selector greedy asks: a compiled model's accuracy with a site replaced.

    Args:
      accuracy: of a model that is compiled as `model` is.
      scores: a file that remembers them.
    """
    scores.parent.mkdir(parents=True, exist_ok=True)

    def evaluate_with(factorizations: dict[str, Factorization]) -> float:
        if not factorizations:
            return accuracy(model)
        with model.distribute_strategy.scope():
            rewritten = rewrite_keras_model(model, factorizations)
            rewritten.compile_from_config(model.get_compile_config())
        return accuracy(rewritten)

    return make_score(inspect_keras_model(model).sites, evaluate_with, scores)


def _rewind(model: Any, steps: int) -> None:
    """Gives the model a new optimizer that is as many steps into the schedule."""
    with model.distribute_strategy.scope():
        model.compile_from_config(model.get_compile_config())
    model.optimizer.iterations.assign(steps)
