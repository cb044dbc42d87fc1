"""Other ways to shrink a network's convolutions, to compare the slice generator with.

CReLU is an option of the networks themselves (`activation="crelu"`), half precision a
dtype policy; the rest replaces chosen convolutions of a fresh model here.
"""

import re
from collections.abc import Callable
from typing import Any

from tensorflow import keras

from tfapprox.layers.hyper_slice_generator import HyperSliceGenerator
from tfapprox.layers.p4_conv2d import P4Conv2D
from tfapprox.layers.slice_generated_conv2d import SliceGeneratedConv2D
from tfapprox.rewriters.keras_graph import layers_by_path
from tfapprox.rewriters.layer_substitution import substitute_layers

Tensor = Any


def separable(model: keras.Model, which: str, use_bias: bool = False) -> keras.Model:
    """Returns the model with depthwise-separable convolutions, of stock layers.

    Args:
      model: Functional model of fresh weights.
      which: regular expression searched in the names of convolutions.
      use_bias: give the depthwise and the 1x1 convolution a bias each.

    References:
      Omidvar et al. 2021, table 4 ("separable filters"; after Jaderberg et al. 2014).
    """

    def make(layer: Any) -> Callable[[Tensor], Tensor]:
        depthwise = keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            use_bias=use_bias,
            depthwise_initializer="he_normal",
            name=f"{layer.name}_depthwise",
        )
        pointwise = keras.layers.Conv2D(
            layer.filters,
            1,
            use_bias=use_bias,
            kernel_initializer="he_normal",
            name=f"{layer.name}_pointwise",
        )
        return lambda x: pointwise(depthwise(x))

    return _replace(model, which, make)


def rotation_equivariant(model: keras.Model, which: str) -> keras.Model:
    """Returns the model with p4 group convolutions of as many channels, a quarter the size.

    Stem and normalisation stay plain, as the paper's counts have it, so the network
    as a whole is equivariant to rotations in these layers only.

    References:
      Omidvar et al. 2021, table 4 ("GCNN (p4)"; after Cohen and Welling 2016).
    """

    def make(layer: Any) -> Callable[[Tensor], Tensor]:
        return P4Conv2D(
            layer.filters, layer.kernel_size[0], layer.strides, layer.padding, name=layer.name
        )

    return _replace(model, which, make)


def hypernetwork(
    model: keras.Model,
    which: str,
    slice_shape: tuple[int, int, int, int] = (16, 16, 3, 3),
    code_size: int = 64,
) -> keras.Model:
    """Returns the model with kernels from one two-layer hypernetwork.

    References:
      Omidvar et al. 2021, table 4 ("Hypernetworks"; after Ha, Dai and Le 2017).
    """
    generator = HyperSliceGenerator(slice_shape, code_size, name="hypernetwork")
    slices: list[Tensor] = []

    def make(layer: Any) -> Callable[[Tensor], Tensor]:
        generated = SliceGeneratedConv2D(
            layer.filters,
            layer.kernel_size,
            layer.strides,
            layer.padding,
            offset=True,
            name=layer.name,
        )

        def apply(x: Tensor) -> Tensor:
            if not slices:
                slices.append(generator(x))
            return generated([x, slices[0]])

        return apply

    return _replace(model, which, make)


def _replace(model: keras.Model, which: str, make: Callable) -> keras.Model:
    chosen = [
        path
        for path, layer in layers_by_path(model).items()
        if type(layer) is keras.layers.Conv2D and re.search(which, path)
    ]
    if not chosen:
        raise ValueError(f"no convolution of {model.name} matches {which!r}")
    return substitute_layers(model, dict.fromkeys(chosen, make))
