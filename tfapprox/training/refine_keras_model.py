"""Refines a Keras model that `compress_model` made, block by block."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.flat_graph import FlatGraph
from tfapprox.training.distill_keras_model import call_by_keys, keyed, new_variables
from tfapprox.training.distillation import collect_examples, halves
from tfapprox.training.distillation_config import DistillationConfig, RefinedBlock
from tfapprox.training.distillation_state import RunFolder
from tfapprox.training.refinement import refine


def refine_keras_model(
    rewritten: Any,
    original: Any,
    batches: Iterable[Any],
    config: DistillationConfig,
    *,
    work_dir: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> tuple[RefinedBlock, ...]:
    """Trains the stages of the new layers in place, in inference mode; see `refine`.

    Args:
      rewritten: what `rewrite_keras_model` made of `original`.
      original: of the same flavour.
      batches: inputs as `original(inputs)` takes them, batch by batch.
      config: of each block's training.
      work_dir: keeps the state of every block, which goes on there when it was killed.
      progress: told of every step.

    Raises:
      UserError: nothing that can be trained, too few data, or a graph that can't be
        taken apart.
    """
    variables = new_variables(rewritten, original)
    if not variables:
        raise UserError(f"model {rewritten.name} has no layer that {original.name} lacks")
    structure = next(iter(batches), None)
    if structure is None:
        raise UserError("the calibration data hold no batch")
    arrays = ({k: np.asarray(v) for k, v in keyed("input", x).items()} for x in batches)
    examples, _ = collect_examples(arrays, lambda inputs: {})
    examples = halves(examples, examples[0].inputs)
    student, teacher = (_flat(model, structure, variables) for model in (rewritten, original))
    folder = None if work_dir is None else RunFolder(work_dir)
    inputs = [example.inputs for example in examples]
    return refine(student, teacher, variables, inputs, config, folder, progress)


def _flat(model: Any, structure: Any, variables: dict[str, tf.Variable]) -> FlatGraph:
    def build() -> tuple[dict[str, Any], dict[str, Any]]:
        inputs = {
            key: tf.compat.v1.placeholder(x.dtype, [None, *x.shape[1:]], key.replace(" ", "_"))
            for key, x in keyed("input", structure).items()
        }
        outputs = call_by_keys(model, inputs, structure)
        return inputs, {key: tf.identity(y) for key, y in outputs.items()}

    return FlatGraph(build, variables)
