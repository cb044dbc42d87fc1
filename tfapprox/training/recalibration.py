"""Batch statistics for exact evaluation of a model that was trained on samples."""

from collections.abc import Iterable
from typing import Any

from tensorflow import keras

from tfapprox.training.sampling_schedules import sampled_layers


def recalibrate_batch_norm(model: Any, batches: Iterable[Any]) -> None:
    """Sets the moving statistics of batch normalization to those of exact products.

    Training on samples leaves the statistics of sampled activations, which are
    smaller; exact evaluation with them can be at chance level early in training.
    The averages over `batches`, run exactly, replace them. Nothing else changes.

    Args:
      model: with sampled layers.
      batches: of inputs, without labels; not empty if the model has batch normalization.
    """
    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    if not norms:
        return
    layers = sampled_layers(model)
    settings = [layer.sampling for layer in layers]
    momenta = [norm.momentum for norm in norms]
    try:
        for layer, sampling in zip(layers, settings, strict=True):
            layer.sampling = sampling.switched_off
        for count, batch in enumerate(batches):
            for norm in norms:
                # A running average: each batch so far weighs the same.
                norm.momentum = count / (count + 1)
            model(batch, training=True)
    finally:
        for layer, sampling in zip(layers, settings, strict=True):
            layer.sampling = sampling
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
