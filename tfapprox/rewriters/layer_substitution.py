"""Replays a Keras model with some layers replaced by whatever a factory makes of them."""

from collections.abc import Callable, Mapping
from typing import Any

from tfapprox.errors import UserError
from tfapprox.rewriters.keras_clone import clone_layer, copy_state, copy_trainable
from tfapprox.rewriters.keras_graph import (
    check_graph_model,
    first_argument,
    input_structure,
    is_graph_model,
    layers_by_path,
    run_graph,
    tree_of,
)

Tensor = Any
Factory = Callable[[Any], Callable[[Tensor], Tensor]]
"""Turns a layer, once, into what is applied to its input at each of its calls."""


def substitute_layers(model: Any, factories: Mapping[str, Factory]) -> Any:
    """Returns a Functional model in which the named layers are what their factories make.

    All other layers are copied with their state and trainability. Nested models are
    laid open, because a substitute may have to reach into them; so the layers'
    names must differ throughout. What the factories make, they also fill.

    Args:
      model: Sequential or Functional; never changed.
      factories: path, as in `layers_by_path`, to factory.

    Raises:
      UserError: a subclassed model, an unknown path, two layers of one name.
    """
    keras = check_graph_model(model)
    layers = layers_by_path(model)
    unknown = sorted(set(factories) - set(layers))
    if unknown:
        raise UserError(f"model {model.name!r} has no layer {unknown[0]!r}")
    _check_names(layers)
    replay = _Replay({id(layers[path]): factory for path, factory in factories.items()})
    tree = tree_of(keras)
    inputs = tree.pack_sequence_as(input_structure(model), [_new_input(x) for x in model.inputs])
    new_model = keras.Model(inputs, run_graph(model, inputs, replay.call), name=model.name)
    replay.copy_weights()
    return new_model


def _check_names(layers: Mapping[str, Any]) -> None:
    paths: dict[str, str] = {}
    for path, layer in layers.items():
        if layer.name in paths:
            raise UserError(
                f"layers {paths[layer.name]!r} and {path!r} have one name; rename one, as nested "
                "models are laid open"
            )
        paths[layer.name] = path


class _Replay:
    """One replay; remembers what each layer became, so that sharing is kept."""

    def __init__(self, factories: Mapping[int, Factory]):
        self._factories = factories
        self._made: dict[int, Callable] = {}
        self._pairs: list[tuple[Any, Any]] = []

    def call(self, layer: Any, args: tuple, kwargs: dict) -> Any:
        if id(layer) in self._factories:
            if id(layer) not in self._made:
                self._made[id(layer)] = self._factories[id(layer)](layer)
            return self._made[id(layer)](first_argument(args, kwargs))
        if is_graph_model(layer):
            return run_graph(layer, first_argument(args, kwargs), self.call)
        if id(layer) not in self._made:
            self._made[id(layer)] = clone_layer(layer)
            self._pairs.append((layer, self._made[id(layer)]))
        return self._made[id(layer)](*args, **kwargs)

    def copy_weights(self) -> None:
        for source, target in self._pairs:
            if hasattr(source, "_flatten_layers"):
                copy_trainable(source, target)
                copy_state(source, target)


def _new_input(symbol: Any) -> Tensor:
    layer = symbol._keras_history[0]
    return type(layer).from_config(layer.get_config()).output
