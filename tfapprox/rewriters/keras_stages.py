"""Stock Keras layers that stand in for one layer, stage by stage."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_clone import live_config
from tfapprox.rewriters.keras_einsum import Contraction, read_equation
from tfapprox.rewriters.keras_graph import flavour_of
from tfapprox.rewriters.keras_inspection import site_kind
from tfapprox.rewriters.keras_order import (
    closing_layer,
    fold_orders,
    order_layer,
    reorders,
)
from tfapprox.rewriters.keras_trace import Shape

Name = Callable[[str], str]
"""Makes a layer name that is free in the model."""


@dataclasses.dataclass(frozen=True)
class StageLayer:
    """A new layer and what it gets once it is built.

    Attributes:
      layer: not built yet.
      kernel: of the layer, None where it has none.
      weights: all of them, bias included, in the place of `kernel`.
      offset: to add to the original's bias, [out_channels].
    """

    layer: Any
    kernel: np.ndarray | None
    weights: tuple[np.ndarray, ...] = ()
    offset: np.ndarray | None = None


def stage_layers(
    layer: Any, factorization: Factorization, input_shape: Shape, name: Name
) -> list[StageLayer]:
    """Returns the chain of layers that stands in for `layer`, to be called in turn.

    The last one takes over name, bias, activation, bias and activity regularizer;
    keeping the name keeps the model's output names. Every stage gets the kernel
    regularizer, dtype policy, data format and trainability. A kernel constraint
    speaks of the dense kernel and is dropped.

    Args:
      layer: a site's Dense, Conv1D, Conv2D or EinsumDense, built.
      factorization: composes to a kernel of the layer's shape.
      input_shape: static shape of the layer's input, batch first, for grouped
        dense stages, which have to reshape it.
      name: makes unique names of the earlier stages.

    Raises:
      UserError: a grouped dense stage on an input with several unknown sizes; a grouped
        last stage of an EinsumDense, or channels of one that change order.
    """
    if any(type(stage) is not Stage for stage in factorization.stages):
        raise UserError(
            f"layer {layer.name}: its plan shares a generator or samples, which compressing does "
            "in SavedModels; for Keras models there are tfapprox.generate_slices and "
            "tfapprox.approximate_training"
        )
    if hasattr(layer, "equation") and reorders(factorization):
        raise UserError(
            f"layer {layer.name}: its plan reorders channels, which an EinsumDense may have "
            "several axes of; compress its SavedModel, or choose a decomposition without clusters"
        )
    factorization = fold_orders(factorization)
    make = _conv_stage if hasattr(layer, "strides") else _product_stage
    closing = closing_layer(layer, factorization)
    chain: list[StageLayer] = []
    for index, stage in enumerate(factorization.stages):
        last = index == len(factorization.stages) - 1 and closing is None
        config = _config(layer, last)
        if last and factorization.offset is not None:
            _add_bias(layer, config)
        config["name"] = layer.name if last else name(f"{layer.name}_stage{index}")
        if stage.input_order is not None:
            order = order_layer(layer, stage.input_order, f"{config['name']}_order")
            chain.append(StageLayer(order, None))
        chain += make(layer, stage, config, (index == 0, last), input_shape)
        # Later stages see the same positions, and their own number of channels.
        input_shape = (*input_shape[: -_channel_axes(layer, index)], stage.shape.out_channels)
    chain += [] if closing is None else [StageLayer(closing, None)]
    chain[-1] = dataclasses.replace(chain[-1], offset=factorization.offset)
    return chain


def offset_reason(layer: Any) -> str:
    """Says why an offset can't go into a site layer's bias, "" if it can."""
    axes = getattr(layer, "bias_axes", None)
    if axes is None or set(axes) == set(_contraction(layer).produced):
        return ""
    return f"its bias has the axes {axes!r}, not those of its kernel"


def _add_bias(layer: Any, config: dict[str, Any]) -> None:
    """Makes the config one with a bias over all that the kernel produces."""
    if not hasattr(layer, "equation"):
        config["use_bias"] = True
    elif config["bias_axes"] is None:
        config["bias_axes"] = _contraction(layer).produced


def with_trainable_groups(stage: StageLayer) -> StageLayer:
    """Returns a stage of Keras 3 with a `GroupedConv2D` in the place of a grouped Conv2D."""
    keras = flavour_of(stage.layer)
    if keras.__name__ != "keras" or type(stage.layer) is not keras.layers.Conv2D:
        return stage
    if stage.layer.groups == 1:
        return stage
    from tfapprox.layers.grouped_conv2d import GroupedConv2D  # of Keras 3 alone

    layer = GroupedConv2D.from_config(live_config(stage.layer))
    return dataclasses.replace(stage, layer=layer)


def _channel_axes(layer: Any, index: int) -> int:
    if index == 0 and hasattr(layer, "equation"):
        return _contraction(layer).contracted_axes
    return 1


def _contraction(layer: Any) -> Contraction:
    contraction = read_equation(layer.equation)
    assert contraction is not None, layer.equation  # else it would be no site
    return contraction


def _config(layer: Any, last: bool) -> dict[str, Any]:
    """Returns the layer's config with live objects, so that custom ones need no registry."""
    config = live_config(layer)
    config.pop("batch_input_shape", None)
    config["kernel_regularizer"] = layer.kernel_regularizer
    config["kernel_constraint"] = None
    config["activation"] = layer.activation if last else None
    for key in ("bias_regularizer", "bias_constraint", "activity_regularizer"):
        config[key] = getattr(layer, key) if last else None
    if not last:
        config["bias_axes" if "bias_axes" in config else "use_bias"] = None
    return config


