"""The signature a command runs, and inputs for it: the user's or made up."""

import sys
from collections.abc import Sequence

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
