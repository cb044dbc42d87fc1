"""Trainable parameters of every network in the papers' tables, to the unit."""

import functools
import math

import pytest
import tensorflow as tf
from tensorflow import keras

from experiments.models import (
    alexnet,
    deeplab,
    densenet,
    lstm_lm,
    mlp,
    mnist_cnn,
    mobilenet_v2,
    resnet,
    resnet_cifar,
    shufflenet_v2,
    variants,
    vgg,
    wide_resnet,
)
from tfapprox.rewriters.generate_slices import generate_slices

LARGE, MEDIUM, POINTWISE = ((16, 16, 3, 3), 128), ((12, 12, 3, 3), 72), ((16, 16, 1, 1), 16)

_resnet = functools.cache(resnet_cifar.resnet_cifar)
_mobilenet = functools.cache(mobilenet_v2.mobilenet_v2)
_shufflenet = functools.cache(shufflenet_v2.shufflenet_v2)


@functools.cache
def _densenet(growth=48, **options):
    return densenet.densenet(densenet.DenseNetConfig(growth=growth, **options))


@functools.cache
def _imagenet(depth):
    return resnet.resnet(depth, input_shape=(32, 32, 3))


@functools.cache
def _deeplab(depth):
    return deeplab.deeplab_v3_plus(depth, input_shape=(32, 32, 3))


def _csg(model, slices, which, **options):
    return generate_slices(model, *slices, which, **options).model


def _csg_resnet56(slices=LARGE, **options):
    return _csg(_resnet(56), slices, resnet_cifar.GENERATED, **options)


@functools.cache
def _csg_densenet(growth=48, which=densenet.GENERATED, **options):
    return _csg(_densenet(growth), MEDIUM, which, **options)


@functools.cache
def _csg_imagenet(depth, **options):
    return _csg(_imagenet(depth), LARGE, resnet.GENERATED, **options)


@functools.cache
def _csg_deeplab(depth):
    return _csg(_deeplab(depth), LARGE, deeplab.GENERATED)


def _csg_aspp(depth):
    return _csg(_csg_deeplab(depth), LARGE, deeplab.GENERATED_ASPP)


def _pretrained_resnet56():
    small = _csg(_resnet(20), LARGE, resnet_cifar.GENERATED)
    return _csg_resnet56(generator=small)


HALF = r"^(stem|stage\d_unit\d+_conv1)$"
ALL = resnet_cifar.GENERATED

# Table 1.
CIFAR = {
    "DenseNet-BC-40-48": (2_733_130, _densenet),
    "DenseNet-BC-40-48-CSG": (1_416_394, _csg_densenet),
    "DenseNet-BC-40-48-CSG pre-trained on itself": (
        1_323_082,
        lambda: _csg_densenet(generator=_csg_densenet()),
    ),
    "DenseNet-BC-40-48-CSG pre-trained on DenseNet-BC-40-36": (
        1_323_082,
        lambda: _csg_densenet(generator=_csg_densenet(36)),
    ),
    "DenseNet-BC-40-48-CSG with 1x1": (
        904_906,
        lambda: _csg_densenet(which=densenet.GENERATED_WITH_BOTTLENECKS),
    ),
    "DenseNet-BC-40-48-BCSG": (1_323_082, lambda: _csg_densenet(binary=True)),
    "DenseNet-BC-40-36": (1_542_682, lambda: _densenet(36)),
    "DenseNet-BC-40-36-CSG": (842_842, lambda: _csg_densenet(36)),
    "DenseNet-BC-40-36-CSG pre-trained": (
        749_530,
        lambda: _csg_densenet(36, generator=_csg_densenet(48)),
    ),
    "ResNet-56": (853_018, lambda: _resnet(56)),
    "ResNet-56-CSG-128": (347_162, _csg_resnet56),
    "ResNet-56-CSG-72": (160_450, lambda: _csg_resnet56(MEDIUM)),
    "ResNet-56-CSG pre-trained on ResNet-20": (52_250, _pretrained_resnet56),
    "ResNet-56-BCSG-1024": (381_978, lambda: _csg_resnet56(((16, 16, 3, 3), 1024), binary=True)),
    "ShuffleNetV2-0.5": (352_042, _shufflenet),
    "ShuffleNetV2-0.5-CSG": (
        171_818,
        lambda: _csg(_shufflenet(), POINTWISE, shufflenet_v2.GENERATED),
    ),
    "ShuffleNetV2-0.5-BCSG": (
        167_722,
        lambda: _csg(_shufflenet(), POINTWISE, shufflenet_v2.GENERATED, binary=True),
    ),
    "MobileNetV2": (2_296_922, _mobilenet),
    "MobileNetV2-CSG": (1_595_322, lambda: _csg(_mobilenet(), POINTWISE, mobilenet_v2.GENERATED)),
    "MobileNetV2-BCSG": (
        1_591_226,
        lambda: _csg(_mobilenet(), POINTWISE, mobilenet_v2.GENERATED, binary=True),
    ),
}

