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
    weights_of,
)
from tfapprox.rewriters.keras_model import StandIns, rebuild_keras_model
from tfapprox.rewriters.keras_stages import Name, StageLayer
from tfapprox.rewriters.keras_trace import Shape

_GROUPED = "...gi,gij->...gj"
# By the last layer of a chain.
_TAKEN_OVER = (
    "name",
    "activation",
    "bias_regularizer",
    "bias_constraint",
    "activity_regularizer",
)


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
    name = re.compile(re.escape(layer.name) + r"_stage\d+(_\d+)?(_split|_merge|_order)?")
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
    parts = [layer for layer in layers if not isinstance(layer, layer_types.Reshape)]
    if any(layer.bias is not None or layer.activation is not linear for layer in parts[:-1]):
        return False
    products = _products(layers)
    kind = _kind(layer_types, products)
    if kind not in kinds:
        return False
    if kind is layer_types.EinsumDense and len(products) < len(layers):
        return False  # the grouped stage no longer tells how its input was contracted
    stages = (kind, layer_types.DepthwiseConv2D, layer_types.EinsumDense)
    if not all(type(layer) in stages or _is_grouped(layer) for layer in products):
        return False
    taps = [_spatial(layer) for layer in products]
    # On each axis only one stage may have taps, strides or dilations.
    return all(sum(t[axis] != (1, 1, 1) for t in taps) <= 1 for axis in (0, 1))


def _products(layers: Sequence[Any]) -> list[Any]:
    """Returns the layers that hold a stage's kernel."""
    return [
        layer
        for layer in layers
        if hasattr(layer, "kernel_size") or getattr(layer, "kernel", None) is not None
    ]


def _kind(layer_types: Any, products: Sequence[Any]) -> type | None:
    """Returns the type of the layer that these stood in for."""
    kinds: list[type] = []
    for layer in products:
        if _is_grouped(layer):
            kinds.append(layer_types.Conv2D)
        elif getattr(layer, "equation", "") == _GROUPED:
            kinds.insert(0, layer_types.Dense)  # unless another says EinsumDense
        elif type(layer) is not layer_types.DepthwiseConv2D:
            kinds.append(type(layer))
    return kinds[-1] if kinds else None


def _is_order(layer: Any) -> bool:
    return type(layer).__name__ == "ChannelOrder"


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
    products = _products(layers)
    spatial = [_spatial(layer) for layer in products]
    holders = [
        next((i for i, s in enumerate(spatial) if s[axis] != (1, 1, 1)), 0) for axis in (0, 1)
    ]
    orders = _orders(layers, products)
    stages = [
        dataclasses.replace(
            _stage(layer, (holders[0] == i, holders[1] == i)), input_order=orders[i]
        )
        for i, layer in enumerate(products)
    ]
    return Factorization(tuple(stages), orders[-1])


def _orders(layers: Sequence[Any], products: Sequence[Any]) -> list[np.ndarray | None]:
    """Returns the order of the channels before each product, and after the last one."""
    known = {id(layer): place for place, layer in enumerate(products)}
    orders: list[np.ndarray | None] = [None] * (len(products) + 1)
    passed = 0
    for layer in layers:
        if _is_order(layer):
            orders[passed] = np.array(layer.order)
        passed = known.get(id(layer), passed - 1) + 1
    return orders


def _stage(layer: Any, axes: tuple[bool, bool]) -> Stage:
    kernel = np.asarray(weights_of(layer)[0]).astype(
        np.float64
    )  # a depthwise kernel has its own name
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
    products = _products(chain.layers)
    kind: Any = _kind(flavour_of(layer).layers, products)
    assert kind is not None, chain.path  # it would be no chain
    base: Any = next((x for x in reversed(products) if type(x) is kind), products[-1])
    config, kernel = live_config(base), chain.kernel
    if type(base) is not kind and not _is_grouped(base):  # a Dense whose stages are all grouped
        config = {key: config[key] for key in ("dtype", "trainable")}
    config.pop("batch_input_shape", None)
    config |= {key: getattr(layer, key) for key in _TAKEN_OVER}
    config["kernel_regularizer"] = base.kernel_regularizer
    if "bias_axes" not in config:
        config["use_bias"] = layer.bias is not None
        config["filters" if hasattr(base, "strides") else "units"] = kernel.shape[3]
    if hasattr(base, "strides"):
        rank = len(base.kernel_size)
        spatial = [_spatial(x)[2 - rank :] for x in products]
        columns = np.prod(spatial, axis=0).T.tolist()
        for key, values in zip(("kernel_size", "strides", "dilation_rate"), columns, strict=True):
            config[key] = tuple(values)
        config["groups"] = 1
        kernel = kernel if rank == 2 else kernel[0]
    elif "bias_axes" in config:
        config["bias_axes"] = layer.bias_axes
        kernel = _einsum(chain, config, kernel)
    else:
        kernel = kernel[0, 0]
    return [StageLayer(kind.from_config(config), kernel)]


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
