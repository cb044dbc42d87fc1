"""Networks, data and optimizer of the experiments that decompose image classifiers."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags, logging
from tensorflow import keras

from experiments.command import run_command, save_flags
from experiments.config import ExperimentConfig, show_in_help
from experiments.datasets import Data, Split, load_images
from experiments.harness import strategy_of
from experiments.images import crop_and_flip, whiten
from experiments.models.densenet import DenseNetConfig, densenet
from experiments.models.resnet_cifar import resnet_cifar
from experiments.models.vgg import vgg
from experiments.models.wide_resnet import wide_resnet
from experiments.resumable_training import training_batches
from experiments.settings_file import keep_to_settings
from experiments.task import Task
from tfapprox.errors import UserError

_SIZE = 32


@keras.utils.register_keras_serializable("tfapprox_experiments")
class StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly and then falls in steps."""

    def __init__(self, rate: float, warmup: int, boundaries: Sequence[int], decay: float):
        """Args: warmup, boundaries: in steps; at each boundary the rate is multiplied."""
        self._rate, self._warmup = rate, warmup
        self._boundaries, self._decay = list(boundaries), decay

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        passed = tf.reduce_sum(tf.cast(step >= self._boundaries, tf.float32))
        rise = tf.minimum(1.0, (step + 1.0) / max(1, self._warmup))
        return self._rate * rise * self._decay**passed

    def get_config(self) -> dict[str, Any]:
        return {
            "rate": self._rate,
            "warmup": self._warmup,
            "boundaries": self._boundaries,
            "decay": self._decay,
        }


@dataclasses.dataclass(frozen=True)
class ImageTraining:
    """What to train on what.

    Attributes:
      config: data, epochs, batch size, learning rate, first seed; it samples nothing.
      network: see `build_network`.
      augment: random crops and flips.
      train_examples: use only so many; 0 is all.
      warmup: share of the epochs in which the learning rate rises from 0.
      milestones, decay: shares of the epochs after which it is multiplied by `decay`.
      weight_decay, nesterov: of SGD with momentum 0.9.
      image_size: height and width; 16 averages 2x2 pixels, for quick runs.
      padding: pixels around an image of which augmentation takes a crop.
    """

    config: ExperimentConfig
    network: str
    augment: bool = True
    train_examples: int = 0
    warmup: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    decay: float = 0.1
    weight_decay: float = 1e-4
    nesterov: bool = False
    image_size: int = _SIZE
    padding: int = 2

    def __post_init__(self):
        if self.image_size not in (_SIZE, _SIZE // 2):
            raise UserError(f"--image_size must be {_SIZE} or {_SIZE // 2}, got {self.image_size}")

    @property
    def result_settings(self) -> dict[str, Any]:
        """What the trained weights depend on, the seed apart."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return own | {"config": self.config.settings_of("exact")}

    def load(self) -> Data:
        """Returns the data, cut short if asked for: no more is validated than trained on.

        Raises:
          UserError: they are not there, or are fewer than a batch.
        """
        config = self.config
        data = load_images(config.dataset, config.data_dir, (_SIZE, _SIZE, 3), config.seed)
        count = self.train_examples or len(data.train)
        parts: dict[str, Any] = {
            name: Split(_shrink(part.x[:limit], self.image_size), part.y[:limit])
            for name, part, limit in (
                ("train", data.train, count),
                ("valid", data.valid, count),
                ("test", data.test, None),
            )
        }
        data = dataclasses.replace(data, **parts)
        data.require_batch(config.batch_size)
        return data

    def model(self, data: Data, seed: int) -> Any:
        """Returns the network with fresh weights, compiled with its schedule."""
        keras.utils.set_random_seed(seed)
        model = build_network(self.network, data.classes, self.image_size)
        config = self.config
        total = config.epochs * (len(data.train) // config.batch_size)
        schedule = StepSchedule(
            config.learning_rate,
            round(total * self.warmup),
            [round(total * share) for share in self.milestones],
            self.decay,
        )
        model.compile(
            keras.optimizers.SGD(
                schedule, momentum=0.9, nesterov=self.nesterov, weight_decay=self.weight_decay
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=config.jit_compile,
        )
        return model

    def batches(self, data: Data, seed: int, epoch: int) -> tf.data.Dataset:
        """Returns an epoch's training batches, in an order set by seed and epoch."""
        return training_batches(self._task, data, self.config.batch_size, seed, epoch)

    def examples(self, split: Split) -> tf.data.Dataset:
        """Returns batches to evaluate on."""
        batches = tf.data.Dataset.from_tensor_slices((split.x, split.y)).batch(250)
        return batches.map(lambda x, y: (whiten(x), y))

    def sample(self, data: Data) -> np.ndarray:
        """Returns two inputs of the network."""
        return np.asarray(whiten(data.test.x[:2]))

    @property
    def _task(self) -> Task:
        # Only the preparation of batches is taken from it.
        nothing: Any = None
        crop = functools.partial(crop_and_flip, padding=self.padding)
        prepare = crop if self.augment else None
        return Task(self.network, nothing, nothing, nothing, whiten, prepare=prepare)


@contextlib.contextmanager
def training_process(config: ExperimentConfig) -> Iterator[None]:
    """Trains whatever is built inside by the configuration's strategy and dtype policy.

    The models that decomposing makes on the way belong to it too.
    """
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy(config.mixed_precision)
    try:
        with strategy_of(config).scope():
            yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def define_training_flags(values: flags.FlagValues) -> None:
    """Defines the flags that all binaries have which train image classifiers."""
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
    flags.DEFINE_bool("augment", True, "Random crops and flips; leave off for digits.", **own)
    flags.DEFINE_integer("train_examples", 0, "Use only so many training images; 0 is all.", **own)
    flags.DEFINE_integer("image_size", _SIZE, "32, or 16 for quick runs.", **own)
    flags.DEFINE_integer("seed", 0, "First seed: of weights and order of examples.", **own)
    flags.DEFINE_integer("seeds", 1, "How many seeds.", **own)
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
        "Keras dtype policy.",
        **own,
    )
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA.", **own)
    show_in_help(values, __name__)


