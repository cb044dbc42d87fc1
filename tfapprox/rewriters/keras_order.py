"""Channels that change order between the stages of a Keras layer."""

import dataclasses
from typing import Any

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.layers.channel_order import channel_order_layer
from tfapprox.rewriters.keras_graph import flavour_of


def reorders(factorization: Factorization) -> bool:
    """Says whether channels change order anywhere."""
    orders = [factorization.output_order, *(s.input_order for s in factorization.stages)]
    return any(order is not None for order in orders)


def fold_orders(factorization: Factorization) -> Factorization:
    """Returns the same product with every order that a kernel can take in folded into it.

    Without groups, a stage's inputs and outputs are in whatever order its kernel has
    them; blocks of groups have to stay together.
    """
    stages = [_fold_input(stage) for stage in factorization.stages]
    order = factorization.output_order
    if order is not None and stages[-1].groups == 1:
        stages[-1] = dataclasses.replace(stages[-1], kernel=stages[-1].kernel[..., order])
        order = None
    return dataclasses.replace(factorization, stages=tuple(stages), output_order=order)


def _fold_input(stage: Stage) -> Stage:
    if stage.input_order is None or stage.groups > 1:
        return stage
    kernel = np.empty_like(stage.kernel)
    kernel[:, :, stage.input_order] = stage.kernel
    return dataclasses.replace(stage, kernel=kernel, input_order=None)


def order_layer(layer: Any, order: np.ndarray, name: str) -> Any:
    """Returns the layer that puts channels in this order before a stage of `layer`."""
    return channel_order_layer(flavour_of(layer))(
        order.tolist(),
        _channel_axis(layer),
        name=name,
        dtype=layer.get_config()["dtype"],
        trainable=layer.trainable,
    )


def closing_layer(layer: Any, factorization: Factorization) -> Any | None:
    """Returns what follows the last stage of `layer`, None where that stage ends the chain.

    It is called as the layer was and takes over bias and activation: where outputs have
    to change order before these, and where a dense product ends in groups, whose layers
    have no bias of this form.
    """
    last, order = factorization.stages[-1], factorization.output_order
    grouped_dense = not hasattr(layer, "strides") and last.groups > 1
    if hasattr(layer, "equation") or (order is None and not grouped_dense):
        return None
    outputs = last.kernel.shape[3]
    return channel_order_layer(flavour_of(layer))(
        list(range(outputs)) if order is None else order.tolist(),
        _channel_axis(layer),
        use_bias=layer.bias is not None or factorization.offset is not None,
        activation=layer.activation,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        activity_regularizer=layer.activity_regularizer,
        name=layer.name,
        dtype=layer.get_config()["dtype"],
        trainable=layer.trainable,
    )


def _channel_axis(layer: Any) -> int:
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else -1
