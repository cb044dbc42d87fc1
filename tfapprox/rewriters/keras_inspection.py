"""Sites of a Keras model, in Keras 3 or tf_keras."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry, Padding, Pair
from tfapprox.accounting.site import Kind, Site
from tfapprox.rewriters.inspection import Inspection, KeptOperation
from tfapprox.rewriters.keras_einsum import read_equation
from tfapprox.rewriters.keras_graph import check_graph_model, flavour_of, layers_by_path, weights_of
from tfapprox.rewriters.keras_trace import SizedCall, Sizes, has_unknown_sizes, trace_calls

ASSUMED_SIZE = 64
"""Stands for an input size the model leaves open, so that MACs can be compared."""

STILL_SAMPLED = "sampled in training: strip the model first (rewriters.approximate_training.strip)"
"""Why a layer of column-row sampling is no site."""


def inspect_keras_model(model: Any, assumed_size: int = ASSUMED_SIZE) -> Inspection:
    """Returns the model's sites, one for each kernel, with a geometry for each call.

    Sites are named by `layers_by_path`. Every other layer with a weight of two or
    more dimensions is listed as kept, with the reason.

    Args:
      model: Sequential or Functional; nested models and shared layers are fine.
      assumed_size: taken for input sizes the model leaves open, such as the height
        and width of a fully convolutional network.

    Raises:
      UserError: a subclassed model, one without weights yet, or no Keras model.
    """
    check_graph_model(model)
    open_sizes = has_unknown_sizes(model)
    calls = trace_calls(model, assumed_size if open_sizes else None)
    known = trace_calls(model, None) if open_sizes else calls
    sites, kept, notes = [], [], []
    for path, layer in layers_by_path(model).items():
        reason = reason_to_keep(layer)
        sized = [call.sized(assumed_size) for call in calls[id(layer)]]
        if reason is None:
            assumed = not all(call.is_known for call in known[id(layer)])
            remark = f"unknown input sizes taken as {assumed_size}" if assumed else ""
            sites.append(_site(path, layer, sized, remark))
            if getattr(layer, "kernel_constraint", None) is not None:
                notes.append(f"{path}: its kernel constraint is dropped if it is factorized")
        elif reason:
            cost = _kept_cost(layer, sized)
            kept.append(KeptOperation(path, type(layer).__name__, reason, cost))
    param_bytes = sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in weights_of(model))
    return Inspection(tuple(sites), tuple(kept), model.count_params(), param_bytes, tuple(notes))


def reason_to_keep(layer: Any) -> str | None:
    """Returns None for a site, "" for a layer without kernels, else why it is kept."""
    if not any(len(w.shape) > 1 for w in weights_of(layer)):
        return ""
    keras = flavour_of(layer)
    if site_kind(keras, layer) is None:
        return _reason_for_type(keras, layer)
    if getattr(layer, "quantization_mode", None):
        return f"quantized to {layer.quantization_mode}"
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled: merge it (save and reload the model) first"
    if isinstance(layer.activation, keras.layers.Layer):
        return "its activation is a layer: put that layer behind it instead"
    if getattr(layer, "groups", 1) != 1:
        return f"grouped convolution ({layer.groups} groups)"
    if isinstance(layer, keras.layers.EinsumDense) and read_equation(layer.equation) is None:
        return f"equation {layer.equation!r} is no plain contraction of the last axes"
    return None


def _reason_for_type(keras: ModuleType, layer: Any) -> str:
    kind = type(layer).__name__
    layers = keras.layers
    if isinstance(layer, layers.Embedding):
        return "a look-up, not a product"
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return "depthwise convolution: one filter a channel"
    if isinstance(layer, (layers.LSTM, layers.GRU, layers.SimpleRNN, layers.RNN)):
        return "recurrent kernels are used inside a loop; the SavedModel path can reach them"
    if any(cls.__name__ == "ColumnRowSampled" for cls in type(layer).__mro__):
        return STILL_SAMPLED
    if type(layer).__name__ == "GroupedConv2D":
        return f"grouped convolution ({layer.groups} groups)"
    if type(layer).__module__.partition(".")[0] not in ("keras", "tf_keras"):
        return f"custom layer {kind}: its computation is Python code; export it and compress that"
    if len(list(layer._flatten_layers())) > 1:
        return f"kernels inside {kind} are not visible; the SavedModel path can reach them"
    return f"{kind} layers are not factorized"


def site_kind(keras: ModuleType, layer: Any) -> Kind | None:
    """Returns the kind of site the layer may be; subclasses may compute anything else."""
    layers = keras.layers
    kinds: dict[type, Kind] = {
        layers.Dense: "dense",
        layers.Conv1D: "conv1d",
        layers.Conv2D: "conv2d",
        layers.EinsumDense: "einsum",
    }
    return kinds.get(type(layer))


def canonical_kernel(layer: Any) -> np.ndarray:
    """Returns a site layer's kernel as [height, width, in, out]."""
    kernel = np.asarray(layer.kernel)
    kind = site_kind(flavour_of(layer), layer)
    if kind == "einsum":
        equation = read_equation(layer.equation)
        assert equation is not None, layer.equation  # reason_to_keep has asked
        kernel = equation.flatten_kernel(kernel)
    return kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)


def _site(path: str, layer: Any, calls: list[SizedCall], assumed_size: str) -> Site:
    kind = site_kind(flavour_of(layer), layer)
    assert kind is not None, layer  # reason_to_keep has asked
    geometries = tuple(_geometry(layer, call.input_size) for call in calls)
    return Site(path, kind, canonical_kernel(layer), geometries, assumed_size)


def _geometry(layer: Any, input_size: Sizes) -> Geometry:
    """Returns where the layer's taps fall for an input of these sizes, batch first."""
    if not hasattr(layer, "strides"):
        contraction = read_equation(getattr(layer, "equation", "ab,bc->ac"))
        assert contraction is not None, layer
        positions = input_size[1 : -contraction.contracted_axes]
        return Geometry(input_size=(1, math.prod(positions)))
    padding: Padding = "SAME" if layer.padding == "same" else "VALID"
    if layer.padding == "causal":
        padding = ((0, 0), ((layer.kernel_size[0] - 1) * layer.dilation_rate[0], 0))
    strides, dilations = _pair(layer.strides), _pair(layer.dilation_rate)
    return Geometry(strides, dilations, padding, _pair(_positions(layer, input_size)))


def _pair(values: Sizes) -> Pair:
    """Returns (height, width); a Conv1D has the width alone."""
    return (values[0] if len(values) == 2 else 1, values[-1])


def _positions(layer: Any, size: Sizes) -> Sizes:
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return size[2:] if first else size[1:-1]


def _kept_cost(layer: Any, calls: list[SizedCall]) -> Cost:
    """Returns the kernels' cost; MACs only of layers whose kernels see every position."""
    kernels = [w for w in weights_of(layer) if len(w.shape) > 1]
    params = sum(math.prod(w.shape) for w in kernels)
    byte_count = sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in kernels)
    kind = type(layer).__name__
    macs = 0
    for call in calls:
        if "Conv" in kind and hasattr(layer, "strides"):
            size = call.input_size if "Transpose" in kind else call.output_size
            macs += params * math.prod(_positions(layer, size))
        elif kind in ("LSTM", "GRU", "SimpleRNN"):
            macs += params * call.input_size[1]
    return Cost(params, macs, byte_count)
