"""Compresses and retrains networks by ALDS, ALDS+ and what the paper compares them with.

One panel of the paper's figures, with hyper-parameters of its Table 3:

  python -m experiments.cifar_alds --model_dir=DIR --dataset=cifar10 --network=resnet20b \\
    --mode=one_shot --seeds=3

--preset=small is a ResNet20 on 4,000 images of half the size for a few epochs; flags that are
given override it. What was interrupted goes on where it was, without a flag; a new run needs
a new --model_dir.

References: Liebenwein, Maalouf, Gal, Feldman and Rus, "Compressing Neural Networks:
Towards Determining the Optimal Layer-wise Decomposition", 2021, supplement, Tables 3
and 6 to 8.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.alds_training import METHODS, AldsExperiment, run_experiment
from experiments.config import ExperimentConfig
from experiments.image_training import (
    ImageTraining,
    define_training_flags,
    run_from_flags,
    shares,
)
from tfapprox.errors import UserError
from tfapprox.training.compress_retrain import cascade

# Epochs, warm-up epochs, batch size, learning rate, its decay, weight decay, Nesterov,
# and the epochs at which the rate decays.
_PAPER: dict[str, tuple[int, int, int, float, float, float, bool, tuple[int, ...]]] = {
    "vgg16": (300, 10, 256, 0.05, 0.5, 5e-4, False, tuple(range(30, 300, 30))),
    "resnet20b": (182, 5, 128, 0.1, 0.1, 1e-4, False, (91, 136)),
    "densenet22": (300, 10, 64, 0.1, 0.1, 1e-4, True, (150, 225)),
    "wrn16-8": (200, 5, 128, 0.1, 0.2, 5e-4, True, (60, 120, 180)),
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {
        "network": "resnet20b",
        "image_size": 16,
        "augment": False,
        "train_examples": 4000,
        "epochs": 8,
        "retrain_epochs": 8,
        "batch_size": 32,
        "learning_rate": 0.05,
        "keeps": ["0.3"],
        # Of 640 parameters; a common error leaves them rank 1, which can't tell 10 classes.
        "exclude": "^logits$",
        "methods": ["alds", "svd", "ft", "svd_energy", "pfp", "pca", "l_rank"],
    },
}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum(
        "preset", "paper", list(PRESETS), "Where other flags' defaults come from.", **own
    )
    define_training_flags(values)
    flags.DEFINE_string("network", "resnet20b", f"{', '.join(_PAPER)}, and others.", **own)
    flags.DEFINE_list(
        "methods", list(METHODS), f"How to compress, among {', '.join(METHODS)}.", **own
    )
    flags.DEFINE_enum(
        "mode",
        "one_shot",
        ["compress_only", "one_shot", "iterative"],
        "How to get to a ratio.",
        **own,
    )
    flags.DEFINE_list("keeps", [], "Shares that remain of --cost; default: alpha^i.", **own)
    flags.DEFINE_enum("cost", "params", ["params", "macs"], "What is to be saved.", **own)
    flags.DEFINE_float("alpha", 0.8, "Ratio from one step of the default list to the next.", **own)
    flags.DEFINE_float("least", 0.05, "Where the default list ends.", **own)
    flags.DEFINE_string("exclude", "", "Regular expression of layers to leave dense.", **own)
    flags.DEFINE_float("drop", 0.005, "Largest loss of accuracy of the exported models.", **own)
    flags.DEFINE_integer("epochs", 0, "Passes over the training data; 0 is the paper's.", **own)
    flags.DEFINE_integer("retrain_epochs", 0, "The schedule's last ones; 0 is all of them.", **own)
    flags.DEFINE_integer("batch_size", 0, "Examples a step; 0 is the paper's.", **own)
    flags.DEFINE_float("learning_rate", 0.0, "0 is the paper's.", **own)


def experiment_from_flags(values: flags.FlagValues) -> AldsExperiment:
    """Returns the experiment the flags describe.

    Raises:
      UserError: a flag is missing or out of range.
    """
    if not values.model_dir:
        raise UserError("--model_dir is required: it gets models, plans and results")
    for name, default in PRESETS[values.preset].items():
        if not values[name].present:
            values[name].value = default
    training = _training(values)
    return AldsExperiment(
        training,
        tuple(values.methods),
        shares("keeps", values.keeps) or cascade(values.least, values.alpha),
        values.retrain_epochs or training.config.epochs,
        values.mode,
        values.drop,
        values.exclude or None,
        values.cost,
    )


def _training(values: flags.FlagValues) -> ImageTraining:
    paper = _PAPER.get(values.network, _PAPER["resnet20b"])
    epochs, warmup, batch_size, rate, decay, weight_decay, nesterov, milestones = paper
    config = ExperimentConfig(
        pathlib.Path(values.model_dir),
        dataset=values.dataset,
        data_dir=values.data_dir,
        seed=values.seed,
        seeds=values.seeds,
        epochs=values.epochs or epochs,
        batch_size=values.batch_size or batch_size,
        learning_rate=values.learning_rate or rate,
        distribution_strategy=values.distribution_strategy,
        mixed_precision=values.mixed_precision,
        jit_compile=values.jit_compile,
    )
    return ImageTraining(
        config,
        values.network,
        values.augment,
        values.train_examples,
        warmup / epochs,
        tuple(milestone / epochs for milestone in milestones),
        decay,
        weight_decay,
        nesterov,
        values.image_size,
    )


def main(argv: Sequence[str]) -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    return run_from_flags("cifar_alds", argv, experiment_from_flags, run_experiment)


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
