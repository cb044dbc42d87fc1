"""Rewrites the collections in which TensorFlow 1 lists variables, loops and branches."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import node_def_pb2, variable_pb2
from tensorflow.core.protobuf import control_flow_pb2, meta_graph_pb2

VariableDef: TypeAlias = variable_pb2.VariableDef
_CONTEXTS = {
    "while_context": control_flow_pb2.WhileContextDef,
    "cond_context": control_flow_pb2.CondContextDef,
}


def rewrite_variables(
    collection: meta_graph_pb2.CollectionDef,
    gone: set[str],
    stand_ins: Callable[[str, VariableDef], Sequence[VariableDef]],
) -> None:
    """Replaces the entries of variables that are gone.

    Args:
      collection: changed in place if it lists variables.
      gone: main-graph nodes of the removed variables.
      stand_ins: node and old entry -> new entries.
    """
    if collection.WhichOneof("kind") != "bytes_list":
        return
    entries: list[bytes] = []
    changed = False
    for content in collection.bytes_list.value:
        old = _parse(content)
        handle = old.variable_name.partition(":")[0] if old is not None else ""
        if old is not None and handle in gone:
            entries += [new.SerializeToString() for new in stand_ins(handle, old)]
            changed = True
        else:
            entries.append(content)
    if changed:
        del collection.bytes_list.value[:]
        collection.bytes_list.value.extend(entries)


def factor_variable(
    handle: str,
    value: np.ndarray,
    old: VariableDef,
    made: dict[str, node_def_pb2.NodeDef],
) -> VariableDef:
    """Returns the entry of a factor and adds the nodes it mentions to `made`.

    TF1 wants to know how to initialise and read each variable it lists; the
    initialiser (zeros) never runs, because the saver restores the variable.
    """
    zeros, assign, read = (f"{handle}/{part}" for part in ("Initializer", "Assign", "Read"))
    dtype = tf.as_dtype(value.dtype).as_datatype_enum
    for name, op, inputs in (
        (zeros, "Const", []),
        (assign, "AssignVariableOp", [handle, zeros]),
        (read, "ReadVariableOp", [handle]),
    ):
        made[name] = node_def_pb2.NodeDef(name=name, op=op, input=inputs)
        made[name].attr["dtype"].type = dtype
    # One zero with the shape beside it stands for all of them in a TensorProto.
    content = tf.make_tensor_proto(np.zeros((), value.dtype))
    content.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    made[zeros].attr["value"].tensor.CopyFrom(content)
    return VariableDef(
        variable_name=f"{handle}:0",
        initial_value_name=f"{zeros}:0",
        initializer_name=assign,
        snapshot_name=f"{read}:0",
        trainable=old.trainable,
        is_resource=True,
        synchronization=old.synchronization,
        aggregation=old.aggregation,
    )


def _parse(content: bytes) -> VariableDef | None:
    try:
        return VariableDef.FromString(content)
    except message.DecodeError:
        return None


def rewrite_contexts(
    name: str,
    collection: meta_graph_pb2.CollectionDef,
    present: Container[str],
    inserted: Mapping[str, Sequence[str]],
) -> None:
    """Brings TF1's descriptions of loops and branches up to date.

    Args:
      name: of the collection; only while_context and cond_context are touched.
      collection: changed in place.
      present: nodes of the new graph.
      inserted: replaced node -> nodes that were added beside it.
    """
    if name not in _CONTEXTS or collection.WhichOneof("kind") != "bytes_list":
        return
    for index, content in enumerate(collection.bytes_list.value):
        context = _CONTEXTS[name].FromString(content)
        _rewrite_context(context, present, inserted)
        collection.bytes_list.value[index] = context.SerializeToString()


def _rewrite_context(
    context: Any, present: Container[str], inserted: Mapping[str, Sequence[str]]
) -> None:
    values = context.values_def
    kept = [value for value in values.values if _node_of(value) in present]
    for value in list(kept):
        kept += [f"{name}:0" for name in inserted.get(_node_of(value), ())]
    del values.values[:]
    values.values.extend(kept)
    for outer, inner in list(values.external_values.items()):
        if _node_of(outer) not in present or _node_of(inner) not in present:
            del values.external_values[outer]
    for nested in context.nested_contexts:
        kind = nested.WhichOneof("ctxt")
        if kind is not None:
            _rewrite_context(getattr(nested, kind), present, inserted)


def _node_of(value: str) -> str:
    return value.lstrip("^").partition(":")[0]
