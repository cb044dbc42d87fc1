"""Rewrites a Keras model: chosen layers become chains of stock layers.

One mechanism serves Keras 3 and tf_keras: the model's nodes are replayed on new
inputs with a copy, or a chain of stages, in place of each layer. (Keras 3 has a
`clone_model(call_function=...)` that could do most of it; tf_keras has not, and
neither copies weights nor keeps shared layers shared between nested models.)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tfapprox.accounting.factorization import Factorization
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_clone import clone_layer, copy_state, copy_trainable
from tfapprox.rewriters.keras_graph import (
    check_graph_model,
    first_argument,
    input_structure,
    is_graph_model,
    layers_by_path,
    nodes_of,
    run_graph,
    tree_of,
    weights_of,
)
from tfapprox.rewriters.keras_inspection import (
    canonical_kernel,
    inspect_keras_model,
    reason_to_keep,
)
from tfapprox.rewriters.keras_stages import (
    Name,
    StageLayer,
    stage_layers,
    with_trainable_groups,
)
from tfapprox.rewriters.keras_trace import Shape

# Layers that tf_keras puts behind `model.add_loss(tensor)` and `model.add_metric`.
_SIDE_LAYERS = ("AddLoss", "AddMetric")

StandIns = Callable[[Any, Shape, Name], list[StageLayer]]
"""Turns a layer, given its input's shape and a maker of names, into what stands in for it."""

__all__ = ["inspect_keras_model", "rebuild_keras_model", "rewrite_keras_model"]


def rewrite_keras_model(
    model: Any, replacements: Mapping[str, Factorization], trainable_groups: bool = False
) -> Any:
    """Returns a new model in which each named site is a chain of stock layers.

    The result has the flavour, kind, names, inputs, outputs, dtype policies and
    trainability of `model`, and bit for bit its other weights. The two share no
    layer and no variable. It is not compiled: an optimizer's slots belong to the
    old variables, so compile it anew to train it.

    Args:
      model: Sequential or Functional; never changed.
      replacements: site name, as `inspect_keras_model` has it, to stages.
      trainable_groups: let grouped convolutions of Keras 3 be `GroupedConv2D`, which
        CPUs train many times faster than the stock layer.

    Raises:
      UserError: a subclassed model, an unknown site, stages that do not fit a
        site, or a layer that can't be made anew from its config.
    """
    check_graph_model(model)
    return rebuild_keras_model(model, _match(model, replacements, trainable_groups))


def rebuild_keras_model(model: Any, stand_ins: Mapping[int, StandIns]) -> Any:
    """Returns a new model in which other layers stand in for some.

    The last of a layer's stand-ins gets its bias, unless it comes with all its weights; a
    layer without any passes its input on.

    Args:
      model: a graph model; never changed.
      stand_ins: id(layer) to what makes its stand-ins, asked once a layer.
    """
    rebuild = _Rebuild(check_graph_model(model), stand_ins)
    new_model = rebuild.model(model)
    rebuild.copy_weights()
    return new_model


def _match(
    model: Any, replacements: Mapping[str, Factorization], trainable_groups: bool
) -> dict[int, StandIns]:
    """Returns id(layer) -> the maker of its stages after checking names and shapes."""
    layers = layers_by_path(model)
    matched: dict[int, StandIns] = {}
    for path, factorization in replacements.items():
        if path not in layers:
            raise UserError(f"model {model.name!r} has no site {path!r}: see inspect_keras_model")
        reason = reason_to_keep(layers[path])
        if reason is not None:
            raise UserError(f"{path!r} is no site: {reason or 'it has no kernel'}")
        expected = canonical_kernel(layers[path]).shape
        found = factorization.reconstruct().shape
        if found != expected:
            raise UserError(f"site {path!r} has a kernel {expected}; its stages compose to {found}")
        matched[id(layers[path])] = functools.partial(_stages, factorization, trainable_groups)
    return matched


def _stages(
    factorization: Factorization,
    trainable_groups: bool,
    layer: Any,
    input_shape: Shape,
    name: Name,
) -> list[StageLayer]:
    stages = stage_layers(layer, factorization, input_shape, name)
    return [with_trainable_groups(stage) for stage in stages] if trainable_groups else stages


