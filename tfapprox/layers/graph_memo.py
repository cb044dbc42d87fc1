"""Values that are computed once in a graph although several calls ask for them."""

from collections.abc import Callable

import tensorflow as tf


def once_in_graph(
    owner: object, variable: tf.Variable, source: tf.Tensor, compute: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """Returns compute(), or what it returned before in this graph for the same arguments.

    A layer that a model calls several times in one step thus derives its kernel once.
    In eager execution nothing is remembered: a gradient tape may have started since.

    Args:
      owner: whose value it is, e.g. the layer.
      variable: what the value depends on; once the graph writes to it, or hands it to
        another function, the value is computed anew.
      source: a tensor that it depends on.
      compute: makes the value.
    """
    if tf.executing_eagerly():
        return compute()
    graph = tf.compat.v1.get_default_graph()
    # Kept on the graph, so that they die together.
    memo = getattr(graph, "_tfapprox_memo", None)
    if memo is None:
        memo = graph._tfapprox_memo = {}
    key = (id(owner), id(source))
    if key in memo and _only_read(graph, variable):
        return memo[key][0]
    value = compute()
    memo[key] = (value, owner, source)  # the keys' objects must outlive the keys
    return value


def _only_read(graph: tf.Graph, variable: tf.Variable) -> bool:
    if not isinstance(variable, tf.Variable):
        variable = variable._value  # Keras 3: `value` and `handle` are casts in mixed precision
    # A distributed variable has one component for each replica.
    for component in getattr(variable, "values", (variable,)):
        handle = component.handle
        handle = graph.capture(handle) if hasattr(graph, "capture") else handle
        if any(consumer.type != "ReadVariableOp" for consumer in handle.consumers()):
            return False
    return True
