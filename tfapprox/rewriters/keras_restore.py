"""Restores a rewritten Keras model: chains of stages become the dense layers they stand for.

`keras_stages` calls the last layer of a chain NAME and the earlier ones NAME_stage0,
NAME_stage1 and so on. Together with how the layers are wired that is enough to go back;
where layers only happen to be called so, composing them is still right, since every
step is linear.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.rewriters.keras_clone import live_config
from tfapprox.rewriters.keras_einsum import read_equation
from tfapprox.rewriters.keras_graph import (
    check_graph_model,
    first_argument,
    flavour_of,
    is_graph_model,
    nodes_of,
    tree_of,
)
from tfapprox.rewriters.keras_model import StandIns, rebuild_keras_model
from tfapprox.rewriters.keras_stages import Name, StageLayer
from tfapprox.rewriters.keras_trace import Shape

_GROUPED = "...gi,gij->...gj"


@dataclasses.dataclass(frozen=True, eq=False)
class LayerChain:
    """Layers that stand in for one.

    Attributes:
      path: of the last layer and of the layer that it stood in for.
      layers: in the order of execution, at least two.
    """

    path: str
    layers: tuple[Any, ...]

    @property
    def kernel(self) -> np.ndarray:
        """The dense kernel [H, W, I, O] that the chain equals, in double precision."""
        return _factorization(self.layers).reconstruct()


def restore_keras_model(model: Any) -> Any:
    """Returns a new model with one dense layer in the place of each chain of stages.

    It computes what `model` does, but for rounding. What the chain's last layer took
    over (name, bias, activation, regularizers, trainability) goes back; the original's
    kernel constraint is gone, and an EinsumDense may hold its kernel transposed. Not
    compiled. Without any chain it is a plain copy. An EinsumDense in channel slices
    stays factorized.

    Args:
      model: Sequential or Functional, of Keras 3 or tf_keras; never changed.

    Raises:
      UserError: a subclassed model.
    """
    check_graph_model(model)
    stand_ins: dict[int, StandIns] = {}
    for chain in chains_of(model):
        stand_ins |= {id(layer): _nothing for layer in chain.layers[:-1]}
        stand_ins[id(chain.layers[-1])] = functools.partial(_dense_layer, chain)
    return rebuild_keras_model(model, stand_ins)


def chains_of(model: Any, prefix: str = "") -> Iterator[LayerChain]:
    """Yields the model's chains of stages, those of nested models too."""
    calls = list(nodes_of(model))
    producers = {id(y): (layer, x) for layer, *x, outputs in calls for y in outputs}
    readers: Counter[int] = Counter()
    for _, args, kwargs, _ in calls:
        used = tree_of(flavour_of(model)).flatten((args, kwargs))
        readers.update(id(x) for x in used)
    readers.update(id(x) for x in model.outputs)
    found: set[int] = set()
    for layer, args, kwargs, _ in calls:
        if is_graph_model(layer):
            yield from chains_of(layer, f"{prefix}{layer.name}/")
        elif id(layer) not in found:
            found.add(id(layer))
            layers = _walk_back(layer, first_argument(args, kwargs), producers, readers)
            if len(layers) > 1 and _is_chain(layers):
                yield LayerChain(f"{prefix}{layer.name}", layers)


def _walk_back(layer: Any, x: Any, producers: dict, readers: dict) -> tuple[Any, ...]:
    """Returns the layers that are called as `layer`'s earlier stages, and `layer`."""
    name = re.compile(re.escape(layer.name) + r"_stage\d+(_\d+)?(_split|_merge)?")
    layers = [layer]
    while id(x) in producers and readers[id(x)] == 1:
        source, (args, kwargs) = producers[id(x)]
        if not name.fullmatch(source.name):
            break
        layers.append(source)
        x = first_argument(args, kwargs)
    return tuple(reversed(layers))


