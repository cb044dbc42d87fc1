"""Trains networks with slice-generated convolutions, and what the paper compares them with.

The paper's first row of Table 1, with its test error and parameters side by side:

  python -m experiments.cifar_csg --model_dir=DIR --dataset=cifar10 --seeds=3 \\
    --network=densenet-bc-40-48 --batch_size=128 --methods=plain,csg,bcsg

That and the defaults are 200 epochs a training; --network=resnet8 --epochs=2
--train_examples=512 --batch_size=32 shows one run.

Each training leaves checkpoints, metrics.jsonl, a SavedModel with dense kernels, one with
codes and generator folded at load, and generator.npz, which --methods=pretrained takes as
--generator. Several trainings leave results.json and results.md, a table like Table 4.
post and post_tuned fit codes and generator to the trained plain network, without and with
further training.

References: Omidvar, Akhlaghi, Su, Franceschetti and Gupta, "Associative Convolutional
Layers", AISTATS 2021, Tables 1 and 4.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from experiments.command import run_command, save_flags
from experiments.config import ExperimentConfig
from experiments.csg_methods import METHODS, SliceSettings, find_network
from experiments.csg_training import CsgExperiment, run_experiment
from tfapprox.errors import UserError


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("model_dir", "", "Where results go (required).", **own)
    flags.DEFINE_string(
        "dataset",
        "digits",
        "digits (scikit-learn), synthetic; any other name is read from --data_dir (IDX files) or "
        "loaded by TensorFlow Datasets, e.g. cifar10.",
        **own,
    )
    flags.DEFINE_string("data_dir", "", "Directory with the data set's files.", **own)
    flags.DEFINE_integer("image_size", 32, "Images are brought to this height and width.", **own)
    flags.DEFINE_bool("augment", True, "Random crops and flips; leave off for digits.", **own)
    flags.DEFINE_integer("train_examples", 0, "Use only so many training images; 0 is all.", **own)
    flags.DEFINE_string("network", "resnet20", "e.g. resnet56, densenet-bc-40-48, vgg16.", **own)
    flags.DEFINE_list("methods", ["csg"], f"What to train, among {', '.join(METHODS)}.", **own)
    flags.DEFINE_list("slice_shape", [], "Out, in, height, width; default: the paper's.", **own)
    flags.DEFINE_integer("code_size", 0, "n_c; 0 is the paper's for the network.", **own)
    flags.DEFINE_string(
        "which", "", "Regular expression of convolutions; default: the paper's.", **own
    )
    flags.DEFINE_string(
        "generator", "", "generator.npz of a csg run, for method pretrained.", **own
    )
    flags.DEFINE_integer("seed", 0, "First seed.", **own)
    flags.DEFINE_integer("seeds", 1, "How many seeds.", **own)
    flags.DEFINE_integer("epochs", 200, "Passes over the training data.", **own)
    flags.DEFINE_integer("steps", 0, "Stop after this many steps; 0 is no limit.", **own)
    flags.DEFINE_integer("tune_epochs", 0, "Those of post_tuned; 0 is a tenth of --epochs.", **own)
    flags.DEFINE_integer(
        "batch_size", 192, "Examples a step; the paper has 128 for DenseNet.", **own
    )
    flags.DEFINE_float("learning_rate", 0.05, "Divided by 10 at 1/2 and 3/4 of the epochs.", **own)
    flags.DEFINE_enum(
        "distribution_strategy",
        "none",
        ["none", "one_device", "mirrored", "multi_worker"],
        "tf.distribute strategy.",
        **own,
    )
    flags.DEFINE_enum(
        "mixed_precision",
        "float32",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Keras dtype policy; methods fp16 and csg_fp16 are mixed_float16 whatever this says.",
        **own,
    )
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA.", **own)
    flags.DEFINE_bool("deterministic", False, "Ask TensorFlow for deterministic operations.", **own)
    flags.DEFINE_integer(
        "checkpoint_steps", 0, "Steps between checkpoints; 0 is once an epoch.", **own
    )
    flags.DEFINE_bool("resume", False, "Go on from the last checkpoints in --model_dir.", **own)


def experiment_from_flags(values: flags.FlagValues) -> CsgExperiment:
    """Returns the experiment the flags describe.

    Raises:
      UserError: a flag is missing or out of range.
    """
    if not values.model_dir:
        raise UserError("--model_dir is required: it gets checkpoints, metrics and SavedModels")
    network = find_network(values.network)
    slices = SliceSettings(
        _slice_shape(values.slice_shape) or network.slice_shape,
        values.code_size or network.code_size,
        values.which or network.generated,
        values.generator,
    )
    shared = {field.name for field in dataclasses.fields(ExperimentConfig)}
    shared -= {"model_dir", "methods"}
    settings: dict[str, Any] = {name: values[name].value for name in shared if name in values}
    config = ExperimentConfig(pathlib.Path(values.model_dir), methods=("exact",), **settings)
    return CsgExperiment(
        config,
        values.network,
        slices,
        tuple(values.methods),
        image_size=values.image_size,
        augment=values.augment,
        train_examples=values.train_examples,
        tune_epochs=values.tune_epochs or max(1, values.epochs // 10),
    )


def _slice_shape(words: Sequence[str]) -> Any:
    if not words:
        return None
    try:
        sizes = tuple(int(word) for word in words)
    except ValueError:
        sizes = ()
    if len(sizes) != 4:
        raise UserError(f"--slice_shape needs four numbers, e.g. 16,16,3,3, got {words}")
    return sizes


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    logging.set_verbosity(logging.INFO)

    def train() -> None:
        experiment = experiment_from_flags(values)
        save_flags(values, experiment.config.model_dir)
        run_experiment(experiment)

    return run_command("cifar_csg", argv, train)


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
