"""Networks of the slice generator's paper, and the ways to make them smaller."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from tensorflow import keras

from experiments.models import densenet, mobilenet_v2, resnet_cifar, shufflenet_v2, variants, vgg
from tfapprox.errors import UserError
from tfapprox.layers.slice_generator import SliceGenerator
from tfapprox.rewriters.generate_slices import generate_slices

Shape = tuple[int, int, int]

FROM_SCRATCH = (
    "plain",
    "csg",
    "bcsg",
    "pretrained",
    "separable",
    "separable_half",
    "crelu",
    "p4",
    "hypernetwork",
    "fp16",
    "csg_fp16",
)
AFTER_TRAINING = ("post", "post_tuned")
METHODS = FROM_SCRATCH + AFTER_TRAINING


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of the tables.

    Attributes:
      build: classes, input shape and activation (relu or crelu) to a fresh model.
      generated: regular expression of the convolutions that are replaced.
      slice_shape, code_size: the paper's choice for it.
      half: the convolutions that "half separable" replaces.
    """

    build: Callable[[int, Shape, str], Any]
    generated: str
    slice_shape: tuple[int, int, int, int] = (16, 16, 3, 3)
    code_size: int = 128
    half: str = ""


@dataclasses.dataclass(frozen=True)
class SliceSettings:
    """Slices of the generated methods.

    Attributes:
      slice_shape: out, in, height, width.
      code_size: n_c.
      which: regular expression of the convolutions.
      generator: .npz file of a pre-trained generator, "" for none.
    """

    slice_shape: tuple[int, int, int, int]
    code_size: int
    which: str
    generator: str = ""


def find_network(name: str) -> Network:
    """Returns the network called resnet56, densenet-bc-40-48, vgg16, mobilenet_v2 and the like.

    Raises:
      UserError: there is none; the message lists the forms of names.
    """
    if match := re.fullmatch(r"resnet(\d+)", name):
        return _resnet(int(match[1]))
    if match := re.fullmatch(r"densenet(-bc)?-(\d+)-(\d+)", name):
        return _densenet(bool(match[1]), int(match[2]), int(match[3]))
    if match := re.fullmatch(r"vgg(16|19)", name):
        build = functools.partial(_without_crelu, functools.partial(vgg.vgg, int(match[1])))
        return Network(build, vgg.GENERATED)
    if name == "mobilenet_v2":
        build = functools.partial(_without_crelu, mobilenet_v2.mobilenet_v2)
        return Network(build, mobilenet_v2.GENERATED, (16, 16, 1, 1), 16)
    if name == "shufflenet_v2":
        build = functools.partial(_without_crelu, shufflenet_v2.shufflenet_v2)
        return Network(build, shufflenet_v2.GENERATED, (16, 16, 1, 1), 16)
    raise UserError(
        f"unknown network {name!r}: resnet<depth>, densenet-bc-<depth>-<growth>, "
        "densenet-<depth>-<growth>, vgg16, vgg19, mobilenet_v2 or shufflenet_v2"
    )


def build_model(
    method: str, network: Network, slices: SliceSettings, classes: int, shape: Shape
) -> keras.Model:
    """Returns a fresh model of the network made smaller by a method to train from scratch.

    Raises:
      UserError: the network has no such form.
    """
    activation = "crelu" if method == "crelu" else "relu"
    model = network.build(classes, shape, activation)
    if method in ("csg", "csg_fp16", "bcsg", "pretrained"):
        return generate_slices(
            model,
            slices.slice_shape,
            slices.code_size,
            slices.which,
            binary=method == "bcsg",
            generator=load_generator(slices.generator) if method == "pretrained" else None,
        ).model
    if method == "separable":
        return variants.separable(model, slices.which)
    if method == "separable_half":
        if not network.half:
            raise UserError("separable_half is defined for the residual networks only")
        return variants.separable(model, network.half)
    if method == "p4":
        return variants.rotation_equivariant(model, slices.which)
    if method == "hypernetwork":
        return variants.hypernetwork(model, slices.which)
    return model


def save_generator(layer: SliceGenerator, path: Any) -> None:
    """Writes a trained generator, for `pretrained` runs on other networks."""
    np.savez(
        path,
        generator=np.asarray(layer.generator),
        slice_shape=layer.slice_shape,
        binary=layer.binary,
    )


def load_generator(path: str) -> SliceGenerator:
    """Returns the generator that `save_generator` wrote.

    Raises:
      UserError: no such file, or another kind of file.
    """
    if not path:
        raise UserError("method pretrained needs --generator, the generator.npz of a csg run")
    try:
        with np.load(path) as file:
            values = file["generator"]
            out_channels, in_channels, height, width = (int(n) for n in file["slice_shape"])
            binary = bool(file["binary"])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"--generator {path} is no generator.npz of a csg run: {error}") from error
    shape = (out_channels, in_channels, height, width)
    layer = SliceGenerator(shape, len(values), binary=binary)
    layer.build((None, 1))
    layer.set_weights([values])
    return layer


def _resnet(depth: int) -> Network:
    def build(classes: int, shape: Shape, activation: str) -> keras.Model:
        return resnet_cifar.resnet_cifar(depth, "A", classes, shape, activation)

    half = r"^(stem|stage\d_unit\d+_conv1)$"
    return Network(build, resnet_cifar.GENERATED, half=half)


def _densenet(bottleneck: bool, depth: int, growth: int) -> Network:
    def build(classes: int, shape: Shape, activation: str) -> keras.Model:
        config = densenet.DenseNetConfig(
            depth,
            growth,
            bottleneck,
            0.5 if bottleneck else 1.0,
            classes=classes,
            input_shape=shape,
            activation=activation,
        )
        return densenet.densenet(config)

    return Network(build, densenet.GENERATED, (12, 12, 3, 3), 72)


def _without_crelu(build: Callable, classes: int, shape: Shape, activation: str) -> keras.Model:
    if activation != "relu":
        raise UserError("crelu is defined for residual and dense networks only")
    return build(classes=classes, input_shape=shape)