def _is_chain(layers: Sequence[Any]) -> bool:
    """Says whether the layers are linear and compose to a layer of the last one's type."""
    keras = flavour_of(layers[-1])
    layer_types, linear = keras.layers, keras.activations.linear
    kinds = (layer_types.Dense, layer_types.Conv1D, layer_types.Conv2D, layer_types.EinsumDense)
    products = [layer for layer in layers if not isinstance(layer, layer_types.Reshape)]
    if type(layers[-1]) not in kinds or any(
        layer.bias is not None or layer.activation is not linear for layer in products[:-1]
    ):
        return False
    if type(layers[-1]) is layer_types.EinsumDense and len(products) < len(layers):
        return False  # the grouped stage no longer tells how its input was contracted
    stages = (type(layers[-1]), layer_types.DepthwiseConv2D, layer_types.EinsumDense)
    if not all(type(layer) in stages or _is_grouped(layer) for layer in products):
        return False
    taps = [_spatial(layer) for layer in products]
    # On each axis only one stage may have taps, strides or dilations.
    return all(sum(t[axis] != (1, 1, 1) for t in taps) <= 1 for axis in (0, 1))


def _is_grouped(layer: Any) -> bool:
    # By name: importing the class would import Keras 3 into a process of tf_keras.
    return type(layer).__name__ == "GroupedConv2D"


def _spatial(layer: Any) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Returns (taps, stride, dilation) of height and width."""
    if not hasattr(layer, "strides"):
        return (1, 1, 1), (1, 1, 1)
    values = tuple(zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True))
    return values[0] if len(values) == 2 else (1, 1, 1), values[-1]


def _factorization(layers: Sequence[Any]) -> Factorization:
    products = [layer for layer in layers if getattr(layer, "kernel", None) is not None]
    spatial = [_spatial(layer) for layer in products]
    holders = [
        next((i for i, s in enumerate(spatial) if s[axis] != (1, 1, 1)), 0) for axis in (0, 1)
    ]
    return Factorization(
        tuple(_stage(layer, (holders[0] == i, holders[1] == i)) for i, layer in enumerate(products))
    )


def _stage(layer: Any, axes: tuple[bool, bool]) -> Stage:
    kernel = np.asarray(layer.kernel).astype(np.float64)
    equation = getattr(layer, "equation", None)
    if equation == _GROUPED:
        groups, fan_in, fan_out = kernel.shape
        kernel = kernel.transpose(1, 0, 2).reshape(1, 1, fan_in, groups * fan_out)
        return Stage(kernel, groups, axes)
    if equation is not None:
        contraction = read_equation(equation)
        assert contraction is not None, equation
        kernel = contraction.flatten_kernel(kernel)
    kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)
    if hasattr(layer, "depth_multiplier"):
        height, width, groups, multiplier = kernel.shape
        return Stage(kernel.reshape(height, width, 1, groups * multiplier), groups, axes)
    return Stage(kernel, getattr(layer, "groups", 1), axes)


def _nothing(layer: Any, input_shape: Shape, name: Name) -> list[StageLayer]:
    return []


def _dense_layer(chain: LayerChain, layer: Any, input_shape: Shape, name: Name) -> list[StageLayer]:
    """Returns the layer that the chain stood in for."""
    config, kernel = live_config(layer), chain.kernel
    config.pop("batch_input_shape", None)
    for key in ("activation", "kernel_regularizer", "bias_regularizer", "activity_regularizer"):
        config[key] = getattr(layer, key)
    if hasattr(layer, "strides"):
        rank = len(layer.kernel_size)
        spatial = [_spatial(x)[2 - rank :] for x in chain.layers]
        columns = np.prod(spatial, axis=0).T.tolist()
        for key, values in zip(("kernel_size", "strides", "dilation_rate"), columns, strict=True):
            config[key] = tuple(values)
        config["groups"] = 1
        kernel = kernel[2 - rank :] if rank == 2 else kernel[0]
    elif hasattr(layer, "equation"):
        kernel = _einsum(chain, config, kernel)
    else:
        kernel = kernel[0, 0]
    return [StageLayer(type(layer).from_config(config), kernel)]


def _einsum(chain: LayerChain, config: dict, kernel: np.ndarray) -> np.ndarray:
    """Sets the equation of the whole chain; returns the kernel as it asks for."""
    first, last = read_equation(chain.layers[0].equation), read_equation(chain.layers[-1].equation)
    assert first is not None and last is not None, chain.path
    config["equation"] = (
        f"{first.kept}{first.contracted},{first.contracted}{last.produced}"
        f"->{last.kept}{last.produced}"
    )
    sizes = dict(zip(first.kernel, chain.layers[0].kernel.shape, strict=True))
    sizes |= {
        label: size
        for label, size in zip(last.kernel, chain.layers[-1].kernel.shape, strict=True)
        if label in last.produced
    }
    return kernel.reshape([sizes[label] for label in first.contracted + last.produced])