class _Rebuild:
    """One rebuilding of a model; remembers what each layer became, so sharing is kept."""

    def __init__(self, keras: Any, replacements: Mapping[int, StandIns]):
        self._keras = keras
        self._replacements = replacements
        self._chains: dict[int, list[StageLayer]] = {}
        self._clones: dict[int, Any] = {}
        # What became of what, in order of creation: inner layers before their model.
        self._pairs: list[tuple[Any, Any]] = []
        self._names: set[str] = set()

    def model(self, model: Any) -> Any:
        """Returns the model made anew, nested models first; weights are copied later."""
        if id(model) in self._clones:
            return self._clones[id(model)]
        if any(type(layer).__name__ in _SIDE_LAYERS for layer, *_ in nodes_of(model)):
            raise UserError(
                f"model {model.name!r} has a loss or metric in its graph (add_loss, add_metric), "
                "which lies off the way to its outputs: add it to the rewritten model instead"
            )
        self._names |= {layer.name for layer, *_ in nodes_of(model)}
        tree = tree_of(self._keras)
        inputs = tree.pack_sequence_as(
            input_structure(model), [_new_input(x) for x in model.inputs]
        )
        if isinstance(model, self._keras.Sequential):
            # Not called here: Sequential calls its layers itself, and once is enough.
            calls = (
                (layer, first_argument(args, kwargs)) for layer, args, kwargs, _ in nodes_of(model)
            )
            layers = [new for layer, x in calls for new in self._stand_ins(layer, tuple(x.shape))]
            new_model = type(model)([*tree.flatten(inputs), *layers], name=model.name)
        else:
            outputs = run_graph(model, inputs, self._call)
            # Classes of one's own are told apart in `is_graph_model`; this one takes a graph.
            new_model = type(model)(inputs, outputs, name=model.name)
        self._clones[id(model)] = new_model
        self._pairs.append((model, new_model))
        return new_model

    def _call(self, layer: Any, args: tuple, kwargs: dict) -> Any:
        if id(layer) not in self._replacements:
            return self._clone(layer)(*args, **kwargs)
        x = first_argument(args, kwargs)
        for new_layer in self._stand_ins(layer, tuple(x.shape)):
            x = new_layer(x)
        return x

    def _stand_ins(self, layer: Any, input_shape: tuple) -> list[Any]:
        """Returns the new layers, to be called in turn, in place of `layer`."""
        if id(layer) not in self._replacements:
            return [self._clone(layer)]
        return [stage.layer for stage in self._chain(layer, input_shape)]

    def _clone(self, layer: Any) -> Any:
        if is_graph_model(layer):
            return self.model(layer)
        if id(layer) not in self._clones:
            self._clones[id(layer)] = clone_layer(layer)
            self._pairs.append((layer, self._clones[id(layer)]))
        return self._clones[id(layer)]

    def _chain(self, layer: Any, input_shape: tuple) -> list[StageLayer]:
        if id(layer) not in self._chains:
            chain = self._replacements[id(layer)](layer, input_shape, self._unused_name)
            self._chains[id(layer)] = chain
            self._pairs += [(layer, stage.layer) for stage in chain]
        return self._chains[id(layer)]

    def _unused_name(self, name: str) -> str:
        count, unused = 1, name
        while unused in self._names:
            unused = f"{name}_{count}"
            count += 1
        self._names.add(unused)
        return unused

    def copy_weights(self) -> None:
        """Fills the new layers with state; trainability first, as it orders weights."""
        layer_class = self._keras.layers.Layer
        pairs = [pair for pair in self._pairs if isinstance(pair[0], layer_class)]
        for source, target in reversed(pairs):
            if is_graph_model(source) or id(source) in self._replacements:
                target.trainable = source.trainable
            else:
                copy_trainable(source, target)
        for source, target in pairs:
            if not is_graph_model(source) and id(source) not in self._replacements:
                copy_state(source, target)
        sources = {id(source): source for source, _ in pairs}
        for key, chain in self._chains.items():
            if chain:
                _fill(sources[key], chain)


def _fill(layer: Any, chain: list[StageLayer]) -> None:
    """Gives a chain its kernels and the layer's bias, or all weights it comes with."""
    for stage in chain:
        if stage.kernel is not None:
            stage.layer.weights[0].assign(stage.kernel)
        for weight, value in zip(weights_of(stage.layer), stage.weights, strict=False):
            weight.assign(value)
    last = chain[-1]
    if last.weights:
        return
    if layer.bias is not None:
        last.layer.bias.assign(layer.bias)
    if last.offset is not None:
        last.layer.bias.assign_add(last.offset.reshape(last.layer.bias.shape))


def _new_input(symbol: Any) -> Any:
    """Returns a new symbolic input like this one, of the same name."""
    layer = symbol._keras_history[0]
    return type(layer).from_config(layer.get_config()).output
