"""Drops the nodes that brought a kernel to its product, once nothing reads them."""

from collections import Counter
from collections.abc import Iterable

from tensorflow.core.framework import node_def_pb2

from tfapprox.rewriters.saved_model.body import producer_of
from tfapprox.rewriters.saved_model.provenance_ops import EVALUATORS, TRANSPARENT

CHAIN_OPS = frozenset((*EVALUATORS, *TRANSPARENT, "Const", "ReadVariableOp", "Enter"))


def without_idle(
    nodes: list[node_def_pb2.NodeDef], idle: Iterable[str], returned: Iterable[str]
) -> list[node_def_pb2.NodeDef]:
    """Drops nodes of the kernels' chains that nothing reads, and control edges to them."""
    by_name = {node.name: node for node in nodes}
    readers: Counter[str] = Counter(map(producer_of, returned))
    for node in nodes:
        readers.update(producer_of(x) for x in node.input if not x.startswith("^"))
    gone: set[str] = set()
    stack = list(idle)
    while stack:
        name = stack.pop()
        node = by_name.get(name)
        if node is None or name in gone or readers[name] or node.op not in CHAIN_OPS:
            continue
        gone.add(name)
        for reference in node.input:
            if not reference.startswith("^"):
                readers[producer_of(reference)] -= 1
                stack.append(producer_of(reference))
    kept = [node for node in nodes if node.name not in gone]
    return [_without_controls(node, gone) for node in kept]


def _without_controls(node: node_def_pb2.NodeDef, gone: set[str]) -> node_def_pb2.NodeDef:
    if not any(x.startswith("^") and x[1:] in gone for x in node.input):
        return node
    changed = node_def_pb2.NodeDef()
    changed.CopyFrom(node)
    changed.ClearField("input")
    changed.input.extend(x for x in node.input if not (x.startswith("^") and x[1:] in gone))
    return changed
