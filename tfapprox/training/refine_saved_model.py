"""Refines a SavedModel that `compress` wrote, block by block."""

import os
from collections.abc import Sequence

from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.saved_model.flattening import flatten
from tfapprox.rewriters.saved_model.values import new_variables, write_values
from tfapprox.serving.calibration_data import CalibrationData
from tfapprox.serving.inputs import Inputs, has_batch_axis
from tfapprox.training.distillation import collect_examples, halves
from tfapprox.training.distillation_config import DistillationConfig, RefinedBlock
from tfapprox.training.distillation_state import RunFolder
from tfapprox.training.refinement import refine

ModelPath = str | os.PathLike[str]


def refine_saved_model(
    rewritten: ModelPath,
    original: ModelPath,
    data: CalibrationData,
    config: DistillationConfig,
    *,
    signature: str = "serving_default",
    tags: Sequence[str] = ("serve",),
    work_dir: ModelPath | None = None,
    progress: Progress = no_progress,
) -> tuple[RefinedBlock, ...]:
    """Trains the factors of a SavedModel in place; see `refine`.

    Only the values in the checkpoint change.

    Args:
      rewritten: what `write_saved_model` made of `original`.
      original: SavedModel directory.
      data: inputs of the signature.
      config: of each block's training.
      signature, tags: what to run.
      work_dir: keeps the state of every block, which goes on there when it was killed.
      progress: told of every step.

    Raises:
      UserError: nothing that can be trained, too few data, or a graph that can't be
        taken apart.
    """
    keys = new_variables(rewritten, original, tags)
    if not keys:
        raise UserError(
            "the factors are constants of the graph, as the original's kernels were: there is no "
            "variable to train; export the model with variables, or leave out --refine_steps"
        )
    batches = _batches(data)
    teacher, student = (flatten(path, signature, tags) for path in (original, rewritten))
    folder = None if work_dir is None else RunFolder(work_dir)
    blocks = refine(student, teacher, keys, batches, config, folder, progress)
    trained = {key for block in blocks if block.training.best_step for key in block.factors}
    if trained:
        values = {key: student.variables[key].numpy() for key in trained}
        write_values(rewritten, values, tags)
    return blocks


def _batches(data: CalibrationData) -> list[Inputs]:
    """Returns the batches of inputs, two if there is but one of several examples."""
    examples, _ = collect_examples(data, lambda inputs: {})
    if not examples:
        raise UserError("the calibration data hold no batch")
    specs, first = data.signature.inputs, examples[0].inputs
    keys = [key for key in first if has_batch_axis(specs[key], first[key])]
    return [example.inputs for example in halves(examples, keys)]
