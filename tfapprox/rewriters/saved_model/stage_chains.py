"""Finds chains of stages in a graph again, and composes each into one dense kernel.

`saved_model_stages` puts a chain in the place of a node NAME: its last node is called
NAME, the others NAME/stage, NAME/reorder, NAME/split and NAME/join, with numbers behind.
(In a main graph NAME may be the sum with an offset: the chain then ends in NAME/unshifted.)
That, and which operands are static, is all that is needed to go back; where a node only
happens to be called so, composing it is still right, since every step is linear.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from tensorflow.core.framework import node_def_pb2

from tfapprox.accounting.factorization import Stage
from tfapprox.rewriters.saved_model.body import Body, attribute, producer_of
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.matching import FORMS

_STAGE_NAME = re.compile(r"^(.+)/stage(_\d+)?$")
_SAMPLED_NAME = re.compile(r"^(.+)/heaviest(_\d+)?$")
UNSHIFTED = "unshifted"
_PASSED_NAMES = re.compile(rf"^(stage|reorder|split|join|{UNSHIFTED})(_\d+)?$")
_DEPTHWISE = "DepthwiseConv2dNative"
_ADDITIONS = ("AddV2", "BiasAdd")

IsStatic = Callable[[str], bool]


class NoChainError(Exception):
    """The nodes are no chain that stands in for one operation."""


@dataclasses.dataclass(frozen=True)
class Take:
    """A permutation of channels; `order` is a reference, or its position once numbered."""

    order: str | int


@dataclasses.dataclass(frozen=True)
class Product:
    """One stage without groups, or a depthwise one.

    Attributes:
      kernel: a reference, or its position once numbered.
      op: operation type.
      transposed: whether the matrix has its output channels first.
      equation: of an einsum, in which the kernel comes second.
    """

    kernel: str | int
    op: str
    transposed: bool = False
    equation: str = ""


@dataclasses.dataclass(frozen=True)
class Groups:
    """Blocks of channels, each with steps of its own."""

    branches: tuple[tuple["Step", ...], ...]


Step = Take | Product | Groups


@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain of stages.

    Attributes:
      node: name of its last node, and of the operation it stands in for.
      x: reference to what comes in.
      steps: in order of execution.
      inner: its other nodes on the way of the activations.
      first, last: nodes of its first and last product.
      operand: which operand of theirs is the kernel.
      sampled: whether it uses some columns and rows only.
    """

    node: str
    x: str
    steps: tuple[Step, ...]
    inner: frozenset[str]
    first: node_def_pb2.NodeDef
    last: node_def_pb2.NodeDef
    operand: int
    sampled: bool = False


def find_chains(body: Body, is_static: IsStatic) -> list[Chain]:
    """Returns the chains of a body; of chains within chains, the outermost."""
    owners = {m[1] for m in map(_STAGE_NAME.match, body.nodes) if m and m[1] in body.nodes}
    sampled = {m[1] for m in map(_SAMPLED_NAME.match, body.nodes) if m and m[1] in body.nodes}
    readers: dict[str, set[str]] = defaultdict(set)
    for reference, places in body.consumers.items():
        readers[producer_of(reference)].update(name for name, _ in places)
    chains: list[Chain] = []
    taken: set[str] = set()
    for owner in sorted(owners, key=lambda name: (len(name), name)):
        if owner in taken:
            continue
        try:
            chain = _Walker(body, owner, is_static, readers).chain()
        except NoChainError:
            continue
        chains.append(chain)
        taken |= chain.inner
    found = [sampled_product(body, name, is_static, readers) for name in sorted(sampled)]
    return chains + [chain for chain in found if chain is not None]


