"""Turns the Dense and Conv2D layers of a Keras model into column-row-sampled ones, and back."""

import dataclasses
import math
import re
import statistics
import time
from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.column_row_sampled import ColumnRowSampled
from tfapprox.layers.crs_conv2d import CRSConv2D
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.layers.crs_einsum_dense import CRSEinsumDense, contracted_axes
from tfapprox.rewriters.keras_clone import live_config
from tfapprox.rewriters.keras_graph import check_graph_model, layers_by_path, nodes_of
from tfapprox.rewriters.layer_substitution import Factory, substitute_layers
from tfapprox.rewriters.model_compute import model_layers
from tfapprox.sampling.settings import Sampling

SAMPLED = {
    keras.layers.Dense: CRSDense,
    keras.layers.Conv2D: CRSConv2D,
    keras.layers.EinsumDense: CRSEinsumDense,
}
_REPEATS = 7


@dataclasses.dataclass(frozen=True)
class ApproximateTrainingConfig:
    """Which layers are sampled, and how.

    Attributes:
      sampling: of every sampled layer.
      include, exclude: regular expressions searched in the layers' paths.
      min_width: layers with fewer input features or channels stay exact: there is
        little to choose among.
      input_conv: sample a convolution that reads the model's input, too. Its few
        channels carry everything; the papers keep it exact.
      batch_size: of the training to come. When given, every layer is timed at it on
        this machine, forward and backward, and stays exact unless sampling makes it
        `min_speedup` times faster.
      min_speedup: see above.
      seed: of the draws.
    """

    sampling: Sampling
    include: str = ""
    exclude: str | None = None
    min_width: int = 16
    input_conv: bool = False
    batch_size: int | None = None
    min_speedup: float = 1.05
    seed: int = 0

    def __post_init__(self):
        if not isinstance(self.sampling, Sampling):
            raise UserError(
                "sampling must be a Sampling, e.g. Sampling(forward_ratio=0.5), "
                f"got {self.sampling!r}"
            )
        for flag in ("include", "exclude"):
            try:
                re.compile(getattr(self, flag) or "")
            except re.error as error:
                raise UserError(f"{flag} is not a regular expression: {error}") from error


@dataclasses.dataclass(frozen=True)
class SamplingVerdict:
    """What happens to one layer.

    Attributes:
      layer: path in the model.
      sampled: whether its products are sampled now.
      reason: why not, or "".
      speedup: measured, exact over sampled time; None when not measured.
    """

    layer: str
    sampled: bool
    reason: str = ""
    speedup: float | None = None


def approximate_training(
    model: Any, config: ApproximateTrainingConfig
) -> tuple[Any, tuple[SamplingVerdict, ...]]:
    """Returns a copy of the model that trains on samples, and a verdict for each linear layer.

    Weights are carried over; the copy is not compiled. It evaluates and predicts
    exactly as the original.

    Args:
      model: Sequential or Functional Keras model; never changed.

    Raises:
      UserError: no graph model, of the other Keras flavour, or no layer is eligible
        by `include` and `exclude`.
    """
    if not isinstance(config, ApproximateTrainingConfig):
        raise UserError(
            f"config must be an ApproximateTrainingConfig, got {config!r}: write "
            "ApproximateTrainingConfig(Sampling(forward_ratio=0.5))"
        )
    _check_flavour(model)
    first = {entry.name for entry in model_layers(model) if entry.first}
    shapes = _input_shapes(model)
    verdicts = []
    factories: dict[str, Factory] = {}
    for path, layer in layers_by_path(model).items():
        if type(layer) not in SAMPLED:
            continue
        is_first = layer.name in first
        verdict = _judge(path, layer, config, is_first, shapes.get(id(layer)))
        verdicts.append(verdict)
        if verdict.sampled:
            factories[path] = _factory(config, is_first)
    if not any(_admits(config, verdict.layer) for verdict in verdicts):
        raise UserError(
            f"no Dense, Conv2D or EinsumDense layer of {model.name!r} passes include "
            f"{config.include!r} and exclude {config.exclude!r}"
        )
    return substitute_layers(model, factories), tuple(verdicts)


def annotate(
    layer: Any, sampling: Sampling, first_layer: bool = False, seed: int = 0
) -> ColumnRowSampled:
    """Returns an unbuilt sampled layer with the configuration of a stock one.

    Args:
      layer: Dense, Conv2D or EinsumDense.

    Raises:
      UserError: another type, or a layer that can't be sampled, with the reason.
    """
    if type(layer) not in SAMPLED:
        names = ", ".join(stock.__name__ for stock in SAMPLED)
        raise UserError(f"layer {layer.name} is a {type(layer).__name__}; sampled are {names}")
    own = {"sampling": sampling, "first_layer": first_layer, "seed": seed}
    try:
        return SAMPLED[type(layer)].from_config(live_config(layer) | own)
    except TypeError as error:
        # Keras 3 wraps whatever a constructor raises.
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        raise


