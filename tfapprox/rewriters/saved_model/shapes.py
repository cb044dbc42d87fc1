"""Shapes at every linear operation of a signature, for one example.

The signature's call tree is laid out in a scratch tf.Graph, one op at a time, so that
TensorFlow's own shape functions speak; large kernels are stood in for by placeholders.
Nothing is executed. An op that can't be made (a custom op, a resource) becomes a
placeholder of the shape that the SavedModel records for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import op_def_registry

from tfapprox.rewriters.saved_model.body import Body, attribute, producer_of
from tfapprox.rewriters.saved_model.list_shapes import ListShapes, constant_size
from tfapprox.rewriters.saved_model.provenance import Handle
from tfapprox.rewriters.saved_model.tracing import BRANCHES, LOOPS, Call, Instance

Shape = tuple[int | None, ...] | None
Tensors = list[tf.Tensor | None]
_LARGEST_CONSTANT = 1024
# Functions that call each other twice over can unfold without end.
_MOST_OPERATIONS = 100_000


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """One place in a signature's call tree where a linear operation runs.

    Attributes:
      instance, node: which operation.
      inputs: shapes of its data inputs; None for an unknown rank or size.
      output: shape of its first output.
      repeats: how often loops around it run it.
      repeats_known: False if a loop's length could not be found and counts as one.
    """

    instance: Instance
    node: str
    inputs: tuple[Shape, ...]
    output: Shape
    repeats: int
    repeats_known: bool


class ShapeInference:
    """Lays out one signature and collects occurrences of `wanted` operation types."""

    def __init__(self, wanted: frozenset[str], variable_shapes: Mapping[str, tuple[int, ...]]):
        self._wanted, self._variable_shapes = wanted, variable_shapes
        self._graph = tf.Graph()
        self._made = 0
        self._lists = ListShapes()
        self._loops: list[int | None] = []
        self.occurrences: list[Occurrence] = []

    def run(self, main: Instance, inputs: Mapping[str, Shape], outputs: list[str]) -> None:
        """Lays out what `outputs` (node names) need.

        Args:
          main: instance of the main graph.
          inputs: placeholder node name -> shape to assume.
          outputs: names of the nodes that the signature fetches.
        """
        with self._graph.as_default():
            self._walk(main, [], main.body.reachable(outputs), inputs)

    def _walk(
        self,
        instance: Instance,
        arguments: Tensors,
        needed: set[str],
        inputs: Mapping[str, Shape],
    ) -> Tensors:
        body = instance.body
        self._made += 1
        if self._made > _MOST_OPERATIONS:
            return [None] * len(body.returns)
        tensors: dict[str, tf.Tensor | None] = dict(zip(body.arguments, arguments, strict=True))
        for name in body.order:
            if name not in needed:
                continue
            node = body.nodes[name]
            operands = [tensors.get(reference) for reference in body.data_inputs(node)]
            if name in instance.calls:
                outputs = self._call(instance, node, operands)
                references = body.output_references(node, len(outputs))
            else:
                if name in inputs and node.op.startswith("Placeholder"):
                    outputs = [_placeholder(attribute(node, "dtype").type, inputs[name])]
                else:
                    outputs = self._operation(instance, node, operands)
                references = _all_references(body, node, outputs)
            tensors.update(zip(references, outputs, strict=True))
            if node.op in self._wanted:
                self._record(instance, node, operands, outputs)
        return [tensors.get(reference) for reference in body.returns.values()]

    def _enter(self, callee: Instance, arguments: Tensors) -> Tensors:
        return self._walk(callee, arguments, callee.body.executed, {})

    def _record(
        self, instance: Instance, node: node_def_pb2.NodeDef, operands: Tensors, outputs: Tensors
    ) -> None:
        repeats = 1
        for length in self._loops:
            repeats *= length or 1
        self.occurrences.append(
            Occurrence(
                instance,
                node.name,
                tuple(map(_shape_of, operands)),
                _shape_of(outputs[0]) if outputs else None,
                repeats,
                None not in self._loops,
            )
        )

    def _operation(
        self, instance: Instance, node: node_def_pb2.NodeDef, operands: Tensors
    ) -> Tensors:
        self._made += 1
        if self._made > _MOST_OPERATIONS:
            return []
        if node.op == "Const":
            size = tf.TensorShape(attribute(node, "value").tensor.tensor_shape).num_elements()
            if size is None or size > _LARGEST_CONSTANT:
                tensor = attribute(node, "value").tensor
                return [_placeholder(tensor.dtype, _proto_shape(tensor.tensor_shape))]
        if node.op == "ReadVariableOp":
            handle = instance.values.get(instance.body.data_inputs(node)[0])
            if isinstance(handle, Handle):
                shape = self._variable_shapes.get(handle.key)
                return [_placeholder(attribute(node, "dtype").type, shape)]
        if any(operand is None for operand in operands):
            return _recorded_outputs(node)
        attributes = {k: v for k, v in node.attr.items() if not k.startswith("_")}
        try:
            # The public create_op inspects its own arguments at every call: twice the time.
            made = self._graph._create_op_internal(
                node.op, operands, attrs=attributes, compute_device=False
            )
            outputs: Tensors = list(made.outputs)
            self._lists.follow(node, operands, outputs)
            return outputs
        except (ValueError, TypeError, KeyError, RuntimeError, AssertionError, tf.errors.OpError):
            return _recorded_outputs(node)

    def _call(self, instance: Instance, node: node_def_pb2.NodeDef, operands: Tensors) -> Tensors:
        call = instance.calls[node.name]
        if node.op in LOOPS:
            return self._loop(call, operands)
        callees = _callees_on_cpu(instance, node, list(call.callees.values()))
        results = [self._enter(callee, operands[call.offset :]) for callee in callees]
        if node.op not in BRANCHES:
            return results[0]
        return [_merged(list(outputs)) for outputs in zip(*results, strict=True)]

    def _loop(self, call: Call, operands: Tensors) -> Tensors:
        arguments = [
            operand if i in call.invariants else _fresh(operand)
            for i, operand in enumerate(operands)
        ]
        # while_loop_v2 keeps the largest number of iterations as loop variable 1.
        self._loops.append(_known_length(operands))
        results = self._enter(call.callees["body", 0], arguments)
        self._loops.pop()
        return [
            operand if i in call.invariants else _merged([operand, result])
            for i, (operand, result) in enumerate(zip(operands, results, strict=True))
        ]


def _callees_on_cpu(
    instance: Instance, node: node_def_pb2.NodeDef, callees: list[Instance]
) -> list[Instance]:
    """Returns the functions of a call that may run; a switch on the device is decided."""
    if node.op in BRANCHES:
        switch = instance.body.nodes.get(producer_of(node.input[0]))
        if switch is not None and switch.op == "DeviceIndex":
            devices = attribute(switch, "device_names").list.s
            chosen = list(devices).index(b"CPU") if b"CPU" in devices else len(callees) - 1
            return [callees[min(chosen, len(callees) - 1)]]
    return callees


def _all_references(body: Body, node: node_def_pb2.NodeDef, outputs: list) -> list[str]:
    """Returns references for a flat list of outputs, over all output arguments."""
    definition = op_def_registry.get(node.op)
    if not body.is_function or definition is None:
        return [body.canonical(f"{node.name}:{i}") for i in range(len(outputs))]
    references = []
    for argument in definition.output_arg:
        count = argument_count(argument, node)
        references += [f"{node.name}:{argument.name}:{i}" for i in range(count)]
    return references[: len(outputs)]


def argument_count(argument: Any, node: node_def_pb2.NodeDef) -> int:
    """Returns how many outputs an output argument of the node's operation stands for."""
    if argument.number_attr:
        return attribute(node, argument.number_attr).i
    if argument.type_list_attr:
        return len(attribute(node, argument.type_list_attr).list.type)
    return 1


