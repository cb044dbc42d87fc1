"""Distils a Keras model that `compress_model` made: its new layers learn the original's outputs."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.keras_graph import layers_by_path
from tfapprox.training.distillation import collect_examples, distill, halves
from tfapprox.training.distillation_config import Distillation, DistillationConfig
from tfapprox.training.distillation_state import RunFolder


def distill_keras_model(
    rewritten: Any,
    original: Any,
    batches: Iterable[Any],
    config: DistillationConfig,
    *,
    work_dir: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> Distillation:
    """Trains the stages of the new layers in place, in inference mode; all else stays.

    The bias of a replaced layer, which its last stage took over, is trained with it.

    Args:
      rewritten: what `rewrite_keras_model` made of `original`.
      original: of the same flavour.
      batches: inputs as `original(inputs)` takes them, batch by batch.
      config: see `DistillationConfig`; to use several GPUs, call this and
        `compress_model` in the scope of a tf.distribute strategy.
      work_dir: keeps the state of the run, which goes on there when it was killed.
      progress: told of every step.

    Raises:
      UserError: nothing that can be trained, too few data, outputs that can't be
        matched, or a strategy asked for by name.
    """
    if config.strategy != "none":
        raise UserError(
            "a Keras model is trained where its variables are: call compress_model in the scope "
            f"of a tf.distribute strategy, in the place of strategy={config.strategy!r}"
        )
    variables = new_variables(rewritten, original)
    if not variables:
        raise UserError(f"model {rewritten.name} has no layer that {original.name} lacks")
    structure = next(iter(batches), None)
    if structure is None:
        raise UserError("the calibration data hold no batch")
    examples, note = collect_examples(
        (_arrays(keyed("input", batch)) for batch in batches),
        lambda inputs: _arrays(call_by_keys(original, inputs, structure)),
        progress,
    )
    examples = halves(examples, examples[0].inputs)
    folder = None if work_dir is None else RunFolder(work_dir)
    result = distill(
        lambda inputs: call_by_keys(rewritten, inputs, structure),
        variables, examples, config, folder, progress,
    )  # fmt: skip
    return dataclasses.replace(result, notes=(*result.notes, *([note] if note else [])))


def new_variables(rewritten: Any, original: Any) -> dict[str, tf.Variable]:
    """Returns the weights of layers that differ in kind or shape from the original's."""
    old = layers_by_path(original)
    found = {}
    for path, layer in layers_by_path(rewritten).items():
        shapes = [tuple(w.shape) for w in layer.weights]
        if path in old and shapes == [tuple(w.shape) for w in old[path].weights]:
            continue
        for place, weight in enumerate(layer.weights):
            # A Keras 3 variable wraps TensorFlow's.
            raw = weight if isinstance(weight, tf.Variable) else weight.value
            if raw.dtype.is_floating:
                found[f"{path}/{place}"] = raw
    return found


def call_by_keys(model: Any, inputs: dict[str, Any], structure: Any) -> dict[str, Any]:
    """Returns the outputs of a model in inference, by keys that number them.

    Args:
      inputs: by such keys too.
      structure: how the model's inputs are nested.
    """
    packed = tf.nest.pack_sequence_as(structure, [inputs[key] for key in sorted(inputs)])
    return keyed("output", model(packed, training=False))


def keyed(word: str, nest: Any) -> dict[str, Any]:
    """Returns what a nest holds, by a word and a number."""
    return {f"{word} {i:03}": value for i, value in enumerate(tf.nest.flatten(nest))}


def _arrays(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in tensors.items()}
