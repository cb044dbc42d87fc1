"""Stages of convolutions."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfapprox.accounting.factorization import Stage
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.emitter import Factor
from tfapprox.rewriters.saved_model.matching import conv_geometry
from tfapprox.rewriters.saved_model.stage_emitter import Place, StageEmitter


class ConvolutionStages(StageEmitter):
    """Conv2D; each stage takes over strides, padding and dilations on the axes it holds."""

    def axis(self, first: bool) -> int:
        return 1 if attribute(self._node, "data_format").s == b"NCHW" else 3

    def rank(self) -> int | None:
        return 4

    def add_offset(self, x: str, offset: str) -> str:
        layout = attribute(self._node, "data_format").s or b"NHWC"
        kind = tf.as_dtype(self.dtype)
        return self._emitter.add("BiasAdd", (x, offset), "sum", T=kind, data_format=layout)

    def stage(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
        attributes = self._attributes(stage)
        if stage.groups > 1 and stage.kernel.shape[2] == 1 and self._depthwise(attributes):
            height, width, _, out_channels = stage.kernel.shape
            shape = (height, width, stage.groups, out_channels // stage.groups)
            attributes.pop("explicit_paddings")
            return self._emitter.add(
                "DepthwiseConv2dNative", (x, self._reshape(factor, shape)), "stage", **attributes
            )
        return super().stage(x, stage, factor, place)

    def product(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
        shape = (*stage.kernel.shape[:2], *factor.shape[-2:])
        kernel = self._reshape(factor, shape)
        attributes = self._attributes(stage)
        if self._node.op == "_FusedConv2D" and place.last:
            return self._fused("last", x, kernel, **attributes)
        return self._emitter.add("Conv2D", (x, kernel), "stage", **attributes)

    def _attributes(self, stage: Stage) -> dict:
        channels_first = attribute(self._node, "data_format").s == b"NCHW"
        placed = conv_geometry(self._node, (1, 1)).restrict(stage.axes, (1, 1))
        padding = placed.padding

        def spread(pair: tuple, outer: Any) -> list:
            return [outer, outer, *pair] if channels_first else [outer, *pair, outer]

        pads = [] if isinstance(padding, str) else spread(padding, (0, 0))
        return {
            "T": tf.as_dtype(self.dtype),
            "strides": spread(placed.strides, 1),
            "dilations": spread(placed.dilations, 1),
            "padding": padding.encode() if isinstance(padding, str) else b"EXPLICIT",
            "explicit_paddings": [n for pair in pads for n in pair],
            "data_format": b"NCHW" if channels_first else b"NHWC",
        }

    def _depthwise(self, attributes: Mapping) -> bool:
        """Says whether TensorFlow's depthwise operation can place such a stage on a CPU."""
        strides = attributes["strides"]
        return (
            attributes["data_format"] == b"NHWC"
            and attributes["padding"] != b"EXPLICIT"
            and strides[1] == strides[2]
            and set(attributes["dilations"]) == {1}
        )
