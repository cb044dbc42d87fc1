"""Puts one dense operation back where a chain of stages stands, kernel to be composed.

The kernel comes from a node that no runtime could execute: it names, as inputs, all the
factors, and Python composes them (`ComposingProvenance`). Writing the folded graph with a
variable for each composed kernel takes that node out again.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2

from tfapprox.rewriters.saved_model.body import Body, attribute, producer_of
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.matching import FORMS
from tfapprox.rewriters.saved_model.provenance import Provenance, Static
from tfapprox.rewriters.saved_model.stage_chains import (
    Chain,
    Step,
    compose,
    numbered,
    products,
    references_of,
)

COMPOSED = "tfapprox_chain"
_CARRIER = "Pack"  # any operation with one output that the engine may drop with its inputs
_FUSED = "_Fused"


def fold(
    proto: graph_pb2.GraphDef | function_pb2.FunctionDef, chains: Sequence[tuple[int, Chain]]
) -> None:
    """Replaces chains of a body by dense operations.

    Args:
      proto: changed in place.
      chains: each with its number, which the node of its kernel will carry.
    """
    body = Body(proto)
    nodes: dict[str, node_def_pb2.NodeDef] = dict(body.nodes)
    aliases: dict[str, str] = {}
    for number, chain in chains:
        owner = nodes[chain.node]
        carrier = node_def_pb2.NodeDef(name=f"{chain.node}/composed", op=_CARRIER)
        carrier.input.extend(str(r) for r in references_of(chain.steps))
        carrier.attr[COMPOSED].i = number
        dense = _dense(body, owner, chain, body.reference(carrier.name, _CARRIER))
        aliases[body.reference(owner.name, owner.op)] = body.reference(dense.name, dense.op)
        nodes.update({carrier.name: carrier, dense.name: dense})
        for name in chain.inner:
            del nodes[name]
    kept = [_aliased(body, node, aliases) for node in nodes.values()]
    kept = _without_orphans(kept, tuple(f"{chain.node}/" for _, chain in chains))
    field = proto.node_def if isinstance(proto, function_pb2.FunctionDef) else proto.node
    del field[:]
    field.extend(kept)
    if isinstance(proto, function_pb2.FunctionDef):
        for output, reference in body.returns.items():
            proto.ret[output] = aliases.get(reference, reference)


def _dense(
    body: Body, owner: node_def_pb2.NodeDef, chain: Chain, kernel: str
) -> node_def_pb2.NodeDef:
    """Returns the operation that the chain stands in for."""
    first = chain.first
    fused = owner.op.startswith(_FUSED)
    node = node_def_pb2.NodeDef(name=owner.name, device=owner.device)
    node.op = owner.op if fused else "Conv2D" if _is_convolution(first) else first.op
    for key, value in (owner if fused else first).attr.items():
        if key != "_output_shapes":
            node.attr[key].CopyFrom(value)
    operands = (chain.x, kernel) if chain.operand == 1 else (kernel, chain.x)
    node.input.extend(operands)
    if fused:
        node.input.extend(body.data_inputs(owner)[2:])
    node.input.extend(x for x in owner.input if x.startswith("^"))
    if "_output_shapes" in owner.attr:
        node.attr["_output_shapes"].CopyFrom(owner.attr["_output_shapes"])
    if _is_convolution(first):
        _place_convolution(node, chain, body)
    elif first.op == "Einsum":
        _join_equations(node, chain)
    else:
        batch = FORMS[first.op] == "batch_matmul"
        flags = ("adj_x", "adj_y") if batch else ("transpose_a", "transpose_b")
        node.attr[flags[chain.operand]].b = False
        x_flag = flags[1 - chain.operand]
        node.attr[x_flag].b = attribute(first, x_flag).b
    return node


def _is_convolution(node: node_def_pb2.NodeDef) -> bool:
    return FORMS.get(node.op, "conv2d") == "conv2d"


def _place_convolution(node: node_def_pb2.NodeDef, chain: Chain, body: Body) -> None:
    """Joins strides, dilations and padding: each axis has them in one stage only."""
    stages = [n for name in (*chain.inner, chain.node) if _is_stage(n := body.nodes[name])]
    for key in ("strides", "dilations"):
        values = [list(attribute(n, key).list.i) or [1, 1, 1, 1] for n in stages]
        _set_list(node, key, np.max(values, axis=0).tolist())
    explicit = [list(attribute(n, "explicit_paddings").list.i) or [0] * 8 for n in stages]
    if any(attribute(n, "padding").s == b"EXPLICIT" for n in stages):
        node.attr["padding"].s = b"EXPLICIT"
        _set_list(node, "explicit_paddings", np.max(explicit, axis=0).tolist())


def _is_stage(node: node_def_pb2.NodeDef) -> bool:
    return "strides" in node.attr


def _set_list(node: node_def_pb2.NodeDef, key: str, values: list[int]) -> None:
    del node.attr[key].list.i[:]
    node.attr[key].list.i.extend(values)


def _join_equations(node: node_def_pb2.NodeDef, chain: Chain) -> None:
    equations = [EinsumProduct.parse(p.equation, 1) for p in products(chain.steps)]
    first, last = equations[0], equations[-1]
    operands = [first.x, first.contracted + last.free]
    if chain.operand == 0:
        operands.reverse()
    node.attr["equation"].s = f"{','.join(operands)}->{last.out}".encode()


def _aliased(
    body: Body, node: node_def_pb2.NodeDef, aliases: Mapping[str, str]
) -> node_def_pb2.NodeDef:
    wanted = [aliases.get(body.canonical(x), x) for x in node.input]
    if wanted == list(node.input):
        return node
    changed = node_def_pb2.NodeDef()
    changed.CopyFrom(node)
    changed.ClearField("input")
    changed.input.extend(wanted)
    return changed


def _without_orphans(
    nodes: list[node_def_pb2.NodeDef], scopes: tuple[str, ...]
) -> list[node_def_pb2.NodeDef]:
    """Drops constants of the chains (axes to split along) that nothing reads any more."""
    while True:
        read = {producer_of(x) for node in nodes for x in node.input}
        kept = [
            node
            for node in nodes
            if node.name in read
            or node.op not in ("Const", "Enter")
            or not node.name.startswith(scopes)
        ]
        if len(kept) == len(nodes):
            return kept
        nodes = kept


class ComposingProvenance(Provenance):
    """Static values of a folded graph."""

    def __init__(self, read_variable: Callable[[str], np.ndarray], chains: Sequence[Chain]):
        super().__init__(read_variable)
        self._chains = chains
        self._composed: dict[frozenset[str], list[np.ndarray]] = defaultdict(list)

    def operation(
        self, node: node_def_pb2.NodeDef, operands: list[Static], index: int
    ) -> Static | None:
        """See `Provenance.operation`; composes the kernels of folded chains."""
        if COMPOSED not in node.attr:
            return super().operation(node, operands, index)
        chain = self._chains[node.attr[COMPOSED].i]
        steps = numbered(chain.steps, itertools.count())
        kernels = [operands[int(p.kernel)] for p in products(steps)]
        roots = frozenset().union(*(x.roots for x in kernels))

        def make() -> Static:
            return Static(
                "Composed",
                tuple(operands),
                roots,
                lambda arrays: self._lay_out(chain, steps, arrays, roots),
            )

        key = ("Composed", steps, chain.first.op, chain.operand, tuple(map(id, operands)))
        return self._intern(key, make)

    def _lay_out(
        self, chain: Chain, steps: Sequence[Step], arrays: list[np.ndarray], roots: frozenset[str]
    ) -> np.ndarray:
        """Returns the kernel as the dense operation takes it, a view of the composed one."""
        factors = [arrays[int(product.kernel)] for product in products(steps)]
        kernel = self._tied(compose(steps, arrays).astype(factors[0].dtype), roots)
        form = FORMS.get(chain.first.op, "conv2d")
        if form == "conv2d":
            return kernel
        matrix = kernel[0, 0] if chain.operand == 1 or form == "einsum" else kernel[0, 0].T
        if form == "batch_matmul":
            return matrix.reshape((1,) * (factors[0].ndim - 2) + matrix.shape)
        if form == "einsum":
            return matrix.reshape(_label_sizes(steps, factors, matrix))
        return matrix

    def _tied(self, kernel: np.ndarray, roots: frozenset[str]) -> np.ndarray:
        """Returns a view of an equal (or transposed) kernel made from the same factors.

        So a kernel that was shared before it was factorized becomes one variable again.
        """
        for known in self._composed[roots]:
            for view in (known, known.swapaxes(2, 3)):
                if view.shape == kernel.shape and _nearly_equal(view, kernel):
                    return view
        self._composed[roots].append(kernel)
        return kernel


def _nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype:
        return False
    wide = np.abs(b.astype(np.float64)).max(initial=0.0)
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
    return bool(difference <= 4 * float(ml_dtypes.finfo(b.dtype).eps) * wide)


def _label_sizes(
    steps: Sequence[Step], factors: Sequence[np.ndarray], matrix: np.ndarray
) -> list[int]:
    """Returns the sizes of an einsum kernel's axes: those summed, then those it brings in."""
    stages = list(products(steps))
    sizes: list[int] = []
    for product, factor, total, side in (
        (stages[0], factors[0], matrix.shape[0], "contracted"),
        (stages[-1], factors[-1], matrix.shape[1], "free"),
    ):
        parsed = EinsumProduct.parse(product.equation, 1)
        labels = getattr(parsed, side)
        sizes += parsed.sizes(factor.shape, labels) if len(labels) > 1 else [total]
    return sizes