def _recorded_outputs(node: node_def_pb2.NodeDef) -> Tensors:
    """Returns placeholders of the shapes that the node records, None where it has no dtype."""
    definition = op_def_registry.get(node.op)
    recorded = attribute(node, "_output_shapes").list.shape if "_output_shapes" in node.attr else []
    types = []
    for argument in definition.output_arg if definition else ():
        if argument.type_list_attr:
            types += attribute(node, argument.type_list_attr).list.type
        else:
            dtype = argument.type or attribute(node, argument.type_attr).type
            types += [dtype] * argument_count(argument, node)
    shapes = [_proto_shape(s) for s in recorded] + [None] * len(types)
    return [_placeholder(dtype, shape) for dtype, shape in zip(types, shapes, strict=False)]


def _placeholder(dtype: int, shape: Shape) -> tf.Tensor | None:
    try:
        kind = tf.as_dtype(dtype)
        usable = kind not in (tf.resource, tf.variant) and not kind._is_ref_dtype
        return tf.compat.v1.placeholder(kind, shape) if usable else None
    except (TypeError, ValueError):
        return None


def _proto_shape(shape: Any) -> Shape:
    if shape.unknown_rank:
        return None
    return tuple(None if d.size < 0 else d.size for d in shape.dim)


def _shape_of(tensor: tf.Tensor | None) -> Shape:
    if tensor is None or tensor.shape.rank is None:
        return None
    return tuple(tensor.shape.as_list())


def _fresh(tensor: tf.Tensor | None) -> tf.Tensor | None:
    """Returns a tensor of the same shape whose value is not known to shape functions."""
    if tensor is None or tensor.dtype in (tf.variant, tf.resource):
        return tensor
    return tf.compat.v1.placeholder(tensor.dtype, tensor.shape)


def _merged(tensors: Tensors) -> tf.Tensor | None:
    first, *others = tensors
    if first is None or len(known := [x for x in others if x is not None]) < len(others):
        return first
    if first.dtype in (tf.variant, tf.resource):
        return known[-1] if known else first
    shape = first.shape
    for other in known:
        shape = shape.most_specific_compatible_shape(other.shape)
    return tf.compat.v1.placeholder(first.dtype, shape)


def _known_length(operands: Tensors) -> int | None:
    return constant_size(operands[1]) if len(operands) > 1 else None