def sampled_product(
    body: Body, owner: str, is_static: IsStatic, readers: Mapping[str, set[str]]
) -> Chain | None:
    """Returns a product of chosen columns and rows as a chain of one stage, on all of them.

    It takes both operands from GatherV2 nodes OWNER/chosen that share their indices.
    """
    node = body.nodes[owner]
    gathers = [body.nodes.get(producer_of(x)) for x in body.data_inputs(node)[:2]]
    if node.op not in FORMS or not all(
        g is not None and g.op == "GatherV2" and g.name.startswith(f"{owner}/chosen")
        for g in gathers
    ):
        return None
    wholes = [body.data_inputs(g)[0] for g in gathers if g is not None]
    statics = [i for i, whole in enumerate(wholes) if is_static(whole)]
    indices = {body.data_inputs(g)[1] for g in gathers if g is not None}
    if len(statics) != 1 or len(indices) != 1:
        return None
    operand = statics[0]
    inner = frozenset(
        name
        for name, other in body.nodes.items()
        if name.startswith(f"{owner}/") and not is_static(body.reference(name, other.op))
    )
    returned = {producer_of(reference) for reference in body.returns.values()}
    if inner & returned or any(not readers[name] <= inner | {owner} for name in inner):
        return None
    product = product_of(body, node, operand, wholes[operand])
    return Chain(owner, wholes[1 - operand], (product,), inner, node, node, operand, True)


def product_of(body: Body, node: node_def_pb2.NodeDef, operand: int, kernel: str) -> Product:
    """Returns a node as a product with a kernel."""
    if node.op == "Einsum":
        equation = attribute(node, "equation").s.decode()
        if operand == 0:
            left, _, out = equation.replace(" ", "").partition("->")
            equation = ",".join(reversed(left.split(","))) + "->" + out
        return Product(kernel, "Einsum", equation=equation)
    if FORMS.get(node.op) in ("matmul", "batch_matmul"):
        flag = attribute(node, _flags(node)[operand]).b
        return Product(kernel, "MatMul", transposed=flag == bool(operand))
    return Product(kernel, node.op)


class _Walker:
    """Walks one chain from its last node back to what comes in."""

    def __init__(
        self, body: Body, owner: str, is_static: IsStatic, readers: Mapping[str, set[str]]
    ):
        """Args: readers: node -> nodes that read it."""
        self._body, self._owner, self._is_static = body, owner, is_static
        self._readers = readers
        self._seen: set[str] = set()
        self._products: list[tuple[node_def_pb2.NodeDef, int]] = []

    def chain(self) -> Chain:
        last = self._last()
        steps, x = self._walk(self._body.reference(last.name, last.op))
        operands = {operand for _, operand in self._products}
        forms = {FORMS.get(node.op, "conv2d") for node, _ in self._products}
        if len(forms) != 1 or len(operands) != 1:
            raise NoChainError
        inner = frozenset(self._seen - {last.name})
        self._check_private(inner)
        # Found last to first.
        (final, _), (first, operand) = self._products[0], self._products[-1]
        return Chain(last.name, x, steps, inner, first, final, operand)

    def _last(self) -> node_def_pb2.NodeDef:
        """Returns the last node, which is not the owner if that adds an offset to it."""
        owner = self._body.nodes[self._owner]
        names = [producer_of(x) for x in self._body.data_inputs(owner)[:1]]
        if owner.op in _ADDITIONS and names[0].startswith(f"{self._owner}/{UNSHIFTED}"):
            return self._body.nodes[names[0]]
        return owner

    def _walk(self, reference: str) -> tuple[tuple[Step, ...], str]:
        steps: list[Step] = []
        step: Step
        while self._is_inside(reference):
            node = self._body.nodes[producer_of(reference)]
            inputs = self._body.data_inputs(node)
            if node.op == "Split":
                break
            self._seen.add(node.name)
            if node.op == "GatherV2":
                steps.append(Take(inputs[1]))
                reference = inputs[0]
            elif node.op == "ConcatV2":
                step, reference = self._groups(inputs[:-1])
                steps.append(step)
            elif node.op in FORMS or node.op == _DEPTHWISE:
                step, reference = self._product(node, inputs)
                steps.append(step)
            else:
                raise NoChainError
        return tuple(reversed(steps)), reference

    def _is_inside(self, reference: str) -> bool:
        name = producer_of(reference)
        if name not in self._body.nodes:
            return False
        scope, _, base = name.rpartition("/")
        inside = scope == self._owner or scope.startswith(self._owner + "/")
        return name == self._owner or (inside and bool(_PASSED_NAMES.match(base)))

    def _groups(self, parts: Sequence[str]) -> tuple[Groups, str]:
        walked = [self._walk(part) for part in parts]
        ends = {producer_of(end) for _, end in walked}
        split = ends.pop()
        node = self._body.nodes.get(split)
        if (
            ends
            or node is None
            or node.op != "Split"
            or attribute(node, "num_split").i != len(parts)
        ):
            raise NoChainError
        self._seen.add(split)
        return Groups(tuple(steps for steps, _ in walked)), self._body.data_inputs(node)[1]

    def _product(self, node: node_def_pb2.NodeDef, inputs: list[str]) -> tuple[Product, str]:
        statics = [i for i in (0, 1) if self._is_static(inputs[i])]
        if len(statics) != 1:
            raise NoChainError
        operand = statics[0]
        self._products.append((node, operand))
        kernel, x = inputs[operand], inputs[1 - operand]
        return product_of(self._body, node, operand, kernel), x

    def _check_private(self, inner: frozenset[str]) -> None:
        """Refuses a chain whose intermediate results something else uses."""
        if any(not self._readers[name] <= self._seen for name in inner):
            raise NoChainError
        if any(producer_of(reference) in inner for reference in self._body.returns.values()):
            raise NoChainError


