"""A model's operations in one flat graph, any part of which can be run or trained by itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class FlatGraph:
    """One function of a model, laid out flat.

    Attributes:
      graph: a tf.Graph of its operations.
      inputs: key -> placeholder.
      outputs: key -> tensor.
      variables: name -> variable that the graph may read.
    """

    def __init__(
        self,
        build: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]],
        variables: Mapping[str, tf.Variable],
    ):
        """Args:
        build: makes the operations in the default graph, which captures variables; returns
          inputs and outputs by their keys.
        variables: by name.
        """
        made: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self._wrapped: Any = tf.compat.v1.wrap_function(lambda: made.append(build()), [])
        self.graph: tf.Graph = self._wrapped.graph
        self.inputs, self.outputs = made[0]
        self.variables = variables
        inner = {id(outer): inner for outer, inner in self._wrapped.graph.captures}
        self._handles = {
            name: inner[id(variable.handle)]
            for name, variable in variables.items()
            if id(variable.handle) in inner
        }

    @property
    def handles(self) -> dict[str, Any]:
        """Variable's name -> the tensor by which the graph reads it, for those it reads."""
        return self._handles

    def function(self, feeds: Sequence[Any], fetches: Sequence[Any]) -> Callable[..., list[Any]]:
        """Returns the part of the graph from some tensors to others, as a function of the first."""
        return self._wrapped.prune(list(feeds), list(fetches))

    def runner(
        self, fetches: Sequence[Any]
    ) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        """Returns a function from {input key: array} to the arrays of some tensors, by number."""
        given = {tensor.name: key for key, tensor in self.inputs.items()}
        inner = [tensor for tensor in fetches if tensor.name not in given]
        run = self.function(list(self.inputs.values()), inner) if inner else None

        def arrays(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            made = run(*(tf.constant(batch[key]) for key in self.inputs)) if run else ()
            rest = iter(made)
            found = [batch[given[x.name]] if x.name in given else next(rest) for x in fetches]
            return {numbered(place): np.asarray(array) for place, array in enumerate(found)}

        return arrays


def numbered(place: int) -> str:
    """Returns a key that sorts by number."""
    return f"{place:04}"
