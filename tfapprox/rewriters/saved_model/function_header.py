"""Writes the header of a rewritten function: its arguments, returns and attributes."""

from collections.abc import Mapping

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from tfapprox.rewriters.saved_model.body import producer_of
from tfapprox.rewriters.saved_model.replacements import FactorTensor

# Attributes that tie a function to others of the same signature, which it no longer has.
_STALE_ATTRIBUTES = (
    "api_implements",
    "api_preferred_device",
    "forward_function_name",
    "backward_function_name",
)


class FunctionHeader:
    """The function that an old one becomes."""

    def __init__(self, old: function_pb2.FunctionDef, name: str, nodes: list[node_def_pb2.NodeDef]):
        self._old = old
        self.made = _without_nodes(old)
        self.made.signature.name = name
        self.made.node_def.extend(nodes)

    def write_arguments(self, dropped: set[int], added: Mapping[str, FactorTensor]) -> None:
        """Args:
        dropped: positions of arguments that go.
        added: name of a new last argument -> factor that it brings.
        """
        old, made = self._old, self.made
        kept = [i for i in range(len(old.signature.input_arg)) if i not in dropped]
        made.signature.ClearField("input_arg")
        made.signature.input_arg.extend(old.signature.input_arg[i] for i in kept)
        made.ClearField("arg_attr")
        made.ClearField("resource_arg_unique_id")
        for new, i in enumerate(kept):
            if i in old.arg_attr:
                made.arg_attr[new].CopyFrom(old.arg_attr[i])
            if i in old.resource_arg_unique_id:
                made.resource_arg_unique_id[new] = old.resource_arg_unique_id[i]
        for name, factor in added.items():
            argument = made.signature.input_arg.add(name=name, type=factor.argument_type)
            if factor.variable is not None:
                shape = tf.TensorShape(factor.value.shape).as_proto()
                argument.handle_data.add(dtype=factor.dtype, shape=shape)
        if "_input_shapes" in old.attr:
            shapes = old.attr["_input_shapes"].list.shape
            wanted = [shapes[i] for i in kept if i < len(shapes)]
            wanted += [factor.argument_shape for factor in added.values()]
            del made.attr["_input_shapes"].list.shape[:]
            made.attr["_input_shapes"].list.shape.extend(wanted)

    def write_returns(
        self, returned: Mapping[str, str], lost: set[int], added: Mapping[str, FactorTensor]
    ) -> None:
        """Args:
        returned: output name -> reference, of those that stay.
        lost: positions of outputs that go.
        added: arguments that are handed on as last outputs.
        """
        made = self.made
        made.ret.update(returned)
        made.signature.ClearField("output_arg")
        for i, argument in enumerate(self._old.signature.output_arg):
            if i in lost:
                made.ret.pop(argument.name)
            else:
                made.signature.output_arg.add().CopyFrom(argument)
        for argument, factor in added.items():
            made.signature.output_arg.add(name=f"{argument}_out", type=factor.argument_type)
            made.ret[f"{argument}_out"] = argument

    def finish(self) -> function_pb2.FunctionDef:
        """Returns the function without control returns and attributes that no longer hold."""
        _keep_controls(self.made, {node.name for node in self.made.node_def})
        for attribute in _STALE_ATTRIBUTES:
            self.made.attr.pop(attribute, None)
        _check_closed(self.made)
        return self.made


def _without_nodes(proto: function_pb2.FunctionDef) -> function_pb2.FunctionDef:
    """Returns a copy without the nodes, which are most of it."""
    bare = function_pb2.FunctionDef()
    bare.signature.CopyFrom(proto.signature)
    for field in ("attr", "ret", "control_ret"):
        for key, value in getattr(proto, field).items():
            if isinstance(value, str):
                getattr(bare, field)[key] = value
            else:
                getattr(bare, field)[key].CopyFrom(value)
    return bare


def _keep_controls(made: function_pb2.FunctionDef, present: set[str]) -> None:
    lost = [name for name, node in made.control_ret.items() if node not in present]
    for name in lost:
        del made.control_ret[name]
    kept = [name for name in made.signature.control_output if name not in lost]
    made.signature.ClearField("control_output")
    made.signature.control_output.extend(kept)


def _check_closed(made: function_pb2.FunctionDef) -> None:
    """Guards against a slip of this module: every reference must lead somewhere."""
    known = {node.name for node in made.node_def}
    known |= {argument.name for argument in made.signature.input_arg}
    references = [x for node in made.node_def for x in node.input] + list(made.ret.values())
    dangling = sorted({producer_of(x) for x in references} - known)
    if dangling:
        raise RuntimeError(f"rewriting {made.signature.name} left {dangling[:5]} dangling")
