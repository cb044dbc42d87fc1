"""Values of a rewritten SavedModel's variables: which are new, where they are, other ones."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.checkpoint import write_checkpoint
from tfapprox.rewriters.saved_model.files import OBJECT_GRAPH_KEY, SavedModelFiles
from tfapprox.rewriters.saved_model.variables import checkpoint_objects, match_objects
from tfapprox.rewriters.saved_model.writing import write_fingerprint

ModelPath = str | os.PathLike[str]

_KINDS = "fc"  # of dtypes that can be trained


def new_variables(rewritten: ModelPath, original: ModelPath, tags: Sequence[str]) -> list[str]:
    """Returns the checkpoint names of the factors, which the original lacks.

    Factors of constant kernels are constants themselves and no variables.
    """
    files = SavedModelFiles(Path(rewritten), tags)
    old = SavedModelFiles(Path(original), tags).tensor_shapes
    return [
        key
        for key in sorted(files.tensor_shapes)
        if key not in old and key != OBJECT_GRAPH_KEY and _is_real(files.tensor(key))
    ]


def loaded_variables(
    loaded: Any, directory: ModelPath, tags: Sequence[str], keys: Sequence[str]
) -> dict[str, tf.Variable]:
    """Returns the variables of a loaded SavedModel by their names in its checkpoint.

    Args:
      loaded: what `tf.saved_model.load(directory, tags)` returned.
      directory, tags: of the SavedModel.
      keys: checkpoint names.

    Raises:
      UserError: Python loads no variable for one of them.
    """
    files = SavedModelFiles(Path(directory), tags)
    graph = files.meta.object_graph_def
    found: dict[str, tf.Variable] = {}
    if graph.nodes:
        stored = checkpoint_objects(files)
        names = {
            saved: attribute.checkpoint_key
            for saved, node in match_objects(graph, stored).items()
            for attribute in stored.nodes[node].attributes
        }
        found = {names[node]: x for node, x in _objects(loaded, graph) if node in names}
    else:  # TF1: Python names a variable as the checkpoint does
        found = {variable.name.partition(":")[0]: variable for variable in loaded.variables}
    missing = [key for key in keys if not isinstance(found.get(key), tf.Variable)]
    if missing:
        raise UserError(f"{directory}: Python loads no variable for {missing[0]!r}")
    return {key: found[key] for key in keys}


def _objects(loaded: Any, graph: Any) -> list[tuple[int, Any]]:
    """Returns the nodes of the saved object graph with the objects that were made of them."""
    found, stack = {0: loaded}, [0]
    while stack:
        node = stack.pop()
        children = tf.train.TrackableView.children(found[node])
        for child in graph.nodes[node].children:
            if child.node_id not in found and child.local_name in children:
                found[child.node_id] = children[child.local_name]
                stack.append(child.node_id)
    return list(found.items())


def write_values(
    directory: ModelPath, values: Mapping[str, np.ndarray], tags: Sequence[str]
) -> None:
    """Writes other values of some variables into a SavedModel; all else stays as it is.

    Args:
      directory: of the SavedModel.
      values: checkpoint name -> value, of the dtype and shape that are stored.
      tags: of one of its graphs.

    Raises:
      UserError: no such variable, or another dtype or shape.
    """
    directory = Path(directory)
    files = SavedModelFiles(directory, tags)
    files.check_present(values)
    for key, value in values.items():
        old = files.tensor(key)
        if (old.shape, old.dtype) != (value.shape, value.dtype):
            raise UserError(
                f"{directory}: variable {key!r} is {old.dtype} {list(old.shape)}, the new value "
                f"{value.dtype} {list(value.shape)}"
            )
    tensors: list[tuple[str, Callable[[], np.ndarray]]] = [
        (key, partial(np.asarray, values[key]) if key in values else partial(files.tensor, key))
        for key in sorted(files.tensor_shapes)
    ]
    fresh = directory / "variables.new"
    write_checkpoint(fresh / "variables", tensors)
    shutil.rmtree(directory / "variables")
    fresh.rename(directory / "variables")
    if (directory / "fingerprint.pb").is_file():
        write_fingerprint(directory)


def _is_real(tensor: np.ndarray) -> bool:
    return tensor.dtype.kind in _KINDS or tensor.dtype.isbuiltin == 2
