"""Keras graph models (Sequential, Functional), in the words Keras 3 and tf_keras share.

Both flavours keep a model as nodes: one call of one layer, with its arguments and
outputs. `run_graph` replays the nodes with any call function: on real tensors to see
shapes, on symbolic ones to build another model.
"""

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import tensorflow as tf

from tfapprox.errors import UserError

Call = Callable[[Any, tuple, dict], Any]
"""Stands in for `layer(*args, **kwargs)`."""

FLAVOURS = ("keras", "tf_keras")
_WAY_OUT = "export it (model.export(dir)) and compress the SavedModel instead"


def flavour_of(model: Any) -> ModuleType:
    """Returns the package, keras or tf_keras, that the model or layer was built with.

    Raises:
      UserError: it is no Keras object, or Keras 3 runs on another backend.
    """
    roots = [_root(cls) for cls in type(model).__mro__]
    flavour = next((root for root in roots if root in FLAVOURS), None)
    if flavour is None:
        raise UserError(f"expected a Keras model, got {type(model).__name__}")
    keras = importlib.import_module(flavour)
    if keras.backend.backend() != "tensorflow":
        raise UserError(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow")
    return keras


def _root(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def is_graph_model(layer: Any) -> bool:
    """Says whether the layer is a Sequential or Functional model that we can rebuild."""
    own = [cls for cls in type(layer).__mro__ if _root(cls) not in (*FLAVOURS, "builtins")]
    own = [cls for cls in own if _root(cls) != "tensorflow"]
    free_form = any(method in vars(cls) for cls in own for method in ("call", "__init__"))
    return hasattr(_graph(layer), "_nodes_by_depth") and not free_form


def check_graph_model(model: Any) -> ModuleType:
    """Returns the flavour of a model made of nodes.

    Raises:
      UserError: not a Keras model, subclassed, or without weights yet.
    """
    keras = flavour_of(model)
    if not isinstance(model, keras.Model):
        raise UserError(f"expected a Keras model, got the layer {type(model).__name__}")
    if is_graph_model(model):
        return keras
    if type(model) is keras.Sequential:
        raise UserError(f"model {model.name!r} has no input shape yet: build it or call it first")
    raise UserError(
        f"model {model.name!r} is a subclassed model ({type(model).__name__}), whose layers are "
        f"wired in Python code: {_WAY_OUT}"
    )


def _graph(model: Any) -> Any:
    # A Keras 3 Sequential keeps its nodes in an inner Functional.
    return getattr(model, "_functional", None) or model


def tree_of(keras: ModuleType) -> Any:
    """Returns the flavour's module for nested structures."""
    return keras.tree if hasattr(keras, "tree") else tf.nest


def input_structure(model: Any) -> Any:
    """Returns the model's symbolic inputs as its caller nests them."""
    graph = _graph(model)
    return graph._inputs_struct if hasattr(graph, "_inputs_struct") else graph._nested_inputs


def output_structure(model: Any) -> Any:
    """Returns the model's symbolic outputs as it nests them."""
    graph = _graph(model)
    return graph._outputs_struct if hasattr(graph, "_outputs_struct") else graph._nested_outputs


def nodes_of(model: Any) -> Iterator[tuple[Any, tuple, dict, list]]:
    """Yields (layer, args, kwargs, outputs) of each call, in an order that can be run."""
    nodes_by_depth = _graph(model)._nodes_by_depth
    for depth in sorted(nodes_by_depth, reverse=True):
        for node in nodes_by_depth[depth]:
            if node.is_input:
                continue
            if hasattr(node, "operation"):
                arguments = node.arguments
                yield node.operation, tuple(arguments.args), arguments.kwargs, node.outputs
            else:
                outputs = tf.nest.flatten(node.outputs)
                yield node.layer, tuple(node.call_args), node.call_kwargs, outputs


def run_graph(model: Any, inputs: Any, call: Call) -> Any:
    """Replays the model's nodes on `inputs` and returns its nested outputs.

    Nested models are one call each; `call` may descend into them.

    Args:
      inputs: nested as the model was called.
      call: what to do in place of `layer(*args, **kwargs)`.
    """
    tree = tree_of(flavour_of(model))
    if isinstance(inputs, dict) and not isinstance(input_structure(model), dict):
        inputs = [inputs[x._keras_history[0].name] for x in model.inputs]
    values = {id(x): y for x, y in zip(model.inputs, tree.flatten(inputs), strict=True)}

    def fill_in(argument):
        return values.get(id(argument), argument)

    for layer, args, kwargs, outputs in nodes_of(model):
        args, kwargs = tree.map_structure(fill_in, (args, dict(kwargs)))
        results = tree.flatten(call(layer, args, kwargs))
        values.update((id(x), y) for x, y in zip(outputs, results, strict=True))
    return tree.map_structure(fill_in, output_structure(model))


def weights_of(layer: Any) -> list[Any]:
    """Returns the layer's or model's variables, less what tf_keras counts as a weight too.

    (A string look-up lists a handle of its vocabulary, which has no shape.)
    """
    return [w for w in getattr(layer, "weights", ()) if hasattr(w, "shape")]


def first_argument(args: tuple, kwargs: dict) -> Any:
    """Returns what a layer was called on."""
    return args[0] if args else kwargs["inputs"]


def layers_by_path(model: Any, prefix: str = "") -> dict[str, Any]:
    """Returns path -> layer in order of execution, nested models taken apart.

    A path is the layer's name behind the names of the models that hold it, e.g.
    "encoder/block/dense". A shared layer appears once, where it is used first.
    """
    found: dict[str, Any] = {}
    for layer, *_ in nodes_of(model):
        path = f"{prefix}{layer.name}"
        inner = layers_by_path(layer, f"{path}/") if is_graph_model(layer) else {path: layer}
        known = {id(other) for other in found.values()}
        found.update((k, v) for k, v in inner.items() if id(v) not in known)
    return found
