"""Pruning, clustering and quantization-aware training by TFMOT, each checked for what it did.

TFMOT passes over what it does not handle: it leaves layers unwrapped, returns a model that
no callback ever pruned, or None. Here every result has to be a model, and has to hold the
zeros, the distinct values or the quantized layers that were asked for.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfapprox.combining.kernels import kernel_layers, require_clusters, require_sparsity
from tfapprox.combining.steps import Cluster, Prune, Tuning
from tfapprox.combining.tfmot_import import load_tfmot
from tfapprox.errors import UserError, VerificationError

_MASK_UPDATES = 10  # during the first half of a pruning step


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Inputs [n, ...] and labels [n, ...]."""

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self):
        if len(self.x) != len(self.y) or not len(self.x):
            raise UserError(f"{len(self.x)} inputs do not go with {len(self.y)} labels")


def prune(model: Any, step: Prune, tuning: Tuning, train: Examples) -> Any:
    """Returns the model tuned while its smallest weights become zeros.

    The share of zeros grows to the target in the first half of the training.

    Raises:
      UserError: no layer to prune.
      VerificationError: TFMOT left a kernel with too few zeros.

    References: Zhu and Gupta, 2017, "To prune, or not to prune", equation 1.
    """
    api = load_tfmot().sparsity.keras
    steps = tuning.epochs * math.ceil(len(train.x) / tuning.batch_size)
    every = max(1, steps // (2 * _MASK_UPDATES))
    schedule = api.PolynomialDecay(0.0, step.sparsity, 0, every * (steps // (2 * every)), 3, every)

    def wrap(layer: Any) -> Any:
        return api.prune_low_magnitude(layer, schedule)

    wrapped = _wrapped(model, _names(model, step.exclude, "prune"), wrap)
    train_model(wrapped, tuning, train, [api.UpdatePruningStep()])
    pruned = _model(api.strip_pruning(wrapped), "strip_pruning")
    require_sparsity(pruned, step.sparsity, step.exclude)
    return pruned


def cluster(model: Any, step: Cluster, tuning: Tuning, train: Examples, sparse: bool) -> Any:
    """Returns the model tuned while its weights share few values.

    Args:
      sparse: keep zeros zero.

    Raises:
      UserError: no layer to cluster, or a kernel smaller than the number of clusters.
      VerificationError: TFMOT left a kernel with more values.
    """
    api = load_tfmot().clustering.keras

    def wrap(layer: Any) -> Any:
        if math.prod(layer.kernel.shape) < step.clusters:
            raise UserError(
                f"kernel of {layer.name!r} has fewer than {step.clusters} entries: lower clusters "
                "or exclude it"
            )
        return api.cluster_weights(
            layer,
            number_of_clusters=step.clusters,
            cluster_centroids_init=api.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=sparse,
        )

    wrapped = _wrapped(model, _names(model, step.exclude, "cluster"), wrap)
    train_model(wrapped, tuning, train)
    clustered = _model(api.strip_clustering(wrapped), "strip_clustering")
    require_clusters(clustered, step.clusters, step.exclude)
    return clustered


def quantize_aware(
    model: Any, tuning: Tuning, train: Examples, sparse: bool = False, clustered: bool = False
) -> Any:
    """Returns the model tuned with its kernels and activations rounded to 8 bits.

    Its weights stay floating-point numbers that rounding hardly moves; the TFLite
    converter makes integers of them.

    Args:
      sparse: keep zeros zero.
      clustered: keep the values of each kernel few.

    Raises:
      UserError: a layer that TFMOT can't quantize.
      VerificationError: a kernel was left out.
    """
    tfmot = load_tfmot()
    api, combine = tfmot.quantization.keras, tfmot.experimental.combine
    scheme = None
    if clustered:
        scheme = combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=sparse)
    elif sparse:
        scheme = combine.Default8BitPrunePreserveQuantizeScheme()
    annotated = _model(api.quantize_annotate_model(model), "quantize_annotate_model")
    try:
        applied = api.quantize_apply(annotated, *([scheme] if scheme else []))
    except (RuntimeError, ValueError) as error:  # it names the layer
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"TFMOT can't train {model.name!r} for 8 bits ({reason}): take "
            'Quantize("post_training")'
        ) from error
    quantized = _model(applied, "quantize_apply")
    missed = [
        layer.name
        for layer in quantized.layers
        if layer.name in {kernel.name for kernel in kernel_layers(model)}
    ]
    if missed:
        raise VerificationError(f"TFMOT left {missed} unquantized")
    train_model(quantized, tuning, train)
    if clustered:
        quantized = _model(combine.strip_clustering_cqat(quantized), "strip_clustering_cqat")
    return quantized


def train_model(model: Any, tuning: Tuning, train: Examples, callbacks: Any = ()) -> None:
    """Trains in place; the same seed gives the same order of examples."""
    import tf_keras

    tf_keras.utils.set_random_seed(tuning.seed)
    model.compile(tf_keras.optimizers.Adam(tuning.learning_rate), tuning.loss)
    settings = {"batch_size": tuning.batch_size, "epochs": tuning.epochs, "verbose": 0}
    model.fit(train.x, train.y, callbacks=list(callbacks), **settings)


def _names(model: Any, exclude: str | None, verb: str) -> set[str]:
    names = {layer.name for layer in kernel_layers(model, exclude)}
    if not names:
        raise UserError(f"model {model.name!r} has no Dense, Conv1D or Conv2D layer to {verb}")
    return names


def _wrapped(model: Any, names: set[str], wrap: Callable[[Any], Any]) -> Any:
    """Returns a copy in which the named layers are wrapped; TFMOT copies weights so too."""
    import tf_keras

    def clone(layer: Any) -> Any:
        return wrap(layer) if layer.name in names else layer

    # Not copies: a wrapper holds the very layer, and so must the rest keep its weights.
    twin = tf_keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return _model(tf_keras.models.clone_model(twin, clone_function=clone), "clone_model")


def _model(result: Any, function: str) -> Any:
    """Returns what TFMOT returned if it is a model.

    Raises:
      VerificationError: it is None, or something else.
    """
    import tf_keras

    if not isinstance(result, tf_keras.Model):
        raise VerificationError(f"TFMOT's {function} returned {result!r} in place of a model")
    return result
