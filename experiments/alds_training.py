"""Trains networks, compresses them by ALDS and its rivals, and trains them again."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any, Literal

from rich.markdown import Markdown

from experiments.console import wide_console
from experiments.export import export_saved_model
from experiments.image_training import ImageTraining, keep_to_model_dir
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.registry import PRUNINGS
from tfapprox.selection.problem import Budget
from tfapprox.training.compress_retrain import (
    RetrainConfig,
    RetrainData,
    compress_retrain,
    load_model,
)
from tfapprox.training.trade_off import TradeOff, largest_compression, markdown, plot

_ALL_SLICES = (1, 2, 3, 4, 8)
_ABOUT_THREE = (2, 3, 4)  # k = 3 as published, and the nearest where it divides no channels

# Selector, decompositions or pruning, and what the candidates are: schemes and channel slices.
METHODS: dict[str, tuple[str, tuple[str, ...], CandidateOptions]] = {
    "alds": ("alds", ("svd",), CandidateOptions((0,), _ALL_SLICES, 1)),
    "alds+": ("alds", ("svd", "tucker2"), CandidateOptions((0, 1, 2, 3), _ALL_SLICES, 1)),
    "alds_alternating": ("alds_alternating", ("svd",), CandidateOptions((0,), _ALL_SLICES, 1)),
    "alds_error": ("alds_error", ("svd",), CandidateOptions((0,), _ABOUT_THREE, 1)),
    "alds_simple": ("alds_simple", ("svd",), CandidateOptions((0,), _ABOUT_THREE, 1)),
    "svd_error": ("svd_error", ("svd",), CandidateOptions((0,), (1,), 1)),
    "svd": ("uniform", ("svd",), CandidateOptions((0,), (1,), 1)),
    "svd_energy": ("energy", ("svd",), CandidateOptions((0,), (1,), 1)),
    "l_rank": ("lrank", ("svd",), CandidateOptions((0,), (1,), 1)),
    "pca": ("pca", ("svd",), CandidateOptions((0,), (1,), 1)),
    # Stored, and counted, as what it runs as: a dense stage with zeros for other blocks.
    "messi": ("alds_simple", ("messi",), CandidateOptions((0,), _ABOUT_THREE, 1)),
    "ft": ("uniform", ("ft",), CandidateOptions()),
    "pfp": ("alds", ("pfp",), CandidateOptions()),
}


@dataclasses.dataclass(frozen=True)
class AldsExperiment:
    """What to train, and how to compress it.

    Attributes:
      training: network, data, schedule, seeds.
      methods: among METHODS.
      keeps, retrain_epochs, mode: see `RetrainConfig`.
      cost: what the keeps are shares of.
      drop: largest loss of validation accuracy of the model that is exported.
      exclude: regular expression of the layers that are not decomposed. (Pruning, which
        leaves the logits alone by itself, needs their inputs: it takes no notice.)
    """

    training: ImageTraining
    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    retrain_epochs: int
    mode: Any = "one_shot"
    drop: float = 0.005
    exclude: str | None = None
    cost: Literal["params", "macs"] = "params"

    def __post_init__(self):
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise UserError(f"--methods must be among {', '.join(METHODS)}, got {self.methods}")
        self.config_of(self.methods[0], 0)

    @property
    def result_settings(self) -> dict[str, Any]:
        """What the results of every method, seed and ratio depend on."""
        names = ("retrain_epochs", "exclude", "cost")
        own = {name: getattr(self, name) for name in names}
        # Where each ratio starts from the one before it, others are another way there.
        chain = {"iterative_keeps": self.keeps} if self.mode == "iterative" else {}
        return self.training.result_settings | own | chain

    def config_of(self, method: str, seed: int) -> RetrainConfig:
        """Returns a method's settings."""
        selector, decompositions, candidates = METHODS[method]
        compression = CompressionConfig(
            Budget(self.cost, keep=0.5),
            selector,
            decompositions,
            exclude=None if decompositions[0] in PRUNINGS else self.exclude,
            candidates=candidates,
        )
        return RetrainConfig(
            compression,
            self.keeps,
            self.training.config.epochs,
            self.retrain_epochs,
            self.mode,
            method,
            seed,
        )


def run_experiment(experiment: AldsExperiment) -> list[TradeOff]:
    """Compresses by every method with every seed; writes results.json, .md and .png.

    The dense network is trained once a seed, in model_dir/SEED. The largest compression
    of each method within the drop goes to model_dir/SEED/METHOD-chosen as a SavedModel.
    What is finished is not done again.

    Raises:
      UserError: data are missing, the settings do not fit the network, or model_dir has
        results of others.
    """
    config = experiment.training.config
    data = experiment.training.load()
    keep_to_model_dir(experiment)
    rows: dict[tuple, TradeOff] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for method in experiment.methods:
            own = _compress(experiment, data, method, seed)
            rows |= {(row.method, row.seed, row.keep): row for row in own}
            _write(experiment, list(rows.values()))
    wide_console().print(Markdown(markdown(list(rows.values()))))
    return list(rows.values())


def _compress(experiment: AldsExperiment, data: Any, method: str, seed: int) -> list[TradeOff]:
    training = experiment.training
    folder = training.config.model_dir / str(seed)
    rows = compress_retrain(
        training.model(data, seed),
        RetrainData(
            lambda epoch: training.batches(data, seed, epoch),
            training.examples(data.valid),
            training.examples(data.test),
        ),
        experiment.config_of(method, seed),
        folder,
    )
    chosen = largest_compression(rows[1:], rows[0], experiment.drop)
    if chosen is None:
        logging.warning("seed %d: %s loses more than the drop at every ratio", seed, method)
    else:
        model = load_model(folder, chosen, experiment.mode)
        export_saved_model(model, folder / f"{method}-chosen", training.sample(data))
    return rows


def _write(experiment: AldsExperiment, rows: Sequence[TradeOff]) -> None:
    training = experiment.training
    folder = training.config.model_dir
    body = {
        "config": training.config.to_json(),
        "network": training.network,
        "mode": experiment.mode,
        "exclude": experiment.exclude,
        "cost": experiment.cost,
        "retrain_epochs": experiment.retrain_epochs,
        "rows": [row.to_json() for row in rows],
    }
    (folder / "results.json").write_text(json.dumps(body, indent=1))
    (folder / "results.md").write_text(markdown(rows))
    plot(rows, f"{training.network}, {experiment.mode}", folder / "results.png")
