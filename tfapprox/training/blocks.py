"""Cuts a flat graph into blocks with factors.

Each ends where one tensor carries all that follows: in a plain network a block is one
replaced layer with what lies behind it, in a residual one it runs to where the branches
have come together again.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A part of a graph.

    Attributes:
      variables: names of the factors that only this block uses.
      inputs: tensors that come in, which do not depend on these.
      outputs: tensors by which the block is judged.
    """

    variables: tuple[str, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The operation that gives its last output."""
        return self.outputs[-1].op.name


def find_blocks(
    graph: tf.Graph,
    inputs: Collection[Any],
    outputs: Sequence[Any],
    handles: Mapping[str, Any],
    comparable: Collection[str],
) -> list[Block]:
    """Returns the blocks of a graph in order of execution.

    Args:
      graph: flat.
      inputs: its placeholders.
      outputs: the model's.
      handles: name of a factor -> the tensor that is its handle in the graph.
      comparable: names of the tensors that the original has too.
    """
    operations = graph.get_operations()
    flow = _Flow(operations, inputs, handles)
    ends = _ends(flow, outputs, comparable)
    groups = _groups(flow, ends)
    counts = Counter(name for names, _ in groups for name in names)
    blocks, done = [], -1
    for number, (names, end) in enumerate(groups):
        final = number == len(groups) - 1 or end is None
        last = len(operations) if final else flow.place[end.op.name]
        wanted = [x for x in outputs if done < flow.place[x.op.name] <= last]
        if end is not None and end.name not in {x.name for x in wanted}:
            wanted.append(end)
        own = {name for name in names if counts[name] == 1}
        block = _block(flow, own, [x for x in wanted if x.name in comparable])
        blocks += [block] if block is not None else []
        done = last
    return blocks


def _groups(flow: "_Flow", ends: Mapping[int, Any]) -> list[tuple[set[str], Any]]:
    """Returns the factors of each block, and the tensor it ends with, None at the end of all."""
    groups: list[tuple[set[str], Any]] = []
    waiting: set[str] = set()
    end = None
    for place, operation in enumerate(flow.operations):
        used = flow.used.get(operation.name, set())
        if used and end is not None:
            groups.append((waiting, end))
            waiting, end = set(), None
        waiting = waiting | used
        if waiting:
            end = ends.get(place, end)
    return [*groups, (waiting, end)]


class _Flow:
    """What in a graph depends on what.

    Attributes:
      place: operation's name -> its position in the order of execution.
      used: operation on activations -> factors that it multiplies by.
      last: tensor's name -> position of the last operation that reads it.
    """

    def __init__(
        self, operations: Sequence[Any], inputs: Collection[Any], handles: Mapping[str, Any]
    ):
        self.operations = operations
        self.place = {operation.name: i for i, operation in enumerate(operations)}
        self.used: dict[str, set[str]] = {}
        self.last: dict[str, int] = {}
        self._active = {tensor.op.name for tensor in inputs}
        static: dict[str, set[str]] = {t.op.name: {name} for name, t in handles.items()}
        for place, operation in enumerate(operations):
            producers = [tensor.op.name for tensor in operation.inputs]
            factors = set().union(*(static.get(name, set()) for name in producers))
            if operation.name in self._active or any(n in self._active for n in producers):
                self._active.add(operation.name)
                for tensor in operation.inputs:
                    self.last[tensor.name] = place
                if factors:
                    self.used[operation.name] = factors
            elif factors:
                static[operation.name] = factors

    def is_active(self, operation: Any) -> bool:
        """Says whether it depends on the model's inputs."""
        return operation.name in self._active


def _ends(flow: _Flow, outputs: Sequence[Any], comparable: Collection[str]) -> dict[int, Any]:
    """Returns position -> the tensor that alone carries all activations on from there."""
    fetched = {tensor.name for tensor in outputs}
    alive: dict[str, Any] = {}
    ends = {}
    for place, operation in enumerate(flow.operations):
        if not flow.is_active(operation):
            continue
        read = {tensor.name for tensor in operation.inputs}
        for name in [n for n in alive if n in read and flow.last[n] <= place]:
            del alive[name]
        for tensor in operation.outputs:
            later = flow.last.get(tensor.name, -1) > place
            if _is_real(tensor) and (later or tensor.name in fetched):
                alive[tensor.name] = tensor
        if len(alive) == 1:
            (tensor,) = alive.values()
            if tensor.op.name == operation.name and tensor.name in comparable:
                ends[place] = tensor
        for name in [n for n in alive if flow.last.get(n, -1) <= place]:
            del alive[name]  # leaves the model, and nothing inside it waits for it
    return ends


def _block(flow: _Flow, own: set[str], outputs: Sequence[Any]) -> Block | None:
    """Returns the block that some factors make, None if they do not reach its outputs."""
    touched: set[str] = set()
    for operation in flow.operations:
        uses = flow.used.get(operation.name, set()) & own
        if uses or any(tensor.op.name in touched for tensor in operation.inputs):
            touched.add(operation.name)
    reached = [x for x in outputs if x.op.name in touched and _is_real(x)]
    if not own or not reached:
        return None
    inside, stack = set(), [x.op for x in reached]
    feeds: dict[str, Any] = {}
    while stack:
        operation = stack.pop()
        if operation.name in inside:
            continue
        inside.add(operation.name)
        for tensor in operation.inputs:
            if tensor.op.name in touched:
                stack.append(tensor.op)
            elif flow.is_active(tensor.op):
                feeds[tensor.name] = tensor
    used = set().union(*(flow.used.get(name, set()) for name in inside)) & own
    return Block(tuple(sorted(used)), tuple(feeds.values()), tuple(reached))


def _is_real(tensor: Any) -> bool:
    return tensor.dtype.is_floating or tensor.dtype.is_complex