def _flags(node: node_def_pb2.NodeDef) -> tuple[str, str]:
    batch = FORMS[node.op] == "batch_matmul"
    return ("adj_x", "adj_y") if batch else ("transpose_a", "transpose_b")


def products(steps: Sequence[Step]) -> Iterator[Product]:
    """Yields the products of the steps in order of execution, those of groups one by one."""
    for step in steps:
        if isinstance(step, Product):
            yield step
        elif isinstance(step, Groups):
            for branch in step.branches:
                yield from products(branch)


def references_of(steps: Sequence[Step]) -> Iterator[str | int]:
    """Yields the kernels and orders of the steps, in a fixed order."""
    for step in steps:
        if isinstance(step, Take):
            yield step.order
        elif isinstance(step, Product):
            yield step.kernel
        else:
            for branch in step.branches:
                yield from references_of(branch)


def numbered(steps: Sequence[Step], numbers: Iterator[int]) -> tuple[Step, ...]:
    """Returns the steps with each reference replaced by its position in `references_of`."""
    made: list[Step] = []
    for step in steps:
        if isinstance(step, Take):
            made.append(Take(next(numbers)))
        elif isinstance(step, Product):
            made.append(dataclasses.replace(step, kernel=next(numbers)))
        else:
            made.append(Groups(tuple(numbered(branch, numbers) for branch in step.branches)))
    return tuple(made)


def compose(steps: Sequence[Step], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the dense kernel [H, W, I, O] of numbered steps, in double precision."""
    composed: np.ndarray | None = None
    for step in steps:
        if isinstance(step, Take):
            order = arrays[int(step.order)]
            composed = np.eye(len(order))[None, None] if composed is None else composed
            composed = composed[..., order]
            continue
        stage = _stage(step, arrays)
        composed = stage.ungrouped() if composed is None else stage.after(composed)
    assert composed is not None
    return composed


def _stage(step: Product | Groups, arrays: Sequence[np.ndarray]) -> Stage:
    if isinstance(step, Groups):
        parts = [compose(branch, arrays) for branch in step.branches]
        return Stage(np.concatenate(parts, axis=3), groups=len(parts))
    kernel = arrays[int(step.kernel)].astype(np.float64)
    if step.op == "MatMul":
        matrix = kernel.reshape(kernel.shape[-2:])
        return Stage((matrix.T if step.transposed else matrix)[None, None])
    if step.op == "Einsum":
        return Stage(EinsumProduct.parse(step.equation, 1).matrix(kernel)[None, None])
    if step.op == _DEPTHWISE:
        height, width, groups, multiplier = kernel.shape
        return Stage(kernel.reshape(height, width, 1, groups * multiplier), groups=groups)
    return Stage(kernel)
