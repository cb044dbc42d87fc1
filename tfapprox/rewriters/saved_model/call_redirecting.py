"""Redirects a call, branch or loop to new versions of its functions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from tensorflow.core.framework import node_def_pb2

from tfapprox.rewriters.saved_model.body import Body, producer_of
from tfapprox.rewriters.saved_model.replacements import FactorTensor, Version
from tfapprox.rewriters.saved_model.tracing import BRANCHES, LOOPS, Call, Instance


class Versions(Protocol):
    """What a `CallRewriter` asks of the `Specialiser`; see there."""

    factors: Sequence[FactorTensor]

    def needs(self, instance: Instance) -> tuple[int, ...]: ...
    def version(
        self, instance: Instance, added: tuple[int, ...] | None = None, returns: bool = False
    ) -> Version: ...


class CallRewriter:
    """Rewrites one node that calls functions of the library.

    Attributes:
      node: the new node.
      idle: nodes whose values are no longer handed to the functions.
      moved: old reference to an output -> new one.
    """

    def __init__(
        self,
        versions: Versions,
        body: Body,
        node: node_def_pb2.NodeDef,
        references: Mapping[int, str],
    ):
        """Args:
        node: as it is.
        references: factor -> reference that hands it on.
        """
        self._versions, self._body, self._references = versions, body, references
        self._loop = node.op in LOOPS
        self.node = node_def_pb2.NodeDef()
        self.node.CopyFrom(node)
        self.idle: list[str] = []
        self.moved: dict[str, str] = {}

    def redirect(self, call: Call) -> None:
        """Lets the node call the versions, with the arguments and results that they have."""
        callees = call.callees
        several = self._loop or self.node.op in BRANCHES
        added = tuple(sorted({i for c in callees.values() for i in self._versions.needs(c)}))
        dropped: tuple[int, ...] = ()
        lost: tuple[int, ...] = ()
        for (attribute, index), callee in callees.items():
            returns = self._loop and attribute == "body"
            version = self._versions.version(callee, added if several else None, returns)
            dropped = version.dropped
            lost = version.lost if not self._loop else version.dropped
            value = self.node.attr[attribute]
            target = value.list.func[index] if value.list.func else value.func
            target.name = version.name
        self._rewire(call.offset, dropped, added)
        self._renumber(set(lost), added if self._loop else ())

    def _rewire(self, offset: int, dropped: Iterable[int], added: Sequence[int]) -> None:
        node = self.node
        gone = {offset + i for i in dropped}
        data = [x for x in node.input if not x.startswith("^")]
        control = [x for x in node.input if x.startswith("^")]
        self.idle += [producer_of(x) for i, x in enumerate(data) if i in gone]
        kept = [x for i, x in enumerate(data) if i not in gone]
        node.ClearField("input")
        node.input.extend([*kept, *(self._references[i] for i in added), *control])
        types = node.attr["T" if self._loop else "Tin"].list
        wanted = [t for i, t in enumerate(types.type) if i + offset not in gone]
        wanted += [self._versions.factors[i].argument_type for i in added]
        types.ClearField("type")
        types.type.extend(wanted)
        for name in ("_read_only_resource_inputs", "_all_non_dynamic_inputs"):
            node.attr.pop(name, None)

    def _renumber(self, lost: set[int], added: Sequence[int]) -> None:
        """Moves the outputs to their new places; a loop's types are done already."""
        node = self.node
        types = node.attr["T" if self._loop else "Tout"].list
        before = len(types.type)
        if self._loop:
            before += len(lost) - len(added)
        elif lost:
            wanted = [t for i, t in enumerate(types.type) if i not in lost]
            types.ClearField("type")
            types.type.extend(wanted)
        kept = [i for i in range(before) if i not in lost]
        for new, old in enumerate(kept):
            reference = self._body.reference(node.name, node.op, old)
            self.moved[reference] = self._body.reference(node.name, node.op, new)
        for attribute in ("output_shapes", "_output_shapes"):
            shapes = node.attr[attribute].list.shape if attribute in node.attr else ()
            if len(shapes) == before:
                stay = [shapes[i] for i in kept]
                stay += [self._versions.factors[i].argument_shape for i in added]
                del node.attr[attribute].list.shape[:]
                node.attr[attribute].list.shape.extend(stay)
        if "_num_original_outputs" in node.attr:
            node.attr["_num_original_outputs"].i += len(added) - len(lost)
