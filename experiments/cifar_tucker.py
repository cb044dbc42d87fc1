"""Trains networks that are decomposed by Tucker-2 on the way, and perhaps reconstructed.

The paper's VGG19, decomposed at epoch 10, reconstructed 10 epochs before the end, or decomposed
after training and tuned; epochs of DenseNet40 and ResNet56 are their tables', too:

  python -m experiments.cifar_tucker --model_dir=DIR --dataset=cifar10 --network=vgg19 --seeds=3

--preset=small is a VGG19 of a quarter of the width on 6,000 images for twelve epochs: some
eleven minutes of one core for two methods; flags that are given override it. Trainings that were
interrupted go on where they were, without a flag; a new one needs a new --model_dir.

References: Elhoushi, Shafiq, Tian, Li and Chen, "Accelerating Training using Tensor
Decomposition", 2019, Tables 1 to 4.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.config import ExperimentConfig
from experiments.image_training import (
    ImageTraining,
    define_training_flags,
    run_from_flags,
    shares,
)
from experiments.tucker_training import METHODS, TuckerExperiment, run_experiment
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget
from tfapprox.training.decompose_in_training import DecomposeInTraining

# Epochs in all, the one that decomposes (the paper tries several), the one that reconstructs.
_PAPER: dict[str, tuple[int, int, int]] = {
    "vgg19": (200, 10, 190),
    "densenet40": (160, 20, 150),
    "resnet56": (200, 10, 190),
}
_MILESTONES = (100, 150)
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # After so few steps EVBMF finds little but noise, and one error or ratio for all layers
    # starves the first ones, which all else passes through and which have few parameters
    # to save. `lrank` spends a parameter where it says most; the multiple is its floor.
    "small": {
        "network": "vgg19-16",
        "augment": False,
        "train_examples": 6000,
        "epochs": 12,
        "at_epoch": 2,
        "reconstruct_at": 10,
        "fine_tune_epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.03,
        "milestones": ["0.67", "0.85"],
        "selector": "lrank",
        "keep": 0.1,
        "rank_multiple": 12,
        "exclude": "^logits$",
        "methods": ["decompose", "original"],
    },
}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum(
        "preset", "paper", list(PRESETS), "Where other flags' defaults come from.", **own
    )
    define_training_flags(values)
    flags.DEFINE_string(
        "network", "vgg19", f"{', '.join(_PAPER)}, and others; vgg19-8 is narrow.", **own
    )
    flags.DEFINE_list(
        "methods", list(METHODS), f"What to train, among {', '.join(METHODS)}.", **own
    )
    flags.DEFINE_integer(
        "at_epoch", None, "Decompose before this epoch (from 0); default: the paper's.", **own
    )
    flags.DEFINE_integer(
        "reconstruct_at", None, "Reconstruct before this epoch (from 0), likewise.", **own
    )
    flags.DEFINE_integer(
        "fine_tune_epochs", 40, "Epochs after decomposing what is trained already.", **own
    )
    flags.DEFINE_string("decomposition", "tucker2", "tucker2, svd, cp and others.", **own)
    flags.DEFINE_string("selector", "evbmf", "evbmf, energy, alds and others.", **own)
    flags.DEFINE_float("keep", 1.0, "Share of the parameters that may remain.", **own)
    flags.DEFINE_integer("rank_multiple", 8, "Ranks are multiples of this in large layers.", **own)
    flags.DEFINE_bool("first_layer", False, "Decompose the first layer, too.", **own)
    flags.DEFINE_string("exclude", "", "Regular expression of layers to leave dense.", **own)
    flags.DEFINE_integer("epochs", 0, "Passes over the training data; 0 is the paper's.", **own)
    flags.DEFINE_integer("batch_size", 128, "Examples a step.", **own)
    flags.DEFINE_float("learning_rate", 0.1, "Divided by 10 at each milestone.", **own)
    flags.DEFINE_list(
        "milestones", [], "Shares of the epochs, in (0, 1); default: the paper's.", **own
    )


def experiment_from_flags(values: flags.FlagValues) -> TuckerExperiment:
    """Returns the experiment the flags describe.

    Raises:
      UserError: a flag is missing or out of range.
    """
    if not values.model_dir:
        raise UserError("--model_dir is required: it gets states, metrics and SavedModels")
    for name, default in PRESETS[values.preset].items():
        if not values[name].present:
            values[name].value = default
    epochs, at_epoch, reconstruct_at = _PAPER.get(values.network, _PAPER["vgg19"])
    config = ExperimentConfig(
        pathlib.Path(values.model_dir),
        dataset=values.dataset,
        data_dir=values.data_dir,
        seed=values.seed,
        seeds=values.seeds,
        epochs=values.epochs or epochs,
        batch_size=values.batch_size,
        learning_rate=values.learning_rate,
        distribution_strategy=values.distribution_strategy,
        mixed_precision=values.mixed_precision,
        jit_compile=values.jit_compile,
    )
    settings = DecomposeInTraining(
        at_epoch if values.at_epoch is None else values.at_epoch,
        values.decomposition,
        values.selector,
        reconstruct_at if values.reconstruct_at is None else values.reconstruct_at,
        budget=Budget("params", keep=values.keep),
        first_layer=values.first_layer,
        exclude=values.exclude or None,
        candidates=CandidateOptions(rank_multiple=values.rank_multiple),
    )
    training = ImageTraining(
        config,
        values.network,
        values.augment,
        values.train_examples,
        milestones=shares("milestones", values.milestones)
        or tuple(milestone / epochs for milestone in _MILESTONES),
        image_size=values.image_size,
        padding=4,
    )
    return TuckerExperiment(training, settings, tuple(values.methods), values.fine_tune_epochs)


def main(argv: Sequence[str]) -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    return run_from_flags("cifar_tucker", argv, experiment_from_flags, run_experiment)


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
