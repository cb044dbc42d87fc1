"""Batch statistics for exact evaluation of a model that was trained on samples."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.rewriters.keras_probe import check_batch
from tfapprox.training.sampling_schedules import sampled_layers


def recalibrate_batch_norm(model: Any, batches: Iterable[Any]) -> None:
    """Sets the moving statistics of batch normalization to those of exact products.

    Training on samples leaves the statistics of sampled activations, which are
    smaller; exact evaluation with them can be at chance level early in training.
    The averages over `batches`, run exactly, replace them. Nothing else changes.

    Args:
      model: with sampled layers.
      batches: of inputs, or (inputs, labels), whose labels are left out; not empty if the
        model has batch normalization.

    Raises:
      UserError: there is none, or a batch does not fit the model.
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
        count = 0
        for batch in batches:
            inputs = _inputs_of(model, batch)
            for norm in norms:
                # A running average: each batch so far weighs the same.
                norm.momentum = count / (count + 1)
            model(inputs, training=True)
            count += 1
    finally:
        for layer, sampling in zip(layers, settings, strict=True):
            layer.sampling = sampling
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not count:
        raise UserError("recalibrate_batch_norm got no batch: give some twenty of the inputs")


def _inputs_of(model: Any, batch: Any) -> Any:
    """Returns a batch without the labels that come along where data are those of training."""
    if not getattr(model, "inputs", None):  # wired in Python code: any nest may be right
        return batch
    wanted = len(model.inputs)
    labelled = isinstance(batch, tuple | list) and len(tf.nest.flatten(batch)) > wanted
    inputs = batch[0] if labelled and len(tf.nest.flatten(batch[0])) == wanted else batch
    check_batch(model, inputs, "recalibrate_batch_norm")
    return inputs
