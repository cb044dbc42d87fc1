"""Removes channels from a Keras model: layers of the same types with smaller weights."""

import functools
from typing import Any

import numpy as np

from tfapprox.pruning.channels import ChannelLayer, ChannelMap, is_producer
from tfapprox.rewriters.keras_clone import clone_layer, live_config
from tfapprox.rewriters.keras_graph import layers_by_path, weights_of
from tfapprox.rewriters.keras_model import StandIns, rebuild_keras_model
from tfapprox.rewriters.keras_stages import Name, StageLayer
from tfapprox.rewriters.keras_trace import Shape

_LIVE = (
    "activation",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


def cut_keras_model(model: Any, channels: ChannelMap, alive: np.ndarray) -> Any:
    """Returns a new model with only some of its channels.

    Types, names, inputs and outputs are those of `model`; what is left of the weights
    is, bit for bit, theirs. Not compiled.

    Args:
      model: a graph model; never changed.
      channels: of this model, see `trace_channels`.
      alive: bool, one entry a class of channels.
    """
    layers = layers_by_path(model)
    stand_ins: dict[int, StandIns] = {}
    for own in channels.layers:
        if not alive[own.inputs].all() or not alive[own.outputs].all():
            stand_ins[id(layers[own.name])] = functools.partial(_smaller, own, alive)
    return rebuild_keras_model(model, stand_ins)


def _smaller(
    own: ChannelLayer, alive: np.ndarray, layer: Any, input_shape: Shape, name: Name
) -> list[StageLayer]:
    weights = own.keep([np.asarray(w) for w in weights_of(layer)], alive)
    if not is_producer(own):
        return [StageLayer(clone_layer(layer), None, tuple(weights))]
    config = live_config(layer) | {key: getattr(layer, key) for key in _LIVE}
    config.pop("batch_input_shape", None)
    config["units" if "units" in config else "filters"] = weights[0].shape[-1]
    return [StageLayer(type(layer).from_config(config), None, tuple(weights))]