# Table 2; the printed ResNet-101 counts BatchNormalization's moving statistics too.
IMAGENET = {
    "ResNet-50": (25_557_032, lambda: _imagenet(50)),
    "ResNet-50-CSG": (15_163_432, lambda: _csg_imagenet(50)),
    "ResNet-50-BCSG": (14_868_520, lambda: _csg_imagenet(50, binary=True)),
    "ResNet-101": (44_654_504 - 105_344, lambda: _imagenet(101)),
    "ResNet-101-CSG": (24_685_608, lambda: _csg_imagenet(101)),
    "ResNet-101-BCSG": (24_390_696, lambda: _csg_imagenet(101, binary=True)),
}

# Table 3.
SEGMENTATION = {
    "DeepLab-50": (40_352_181, lambda: _deeplab(50)),
    "DeepLab-50-CSG": (29_958_581, lambda: _csg_deeplab(50)),
    "DeepLab-50-CSG with ASPP": (16_884_149, lambda: _csg_aspp(50)),
    "DeepLab-101": (59_344_309, lambda: _deeplab(101)),
    "DeepLab-101-CSG": (39_480_757, lambda: _csg_deeplab(101)),
    "DeepLab-101-CSG with ASPP": (26_406_325, lambda: _csg_aspp(101)),
}

# Table 4, as far as it is not in table 1. Half precision counts as full.
BASELINES = {
    "DenseNet-BC-40-48 separable": (
        1_441_450,
        lambda: variants.separable(_densenet(), densenet.GENERATED, use_bias=True),
    ),
    "DenseNet-BC-40-48 CReLU": (1_369_210, lambda: _densenet(activation="crelu")),
    "DenseNet-BC-40-48 p4": (
        1_613_602,
        lambda: variants.rotation_equivariant(_densenet(), densenet.GENERATED),
    ),
    "DenseNet-BC-40-48 hypernetwork": (
        1_435_530,
        lambda: variants.hypernetwork(_densenet(), densenet.GENERATED),
    ),
    "ResNet-56 half separable": (494_709, lambda: variants.separable(_resnet(56), HALF)),
    "ResNet-56 all separable": (117_066, lambda: variants.separable(_resnet(56), ALL)),
    "ResNet-56 CReLU": (427_066, lambda: _resnet(56, activation="crelu")),
    "ResNet-56 p4": (217_618, lambda: variants.rotation_equivariant(_resnet(56), ALL)),
    "ResNet-56 hypernetwork": (182_618, lambda: variants.hypernetwork(_resnet(56), ALL)),
}

# Other papers, and networks whose counts are well known.
OTHERS = {
    "MLP 784-500-500-10": (648_010, mlp.mlp),
    "MNIST CNN": (3_274_634, mnist_cnn.mnist_cnn),
    "LSTM language model": (19_775_200, lstm_lm.lstm_lm),
    "WRN-28-10": (36_278_324, wide_resnet.wide_resnet),
    "WRN-28-10 with convolutions as shortcuts": (
        36_536_884,
        lambda: wide_resnet.wide_resnet(shortcut="conv"),
    ),
    "ResNet-20": (269_722, lambda: _resnet(20)),
    "ResNet-20 B": (272_474, lambda: _resnet(20, "B")),
    "ResNet-32": (464_154, lambda: _resnet(32)),
    "ResNet-44": (658_586, lambda: _resnet(44)),
    "ResNet-110": (1_727_962, lambda: _resnet(110)),
    "DenseNet-40-12": (1_019_722, lambda: _densenet(12, bottleneck=False, reduction=1.0)),
    "DenseNet-40-12 with stem 24": (
        1_059_298,
        lambda: _densenet(12, bottleneck=False, reduction=1.0, stem=24),
    ),
    "VGG16-BN": (14_728_266, vgg.vgg),
    "VGG19-BN": (20_040_522, lambda: vgg.vgg(19)),
    "AlexNet": (61_100_840, alexnet.alexnet),
}

TABLES = CIFAR | IMAGENET | SEGMENTATION | BASELINES | OTHERS


@pytest.fixture(autouse=True)
def cheap_weights(monkeypatch):
    """Counting needs no random numbers, which are most of the work of building a network."""

    def ones(self, shape, dtype=None, **options):
        return tf.ones(shape, dtype or "float32")

    for name in ("VarianceScaling", "RandomNormal", "RandomUniform"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", ones)


@pytest.mark.parametrize("network", TABLES)
def test_a_network_has_exactly_the_trainable_parameters_of_its_paper(network):
    published, build = TABLES[network]
    weights = build().trainable_weights
    assert sum(math.prod(weight.shape) for weight in weights) == published


def test_the_network_of_denton_et_al_has_the_sides_of_their_supplement():
    model = alexnet.denton2014(widths=())
    sides = [model.get_layer(name).output.shape[1] for name in ("conv1", "pool1", "conv2")]
    assert sides == [110, 55, 51]
