"""Distils a SavedModel that `compress` wrote: its factors learn the original's outputs."""

import dataclasses
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.saved_model.values import loaded_variables, new_variables, write_values
from tfapprox.serving.calibration_data import CalibrationData
from tfapprox.serving.inputs import Inputs, has_batch_axis
from tfapprox.training.distillation import collect_examples, distill, halves
from tfapprox.training.distillation_config import Distillation, DistillationConfig
from tfapprox.training.distillation_state import RunFolder

ModelPath = str | os.PathLike[str]


def distill_saved_model(
    rewritten: ModelPath,
    original: ModelPath,
    data: CalibrationData,
    config: DistillationConfig,
    *,
    signature: str = "serving_default",
    tags: Sequence[str] = ("serve",),
    work_dir: ModelPath | None = None,
    progress: Progress = no_progress,
) -> Distillation:
    """Trains the factors of a SavedModel in place and returns what came of it.

    Only the values in the checkpoint change; the graph, the signatures and all other
    variables stay as they are, bit for bit.

    Args:
      rewritten: what `write_saved_model` made of `original`.
      original: SavedModel directory.
      data: inputs of the signature.
      config: see `DistillationConfig`.
      signature, tags: what to run.
      work_dir: keeps the state of the run, which goes on there when it was killed.
      progress: told of every step.

    Raises:
      UserError: nothing that can be trained, too few data, or outputs that can't
        be matched.
    """
    keys = new_variables(rewritten, original, tags)
    if not keys:
        raise UserError(
            "the factors are constants of the graph, as the original's kernels were: there is no "
            "variable to train; export the model with variables, or leave out --distill_steps"
        )
    examples, note = collect_examples(data, _runner(original, tags, signature), progress)
    gc.collect()  # the original is no longer needed
    specs = data.signature.inputs
    first = examples[0].inputs
    examples = halves(examples, [key for key in first if has_batch_axis(specs[key], first[key])])
    with _strategy(config).scope():
        loaded = _load(rewritten, tags)
        student = loaded.signatures[signature]
        variables = loaded_variables(loaded, rewritten, tags, keys)
        folder = None if work_dir is None else RunFolder(work_dir)
        result = distill(
            lambda inputs: student(**inputs), variables, examples, config, folder, progress
        )
        values = {key: variable.numpy() for key, variable in variables.items()}
    if result.best_step:
        write_values(rewritten, values, tags)
    return dataclasses.replace(result, notes=(*result.notes, *([note] if note else [])))


def _strategy(config: DistillationConfig) -> tf.distribute.Strategy:
    if config.strategy == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _load(path: ModelPath, tags: Sequence[str]) -> Any:
    try:
        return tf.saved_model.load(os.fspath(path), list(tags))
    except Exception as error:  # TensorFlow raises a dozen kinds here
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} can't be loaded in Python, so not trained: {reason}") from error


def _runner(
    path: ModelPath, tags: Sequence[str], signature: str
) -> Callable[[Inputs], Mapping[str, np.ndarray]]:
    loaded = _load(path, tags)
    if signature not in loaded.signatures:
        raise UserError(
            f"{path} has no signature {signature!r}; it has {', '.join(sorted(loaded.signatures))}"
        )
    function = loaded.signatures[signature]

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        # `loaded` is named so that it lives as long as its function.
        assert loaded is not None
        outputs = function(**{key: tf.constant(value) for key, value in inputs.items()})
        return {key: np.asarray(value.numpy()) for key, value in outputs.items()}

    return run