def _conv_stage(
    layer: Any, stage: Stage, config: dict, place: tuple[bool, bool], input_shape: Shape
) -> list[StageLayer]:
    keras = flavour_of(layer)
    one_axis = site_kind(keras, layer) == "conv1d"
    axes = stage.axes[1:] if one_axis else stage.axes
    kernel = stage.kernel[0] if one_axis else stage.kernel
    config.update(
        use_bias=bool(config["use_bias"]),
        filters=kernel.shape[-1],
        kernel_size=kernel.shape[:-2],
        strides=_where(axes, layer.strides),
        dilation_rate=_where(axes, layer.dilation_rate),
        groups=stage.groups,
    )
    equal_strides = len(set(config["strides"])) == 1  # TensorFlow's depthwise kernels ask for it
    if one_axis or not 1 < stage.groups == stage.shape.in_channels or not equal_strides:
        return [StageLayer(type(layer).from_config(config), kernel)]
    multiplier = config.pop("filters") // config.pop("groups")
    config = {key.replace("kernel_", "depthwise_"): value for key, value in config.items()}
    config.update(kernel_size=config.pop("depthwise_size"), depth_multiplier=multiplier)
    kernel = kernel.reshape(*kernel.shape[:2], stage.groups, multiplier)
    return [StageLayer(keras.layers.DepthwiseConv2D.from_config(config), kernel)]


def _where(axes: tuple[bool, ...], values: tuple[int, ...]) -> tuple[int, ...]:
    """Returns strides or dilations on the axes a stage holds, 1 on the others."""
    return tuple(value if held else 1 for held, value in zip(axes, values, strict=True))


def _product_stage(
    layer: Any, stage: Stage, config: dict, place: tuple[bool, bool], input_shape: Shape
) -> list[StageLayer]:
    kernel = stage.kernel[0, 0]
    if stage.groups > 1:
        return _grouped_product(layer, stage, config, place, input_shape)
    if not hasattr(layer, "equation"):
        config.update(units=kernel.shape[1], use_bias=bool(config["use_bias"]))
        return [StageLayer(type(layer).from_config(config), kernel)]
    equation, (first, last) = _contraction(layer), place
    free = equation.labels_free(2)
    before, after = free[0], free[1]
    inputs = equation.contracted if first else before
    outputs = equation.produced if last else after
    kept = equation.kept
    config["equation"] = f"{kept}{inputs},{inputs}{outputs}->{kept}{outputs}"
    sizes = dict(zip(equation.kernel, layer.kernel.shape, strict=True))
    sizes |= {before: kernel.shape[0], after: kernel.shape[1]}
    if not last:
        positions = () if kept == "..." else tuple(config["output_shape"])[: len(kept) - 1]
        config["output_shape"] = (*positions, kernel.shape[1])
    kernel = kernel.reshape([sizes[label] for label in inputs + outputs])
    return [StageLayer(type(layer).from_config(config), kernel)]


def _grouped_product(
    layer: Any, stage: Stage, config: dict, place: tuple[bool, bool], input_shape: Shape
) -> list[StageLayer]:
    """Returns Reshape, EinsumDense and Reshape: each group of channels has its own matrix."""
    layers, (first, last) = flavour_of(layer).layers, place
    if last:
        raise UserError(f"{layer.name}: an EinsumDense can't end in a grouped stage")
    channel_axes = _channel_axes(layer, 0 if first else 1)
    # One position axis may be of any length: leave it to Reshape, also for later calls.
    positions = [-1 if size is None else size for size in input_shape[1:-channel_axes]]
    positions = [-1] if len(positions) == 1 else positions
    if positions.count(-1) > 1:
        raise UserError(
            f"{layer.name}: channel slices need an input with at most one unknown size, "
            f"got {input_shape}: use slices=1 here"
        )
    fan_in, outputs = stage.kernel.shape[2:]
    fan_out = outputs // stage.groups
    kernel = stage.kernel[0, 0].reshape(fan_in, stage.groups, fan_out).transpose(1, 0, 2)
    shared = {"dtype": config["dtype"], "trainable": config["trainable"]}
    product = layers.EinsumDense(
        "...gi,gij->...gj",
        output_shape=(stage.groups, fan_out),
        kernel_regularizer=config["kernel_regularizer"],
        name=config["name"],
        **shared,
    )
    split = layers.Reshape((*positions, stage.groups, fan_in), name=f"{product.name}_split")
    merge = layers.Reshape((*positions, outputs), name=f"{product.name}_merge")
    return [StageLayer(split, None), StageLayer(product, kernel), StageLayer(merge, None)]