def strip(model: Any) -> Any:
    """Returns the model with stock layers in place of sampled ones, weights and names kept.

    Raises:
      UserError: no graph model, or it has no sampled layer.
    """
    _check_flavour(model)
    stock = {sampled: plain for plain, sampled in SAMPLED.items()}
    sampled = {p: x for p, x in layers_by_path(model).items() if isinstance(x, ColumnRowSampled)}
    if not sampled:
        raise UserError(
            f"model {model.name!r} has no sampled layer to strip: its layers are stock ones already"
        )

    def make(layer: Any) -> Any:
        own = ("sampling", "first_layer", "seed")
        config = {k: v for k, v in live_config(layer).items() if k not in own}
        return _filled(stock[type(layer)].from_config(config), layer)

    return substitute_layers(model, dict.fromkeys(sampled, make))


def _factory(config: ApproximateTrainingConfig, first: bool) -> Factory:
    def make(layer: Any) -> Any:
        return _filled(annotate(layer, config.sampling, first, config.seed), layer)

    return make


def _filled(new: Any, old: Any) -> Any:
    """Returns what applies `new`, which takes the weights of `old` once it is built."""

    def apply(x: Any) -> Any:
        built = new.built
        output = new(x)
        if not built:
            new.trainable = old.trainable
            new.kernel.assign(old.kernel)
            if old.bias is not None:
                new.bias.assign(old.bias)
        return output

    return apply


def _admits(config: ApproximateTrainingConfig, path: str) -> bool:
    excluded = config.exclude is not None and re.search(config.exclude, path)
    return bool(re.search(config.include, path)) and not excluded


def _judge(
    path: str, layer: Any, config: ApproximateTrainingConfig, first: bool, shape: Any
) -> SamplingVerdict:
    if not _admits(config, path):
        return SamplingVerdict(path, False, "left out by include or exclude")
    try:
        sampled = annotate(layer, config.sampling, first, config.seed)
    except UserError as error:
        return SamplingVerdict(path, False, str(error))
    width = _contracted_size(layer)
    if first and isinstance(layer, keras.layers.Conv2D) and not config.input_conv:
        return SamplingVerdict(path, False, "reads the model's input (input_conv is off)")
    if width < config.min_width:
        return SamplingVerdict(path, False, f"{width} inputs, fewer than {config.min_width}")
    if config.batch_size is None:
        return SamplingVerdict(path, True)
    if shape is None or None in shape[1:]:
        return SamplingVerdict(path, True, "not measured: its input size is open")
    speedup = measure_speedup(sampled, (config.batch_size, *shape[1:]))
    if speedup < config.min_speedup:
        reason = f"sampling does not pay: {speedup:.2f}x at batch {config.batch_size}"
        return SamplingVerdict(path, False, reason, speedup)
    return SamplingVerdict(path, True, "", speedup)


def _contracted_size(layer: Any) -> int:
    if isinstance(layer, keras.layers.EinsumDense):
        return math.prod(layer.kernel.shape[: contracted_axes(layer.equation)])
    return int(layer.kernel.shape[-2])


def measure_speedup(layer: ColumnRowSampled, input_shape: tuple[int, ...]) -> float:
    """Returns exact over sampled time of one forward and backward pass, medians of some runs.

    Both forms are compiled as this Keras flavour compiles its train step: by XLA in
    Keras 3, not in tf_keras. Runs alternate, so that a busy machine slows both.
    """
    x = tf.random.stateless_normal(input_shape, [0, 1])
    layer(x)

    def step(training: bool) -> Any:
        @tf.function(jit_compile=hasattr(keras, "ops"))
        def run(x: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, training=training) ** 2)
            sources = [] if layer.first_layer else [x]
            return tape.gradient(loss, [*sources, *tape.watched_variables()])

        return run

    steps = [step(training) for training in (False, True)]
    times: list[list[float]] = [[], []]
    for repeat in range(_REPEATS + 1):
        for run, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            run(x)
            if repeat:
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def _input_shapes(model: Any) -> dict[int, tuple]:
    shapes = {}
    for layer, args, kwargs, _ in nodes_of(model):
        source: Any = args[0] if args else next(iter(kwargs.values()), None)
        if hasattr(source, "shape"):
            shapes[id(layer)] = tuple(source.shape)
    return shapes


def _check_flavour(model: Any) -> None:
    if check_graph_model(model).layers.Layer is not keras.layers.Layer:
        raise UserError(
            f"model {model.name!r} is of the other Keras flavour than tensorflow.keras; set "
            "TF_USE_LEGACY_KERAS=1 for tf_keras, unset it for Keras 3"
        )
