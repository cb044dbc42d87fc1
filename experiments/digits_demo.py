"""Trains a small CNN on real handwritten digits, compresses it, and shows what became of it.

The whole way in a few minutes: train on scikit-learn's digits (1,797 scanned 8x8
images, a quarter held out), export a SavedModel, compress it, verify it, measure it,
and judge it by the accuracy of the reloaded SavedModel on the held-out images.

Exits with status 1 when the compressed model loses more than one point of accuracy.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

import tfapprox
from tfapprox.cli.hush import hushed_tensorflow

MAX_ACCURACY_DROP = 0.01


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Attributes:
      output_dir: gets model/, compressed/, inputs.npz, report.html and metrics.json.
      keep_macs: share of the multiply-adds to keep.
      epochs, batch_size, width: of the training; channels of the first convolution.
      seed: of the split, the initial weights and the order of examples.
    """

    output_dir: pathlib.Path
    keep_macs: float = 0.5
    epochs: int = 12
    batch_size: int = 64
    width: int = 64
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images [n, 8, 8, 1] float32 in [0, 1] and labels [n] in 0..9."""

    images: np.ndarray
    labels: np.ndarray


def load_digits(seed: int) -> tuple[Split, Split]:
    """Returns a training and a held-out part, three quarters and one, each class alike."""
    try:
        from sklearn.datasets import load_digits as sklearn_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise tfapprox.UserError(
            "the digits come with scikit-learn: pip install '.[experiments]' in the clone"
        ) from error

    digits = sklearn_digits()
    images = (digits.images[..., np.newaxis] / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=seed
    )
    return Split(train_x, train_y), Split(test_x, test_y)


def build_model(width: int) -> Any:
    """Returns a CNN of three 3x3 convolutions, the middle ones with most of the MACs."""
    from tensorflow import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(width, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="conv_3"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="digits",
    )


def train_and_export(config: DemoConfig, train: Split, target: pathlib.Path) -> None:
    """Trains the CNN and writes it as a SavedModel, as Keras exports it for serving."""
    from tensorflow import keras

    keras.utils.set_random_seed(config.seed)
    model = build_model(config.width)
    steps = config.epochs * -(-len(train.labels) // config.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train.images, train.labels, config.batch_size, config.epochs, verbose=2)
    model.export(str(target), verbose=False)


def accuracy(directory: pathlib.Path, examples: Split) -> float:
    """Returns the share of right answers of a SavedModel, loaded from disk."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    (key,) = serve.structured_input_signature[1]
    (scores,) = serve(**{key: tf.constant(examples.images)}).values()
    return float(np.mean(np.argmax(scores.numpy(), axis=-1) == examples.labels))


def run_demo(config: DemoConfig) -> dict[str, float]:
    """Runs the whole way and returns the numbers that matter.

    Returns:
      accuracy_before, accuracy_after: on the held-out images, of the reloaded SavedModels.
      macs_kept, params_kept: shares that remain.
    """
    from tfapprox.report.page import write_page
    from tfapprox.report.text import print_report
    from tfapprox.serving.signature import read_signatures

    # Wrong settings are told of before anything is trained.
    settings = tfapprox.CompressionConfig(tfapprox.Budget(keep=config.keep_macs), seed=config.seed)
    train, test = load_digits(config.seed)
    source, target = config.output_dir / "model", config.output_dir / "compressed"
    print(f"training on {len(train.labels)} images, holding out {len(test.labels)}")
    train_and_export(config, train, source)
    (key,) = read_signatures(str(source))["serving_default"].inputs
    np.savez(config.output_dir / "inputs.npz", allow_pickle=False, **{key: test.images})

    print(f"compressing to {config.keep_macs:g} of the MACs")

    def held_out_accuracy(model: str) -> float:
        return accuracy(pathlib.Path(model), test)

    report = tfapprox.compress_saved_model(
        source, target, settings,
        inputs={key: train.images[:256]}, evaluate=held_out_accuracy, overwrite=True,
    )  # fmt: skip
    assert report.scores is not None
    print_report(report)
    write_page(report, config.output_dir / "report.html")
    metrics = {
        "accuracy_before": report.scores.before,
        "accuracy_after": report.scores.after,
        "macs_kept": report.after.macs / report.before.macs,
        "params_kept": report.after.params / report.before.params,
    }
    (config.output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; only a process that runs this binary has them."""
    flags.DEFINE_string(
        "output_dir", "demo_output", "Where models and report go.", flag_values=values
    )
    define = functools.partial(flags.DEFINE_integer, flag_values=values)
    define("seed", 0, "Of the split, the weights and the order of examples.")
    define("epochs", 12, "Passes over the training images.", lower_bound=1)
    flags.DEFINE_float(
        "keep_macs", 0.5, "Share of the multiply-adds to keep, (0, 1].", flag_values=values
    )


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    config = DemoConfig(
        pathlib.Path(values.output_dir), values.keep_macs, values.epochs, seed=values.seed
    )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with hushed_tensorflow():
            metrics = run_demo(config)
    except tfapprox.UserError as error:
        print(f"digits_demo: {error}", file=sys.stderr)
        return 2
    before, after = metrics["accuracy_before"], metrics["accuracy_after"]
    print(f"accuracy on held-out digits: {before:.2%} before, {after:.2%} after")
    print(f"report: {config.output_dir / 'report.html'}; to look closer:")
    models = f"--dir {config.output_dir}/compressed --against {config.output_dir}/model"
    for command in ("verify", "benchmark"):
        print(f"  tfapprox {command} {models} --inputs {config.output_dir}/inputs.npz")
    if after < before - MAX_ACCURACY_DROP:
        print("the compressed model lost more than one point of accuracy", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main)