def shares(flag: str, words: Sequence[str]) -> tuple[float, ...]:
    """Returns the numbers of a list flag.

    Raises:
      UserError: one is none.
    """
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise UserError(f"--{flag} needs numbers, e.g. 0.5,0.3, got {words}") from error


def run_from_flags(
    name: str,
    argv: Sequence[str],
    experiment_from_flags: Callable[[flags.FlagValues], Any],
    run_experiment: Callable[[Any], object],
) -> int:
    """Runs the experiment of a binary; returns the exit status, 2 for a user's mistake.

    Args:
      name: of the binary, in front of its messages.
      argv: what absl left of the command line.
      experiment_from_flags: returns an experiment that has `training.config`.
      run_experiment: trains and writes results.
    """
    logging.set_verbosity(logging.INFO)

    def train() -> None:
        experiment = experiment_from_flags(flags.FLAGS)
        # Those of `define_training_flags`, and the binary's own.
        folder = experiment.training.config.model_dir
        save_flags(flags.FLAGS, folder, of=("model_dir", "network"))
        logging.info("%s: %s", name, length_of(experiment, flags.FLAGS.preset))
        with training_process(experiment.training.config):
            run_experiment(experiment)

    return run_command(name, argv, train)


def keep_to_model_dir(experiment: Any) -> None:
    """Makes sure that what is in model_dir, if anything, was trained with the same settings.

    Args:
      experiment: has `training.config` and `result_settings`.

    Raises:
      UserError: there are results of others.
    """
    file = experiment.training.config.model_dir / "settings.json"
    remedy = f"give what {file} says, or another --model_dir"
    keep_to_settings(file, experiment.result_settings, remedy)


def length_of(experiment: Any, preset: str) -> str:
    """Returns how much there is to train, and how to ask for less of it."""
    config = experiment.training.config
    told = (
        f"{config.epochs} epochs a training of {experiment.training.network}, "
        f"methods: {len(experiment.methods)}, seeds: {config.seeds}"
    )
    return told if preset == "small" else f"{told}; --preset=small takes minutes"


def build_network(name: str, classes: int, size: int = _SIZE) -> Any:
    """Returns a fresh network for colour images of `size` squared, in the papers' forms.

    Args:
      name: vgg16, vgg19 (vgg19-8: 8 filters in the first block instead of 64),
        resnet20 and deeper ones (resnet20b: 1x1 convolutions as shortcuts),
        densenet40 (k = 12), densenet22 (k = 12, BC), wrn16-8 and others.

    Raises:
      UserError: no such network; the message lists the names.
    """
    shape = (size, size, 3)
    try:
        if match := re.fullmatch(r"vgg(16|19)(?:-(\d+))?", name):
            # Either paper's own: convolutions of VGG19 have no biases.
            depth, width = int(match[1]), int(match[2] or 64)
            return vgg(depth, classes, shape, width, use_bias=depth == 16)
        if match := re.fullmatch(r"resnet(\d+)(b?)", name):
            return resnet_cifar(int(match[1]), "B" if match[2] else "A", classes, shape)
        if name == "densenet40":
            dense = DenseNetConfig(
                40, 12, bottleneck=False, reduction=1.0, classes=classes, input_shape=shape
            )
            return densenet(dense)
        if name == "densenet22":
            return densenet(DenseNetConfig(22, 12, classes=classes, input_shape=shape))
        if match := re.fullmatch(r"wrn(\d+)-(\d+)", name):
            return wide_resnet(int(match[1]), int(match[2]), classes, shape)
    except ValueError as error:  # a depth that does not divide
        raise UserError(f"--network={name}: {error}") from error
    raise UserError(
        f"unknown --network={name}: vgg16, vgg19[-WIDTH], resnet20[b], resnet56[b], densenet40, "
        "densenet22 or wrn<depth>-<widening>"
    )


def _shrink(images: np.ndarray, size: int) -> np.ndarray:
    """Returns the images with pixels averaged until their height and width are `size`."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, size, height // size, size, width // size, channels)
    return np.rint(blocks.mean(axis=(2, 4))).astype(images.dtype) if height > size else images
