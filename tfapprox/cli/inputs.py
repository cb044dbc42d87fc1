"""The signature a command runs, and inputs for it: the user's or made up."""

import argparse
import sys
from collections.abc import Callable, Sequence

from tfapprox.serving.accuracy import accuracy as measure_accuracy
from tfapprox.serving.accuracy import read_labels
from tfapprox.serving.cc_loader import find_signature
from tfapprox.serving.inputs import Inputs, assumed_sizes, generate_inputs, read_inputs
from tfapprox.serving.signature import Signature, default_signature, read_signatures


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
        print(f"tfapprox: note: {remark}; give real ones with --inputs", file=sys.stderr)
    return generate_inputs(signature, batch_size)


def evaluation(
    args: argparse.Namespace, signature: str, inputs: Inputs | None
) -> Callable[[str], float] | None:
    """Returns a function from a SavedModel's path to its accuracy on --labels."""
    if args.labels is None or inputs is None:
        return None
    labels = read_labels(args.labels, inputs)

    def accuracy(path: str) -> float:
        return measure_accuracy(path, inputs, labels, tags=args.tag_set, signature=signature)

    return accuracy
