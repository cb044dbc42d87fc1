"""The sizes a Keras model's layers run at, seen by tracing the model once."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.rewriters.keras_graph import (
    first_argument,
    flavour_of,
    input_structure,
    is_graph_model,
    run_graph,
    tree_of,
)

Shape = tuple[int | None, ...]
Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """Static shapes of one call of one layer, batch first; None where unknown."""

    input_shape: Shape
    output_shape: Shape

    @property
    def is_known(self) -> bool:
        return None not in self.input_shape

    def sized(self, unknown_size: int) -> "SizedCall":
        """Returns the call with `unknown_size` in place of sizes that are still unknown."""
        shapes = (self.input_shape, self.output_shape)
        filled = [tuple(unknown_size if n is None else n for n in shape) for shape in shapes]
        return SizedCall(*filled)


@dataclasses.dataclass(frozen=True)
class SizedCall:
    """Sizes of one call of one layer, batch first."""

    input_size: Sizes
    output_size: Sizes


def trace_calls(model: Any, unknown_size: int | None) -> dict[int, list[LayerCall]]:
    """Returns id(layer) -> its calls, for one example.

    Symbolic shapes in the nodes would not do: a nested model may be called at
    another size than it was built with, and a size that is unknown at the input
    should be assumed there once, not layer by layer.

    Args:
      unknown_size: replaces unknown sizes of the inputs; None leaves them unknown.

    Raises:
      UserError: the model can't be run at that size.
    """
    calls: dict[int, list[LayerCall]] = {}
    tree = tree_of(flavour_of(model))

    def record(layer, args, kwargs):
        inputs = first_argument(args, kwargs) if args or "inputs" in kwargs else args
        if is_graph_model(layer):
            return run_graph(layer, inputs, record)
        outputs = layer(*args, **kwargs)
        shapes = [_static_shape(tree.flatten(x)) for x in (inputs, outputs)]
        calls.setdefault(id(layer), []).append(LayerCall(*shapes))
        return outputs

    # Keras has converted its layers' control flow itself when it built the model.
    function = tf.function(lambda inputs: run_graph(model, inputs, record), autograph=False)
    specs = tree.map_structure(lambda x: _spec(x, unknown_size), input_structure(model))
    try:
        function.get_concrete_function(specs)
    except Exception as error:  # any layer may fail, in any way
        raise UserError(
            f"model {model.name!r} can't be run on inputs {specs}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    return calls


def has_unknown_sizes(model: Any) -> bool:
    """Says whether an input leaves a size other than the batch open."""
    return any(size is None for x in model.inputs for size in tuple(x.shape)[1:])


def _spec(symbol: Any, unknown_size: int | None) -> tf.TypeSpec:
    shape = list(symbol.shape)
    shape = [1 if shape[:1] == [None] else size for size in shape[:1]] + [
        unknown_size if size is None else size for size in shape[1:]
    ]
    if getattr(symbol, "sparse", False):
        return tf.SparseTensorSpec(shape, symbol.dtype)
    return tf.TensorSpec(shape, symbol.dtype)


def _static_shape(tensors: list) -> Shape:
    shape = getattr(tensors[0], "shape", None) if tensors else None
    return () if shape is None or shape.rank is None else tuple(shape.as_list())
