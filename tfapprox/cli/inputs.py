"""The signature a command runs, and inputs for it: the user's or made up."""

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np

from tfapprox.errors import UserError
from tfapprox.printable import printable
from tfapprox.serving.accuracy import accuracy as measure_accuracy
from tfapprox.serving.accuracy import read_labelled, read_labels
from tfapprox.serving.calibration_data import BATCH_SIZE, CalibrationData, open_calibration_data
from tfapprox.serving.cc_loader import find_signature
from tfapprox.serving.inputs import Inputs, assumed_sizes, generate_inputs, read_inputs
from tfapprox.serving.signature import Signature, default_signature, read_signatures

_COMPARED = 256  # examples of the calibration data


def choose_signature(
    path: str, tags: Sequence[str], name: str | None = None
) -> tuple[str, Signature]:
    """Returns a signature and its name: the named one, serving_default, or else the first.

    Raises:
      UserError: no SavedModel, or no such signature.
    """
    signatures = read_signatures(path, tags)
    name = name or default_signature(signatures)
    return name, find_signature(signatures, name, path)


def inputs_for(path: str | None, signature: Signature, batch_size: int) -> Inputs:
    """Returns the arrays of an .npz file, or made-up ones where no file is given."""
    if path is not None:
        return read_inputs(path, signature)
    remark = assumed_sizes(signature)
    if remark:
        note = printable(f"tfapprox: note: {remark}; give real ones with --inputs")
        print(note, file=sys.stderr)
    return generate_inputs(signature, batch_size)


def calibration_data(args: argparse.Namespace, signature: Signature) -> CalibrationData | None:
    """Returns the data that --calibration_data names, in batches as distillation takes them."""
    if args.calibration_data is None:
        return None
    size = getattr(args, "distill_batch_size", None) or BATCH_SIZE
    return open_calibration_data(args.calibration_data, signature, size)


def head(data: CalibrationData | None) -> Inputs | None:
    """Returns the first examples of the calibration data, to compare models on."""
    return None if data is None else data.head(_COMPARED)


def evaluation(
    args: argparse.Namespace, name: str, signature: Signature
) -> Callable[[str], float] | None:
    """Returns a function from a SavedModel's path to its accuracy on --labels."""
    if args.labels is None:
        return None
    inputs, labels = _labelled(args, signature)

    def accuracy(path: str) -> float:
        return measure_accuracy(path, inputs, labels, tags=args.tag_set, signature=name)

    return accuracy


def _labelled(args: argparse.Namespace, signature: Signature) -> tuple[Inputs, np.ndarray]:
    if args.labels.endswith(".npz"):
        return read_labelled(args.labels, signature)
    if not args.calibration_data.endswith(".npz"):
        raise UserError(
            f"--labels {args.labels} are of an .npz --calibration_data; with other data give an "
            ".npz file of inputs with their 'labels'"
        )
    inputs = read_inputs(args.calibration_data, signature)
    return inputs, read_labels(args.labels, inputs)
