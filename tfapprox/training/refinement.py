"""Refines a compressed model block by block.

Each block learns to give what the same part of the original does, on what the blocks before
it, refined already, hand on: so it makes up for what they have lost, as far as it can. A
step takes the forward and backward pass of one block.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.flat_graph import FlatGraph, numbered
from tfapprox.serving.inputs import Inputs
from tfapprox.training.blocks import Block, find_blocks
from tfapprox.training.distillation import Example, collect_examples, distill
from tfapprox.training.distillation_config import DistillationConfig, RefinedBlock
from tfapprox.training.distillation_state import RunFolder


def refine(
    student: FlatGraph,
    teacher: FlatGraph,
    factors: Collection[str],
    batches: Sequence[Inputs],
    config: DistillationConfig,
    folder: RunFolder | None = None,
    progress: Progress = no_progress,
) -> tuple[RefinedBlock, ...]:
    """Trains the factors in place, block after block; returns what came of each.

    Args:
      student: the compressed model.
      teacher: the original, in which tensors at the same place have the same names.
      factors: names of the student's variables to train.
      batches: inputs of both, at least two batches.
      config: of each block's training; its steps are taken in every block.
      folder: keeps the state of every block; a run that was killed goes on there, exactly.
      progress: told of every step.

    Raises:
      UserError: a graph that can't be taken apart, or too few data.
    """
    if config.strategy != "none":
        raise UserError("blocks are refined on one device: leave the distribution strategy out")
    handles = {name: handle for name, handle in student.handles.items() if name in factors}
    common = {
        tensor.name for operation in teacher.graph.get_operations() for tensor in operation.outputs
    }
    inputs, outputs = list(student.inputs.values()), list(student.outputs.values())
    blocks = find_blocks(student.graph, inputs, outputs, handles, common)
    if not blocks:
        raise UserError("no block of the graph can be taken apart: leave out --refine_steps")
    found = []
    for number, block in enumerate(blocks):
        told = _in_all(progress, number, len(blocks))
        found.append(_refine(block, student, teacher, batches, config, folder, told))
    return tuple(found)


def _refine(
    block: Block,
    student: FlatGraph,
    teacher: FlatGraph,
    batches: Sequence[Inputs],
    config: DistillationConfig,
    folder: RunFolder | None,
    progress: Progress,
) -> RefinedBlock:
    wanted = [teacher.graph.get_tensor_by_name(tensor.name) for tensor in block.outputs]
    examples, note = collect_examples(batches, teacher.runner(wanted))
    incoming = student.runner(block.inputs)
    examples = [Example(incoming(x.inputs), x.targets) for x in examples]
    inside = student.function(block.inputs, block.outputs)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = inside(*(inputs[key] for key in sorted(inputs)))
        return {numbered(place): output for place, output in enumerate(outputs)}

    variables = {name: student.variables[name] for name in block.variables}
    result = distill(run, variables, examples, config, folder, progress)
    result = dataclasses.replace(result, notes=(*result.notes, *([note] if note else [])))
    return RefinedBlock(block.name, block.variables, result)


def _in_all(progress: Progress, number: int, count: int) -> Progress:
    """Returns a progress of one block that tells of all."""

    def told(phase: str, done: int, total: int) -> None:
        progress("refining", number * total + done, count * total)

    return told
