"""The accuracy of a SavedModel on labelled inputs."""

from collections.abc import Sequence

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import LABEL_KEYS, Inputs, fitted_inputs, load_arrays
from tfapprox.serving.signature import Signature

_BATCH = 64


def accuracy(
    path: str,
    inputs: Inputs,
    labels: np.ndarray,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str = "serving_default",
) -> float:
    """Returns the share of examples whose largest output is at their label.

    Args:
      path: SavedModel directory.
      inputs: one array [examples, ...] for each input key.
      labels: integers [examples], the class of each.
      tags, signature: what to run. Of several outputs the first by name counts.

    Raises:
      UserError: the labels do not fit the inputs, or the outputs are no class scores.
    """
    _check_labels(inputs, labels)
    right = 0
    with CcSession(path, tags) as session:
        for start in range(0, len(labels), _BATCH):
            batch = {key: array[start : start + _BATCH] for key, array in inputs.items()}
            outputs = session.run(batch, signature)
            scores = np.asarray(outputs[min(outputs)])
            wanted = labels[start : start + _BATCH]
            if scores.ndim != 2 or len(scores) != len(wanted) or scores.dtype.kind not in "fV":
                raise UserError(
                    f"output {min(outputs)!r} of {path} has shape {list(scores.shape)}, not one "
                    "score for each class; evaluate with a callable of your own"
                )
            right += int(np.sum(scores.astype(np.float32).argmax(axis=1) == wanted))
    return right / len(labels)


def read_labels(path: str, inputs: Inputs) -> np.ndarray:
    """Returns the labels in an .npy file.

    Raises:
      UserError: it can't be read, or does not hold one whole number for each example.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} can't be read as an .npy file of labels: {error}") from error
    if not isinstance(labels, np.ndarray):
        raise UserError(f"{path} holds several arrays; write the labels alone, with numpy.save")
    _check_labels(inputs, labels)
    return labels


def read_labelled(path: str, signature: Signature) -> tuple[Inputs, np.ndarray]:
    """Returns the inputs and labels of an .npz file: an array for each input key, and "labels".

    Raises:
      UserError: it can't be read, or does not hold just that.
    """
    arrays = load_arrays(path)
    found = [key for key in LABEL_KEYS if key in arrays and key not in signature.inputs]
    if len(found) != 1:
        raise UserError(
            f"{path} has arrays {sorted(arrays)}; beside the inputs it needs one called 'labels', "
            "the class of each example"
        )
    inputs = fitted_inputs(path, arrays, signature)
    _check_labels(inputs, arrays[found[0]])
    return inputs, arrays[found[0]]


def _check_labels(inputs: Inputs, labels: np.ndarray) -> None:
    """Raises a UserError unless there is one whole number for each example."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(
            f"labels must be whole numbers, one for each example, got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    for key, array in inputs.items():
        if array.ndim == 0 or len(array) != len(labels):
            raise UserError(
                f"there are {len(labels)} labels, but input {key!r} has shape {list(array.shape)}"
            )
