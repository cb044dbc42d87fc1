"""The channels of a Keras model: which layers make, keep and read them, and what ties them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.pruning.channels import Axis, ChannelLayer, ChannelMap, Ties
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.keras_graph import (
    check_graph_model,
    flavour_of,
    is_graph_model,
    nodes_of,
    tree_of,
    weights_of,
)
from tfapprox.rewriters.keras_inspection import reason_to_keep

_ELEMENTWISE = re.compile(
    r"linear|relu6?|leaky_relu|elu|selu|celu|gelu|silu|swish|mish|tanh|exponential|softplus|softsign"
    r"|(hard_|log_)?sigmoid|hard_(silu|swish|tanh)"
)
# Layers that treat every channel alike and alone, whatever their settings.
_CHANNELWISE = (
    "Dropout SpatialDropout1D SpatialDropout2D GaussianNoise GaussianDropout AlphaDropout "
    "ReLU LeakyReLU ELU ActivityRegularization Identity "
    "MaxPooling1D MaxPooling2D AveragePooling1D AveragePooling2D GlobalMaxPooling1D "
    "GlobalMaxPooling2D GlobalAveragePooling1D GlobalAveragePooling2D UpSampling1D "
    "UpSampling2D ZeroPadding1D ZeroPadding2D Cropping1D Cropping2D"
).split()
_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")


def trace_channels(
    model: Any, inspection: Inspection, admits: Callable[[str], bool] = lambda path: True
) -> ChannelMap:
    """Returns the model's channels.

    Whatever is not known to treat channels one by one keeps those that it reads, and
    channels that enter or leave a model, or a model inside it, stay too.

    Args:
      model: Sequential or Functional, of Keras 3 or tf_keras.
      inspection: of the model, for what its layers cost.
      admits: says of a site's name whether its channels may change.
    """
    check_graph_model(model)
    macs = {site.name: site.cost.macs for site in inspection.sites}
    macs |= {kept.name: kept.cost.macs for kept in inspection.kept}
    trace = _Trace(macs, admits)
    trace.model(model, "")
    return trace.finish()


class _Trace:
    """Follows the channels through a model's nodes."""

    def __init__(self, macs: Mapping[str, int], admits: Callable[[str], bool]):
        self._macs, self._admits = macs, admits
        self._ties = Ties()
        self._layers: dict[int, ChannelLayer] = {}
        self._models: set[int] = set()

    def model(self, model: Any, prefix: str) -> None:
        """Takes in a model and those inside it."""
        keras = flavour_of(model)
        self._models.add(id(model))
        where = f"of the model {prefix.rstrip('/')}" if prefix else "of the model"
        channels = {id(x): self._fixed(x, f"an input {where}") for x in model.inputs}
        for layer, args, kwargs, outputs in nodes_of(model):
            flat = tree_of(keras).flatten((args, kwargs))
            reads = [channels[id(x)] for x in flat if id(x) in channels]
            shapes = [tuple(x.shape) for x in flat if id(x) in channels]
            path = f"{prefix}{layer.name}"
            made = self._call(keras, layer, path, reads, shapes)
            if made is None or len(outputs) != 1 or len(made) != (outputs[0].shape[-1] or 0):
                what = f"{layer.name} ({type(layer).__name__})"
                for own in reads:
                    self._ties.freeze(own, f"{what} reads its channels all together")
                for x in outputs:
                    channels[id(x)] = self._fixed(x, f"{what} makes its channels all together")
            else:
                channels[id(outputs[0])] = made
            if is_graph_model(layer) and id(layer) not in self._models:
                self.model(layer, f"{path}/")
        for x in model.outputs:
            self._ties.freeze(channels[id(x)], f"an output {where}")

    def finish(self) -> ChannelMap:
        classes, frozen = self._ties.classes()
        return ChannelMap(
            tuple(_renumbered(layer, classes) for layer in self._layers.values()),
            len(frozen),
            frozen,
        )

    def _fixed(self, x: Any, reason: str) -> np.ndarray:
        channels = self._ties.new((tuple(x.shape) or (0,))[-1] or 0)
        self._ties.freeze(channels, reason)
        return channels

    def _call(
        self,
        keras: ModuleType,
        layer: Any,
        path: str,
        reads: Sequence[np.ndarray],
        shapes: Sequence[tuple],
    ) -> np.ndarray | None:
        """Returns the channels of a call's output; None for what is not understood."""
        kind = type(layer).__name__
        own = type(layer).__module__.partition(".")[0] in ("keras", "tf_keras")
        if not own or not reads or getattr(layer, "data_format", None) == "channels_first":
            return None
        if kind in _MERGES:
            return self._merge(reads)
        if kind == "Concatenate":
            return self._concatenate(layer, reads, shapes)
        if len(reads) != 1:
            return None
        (channels,), (shape,) = reads, shapes
        if kind == "Flatten":
            positions = shape[1:-1]
            return None if None in positions else np.tile(channels, math.prod(positions))
        if kind in ("Dense", "Conv1D", "Conv2D"):
            return self._product(layer, path, channels)
        if kind in ("DepthwiseConv1D", "DepthwiseConv2D"):
            return self._depthwise(layer, path, channels)
        if kind == "BatchNormalization":
            return self._per_channel(layer, path, channels, layer.axis, len(shape))
        if kind == "Activation":
            return channels if _is_elementwise(layer.activation) else None
        if kind == "Rescaling":
            return channels if np.size(layer.scale) == np.size(layer.offset) == 1 else None
        return channels if kind in _CHANNELWISE else None

    def _merge(self, reads: Sequence[np.ndarray]) -> np.ndarray | None:
        widest = max(reads, key=len)
        for channels in reads:
            if len(channels) == len(widest):
                self._ties.tie(widest, channels)
            else:
                self._ties.freeze(channels, "a merge repeats it along the channels")
        return widest

    def _concatenate(
        self, layer: Any, reads: Sequence[np.ndarray], shapes: Sequence[tuple]
    ) -> np.ndarray | None:
        if layer.axis in (-1, len(shapes[0]) - 1):
            return np.concatenate(reads)
        if len({len(channels) for channels in reads}) != 1:
            return None
        return self._merge(reads)

    def _product(self, layer: Any, path: str, channels: np.ndarray) -> np.ndarray | None:
        if reason_to_keep(layer) is not None:
            return None
        known = self._layers.get(id(layer))
        if known is not None:  # a shared layer: its input channels are the same in all calls
            self._ties.tie(known.inputs, channels)
            return known.outputs
        outputs = self._ties.new(layer.kernel.shape[-1])
        if not self._admits(path):
            for own in (channels, outputs):
                self._ties.freeze(own, f"{path} is left out by --include or --exclude")
        if not _is_elementwise(layer.activation):
            self._ties.freeze(outputs, f"{path} ends in {_name(layer.activation)} over them")
        taps = tuple(int(n) for n in layer.kernel.shape[:-2])
        axes: list[tuple[Axis, ...]] = [(*taps, channels, outputs)]
        axes += [(outputs,)] if layer.bias is not None else []
        self._add(layer, path, channels, outputs, axes)
        return outputs

    def _depthwise(self, layer: Any, path: str, channels: np.ndarray) -> np.ndarray | None:
        if not _is_elementwise(layer.activation):
            return None
        multiplier = int(layer.depth_multiplier)
        outputs = np.repeat(channels, multiplier)
        known = self._layers.get(id(layer))
        if known is not None:
            self._ties.tie(known.inputs, channels)
            return outputs
        taps = tuple(int(n) for n in weights_of(layer)[0].shape[:-2])
        axes: list[tuple[Axis, ...]] = [(*taps, channels, multiplier)]
        axes += [(outputs,)] if layer.bias is not None else []
        self._add(layer, path, channels, outputs, axes)
        return outputs

    def _per_channel(
        self, layer: Any, path: str, channels: np.ndarray, axis: Any, rank: int
    ) -> np.ndarray | None:
        axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
        if axes not in ([-1], [rank - 1]):
            return None
        known = self._layers.get(id(layer))
        if known is not None:
            self._ties.tie(known.inputs, channels)
        else:
            self._add(layer, path, channels, channels, [(channels,)] * len(weights_of(layer)))
        return channels

    def _add(
        self,
        layer: Any,
        path: str,
        inputs: np.ndarray,
        outputs: np.ndarray,
        axes: Sequence[tuple[Axis, ...]],
    ) -> None:
        weights = weights_of(layer)
        itemsize = tf.as_dtype(weights[0].dtype).size if weights else 4
        self._layers[id(layer)] = ChannelLayer(
            path, inputs, outputs, tuple(axes), itemsize, self._macs.get(path, 0)
        )


def _is_elementwise(activation: Any) -> bool:
    return activation is None or bool(_ELEMENTWISE.fullmatch(_name(activation)))


def _name(activation: Any) -> str:
    return getattr(activation, "__name__", type(activation).__name__)


def _renumbered(layer: ChannelLayer, classes: np.ndarray) -> ChannelLayer:
    axes = tuple(
        tuple(classes[axis] if isinstance(axis, np.ndarray) else axis for axis in weight)
        for weight in layer.axes
    )
    return ChannelLayer(
        layer.name, classes[layer.inputs], classes[layer.outputs], axes, layer.itemsize, layer.macs
    )
