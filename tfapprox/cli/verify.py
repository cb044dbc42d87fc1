"""Check that a compressed SavedModel does what the original does.

Loads both from disk, through Python and through the C++ loader of TF Serving, runs
the same inputs through every signature and compares: keys, dtypes, shapes, and values
up to a relative error. Exits with status 1 when they differ by more.
"""

import argparse

from tfapprox.cli import flags
from tfapprox.cli.inputs import choose_signature
from tfapprox.cli.output import print_json
from tfapprox.cli.progress import ProgressBars
from tfapprox.errors import UserError, VerificationError
from tfapprox.serving.inputs import read_inputs

EXAMPLES = """\
examples:
  tfapprox verify --dir small --against model
  tfapprox verify --dir small --against model --inputs inputs.npz --max_relative_error 0.02
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_model_flags(parser, against=True)
    group = parser.add_argument_group("comparison")
    flags.add_inputs_flag(group)
    group.add_argument(
        "--max_relative_error",
        type=float,
        default=0.1,
        metavar="E",
        help="||difference|| / ||original|| that an output may have (default: %(default)s)",
    )
    flags.add_output_flags(parser)


def execute(args: argparse.Namespace) -> int:
    if args.max_relative_error < 0:
        raise UserError(f"--max_relative_error must not be negative, got {args.max_relative_error}")
    _, wanted = choose_signature(args.against, args.tag_set, args.signature_def)
    inputs = None if args.inputs is None else read_inputs(args.inputs, wanted)
    with ProgressBars() as progress:
        from tfapprox.rewriters.verify import verify_saved_model

        verification = verify_saved_model(
            args.dir,
            args.against,
            inputs,
            tags=args.tag_set,
            signature=args.signature_def,
            max_relative_error=args.max_relative_error,
            progress=progress,
        )
    from tfapprox.report.text import print_verification

    if args.json:
        print_json(verification.to_json())
    else:
        print_verification(verification)
    if not verification.passed:
        raise VerificationError(f"{args.dir} failed verification: {verification.failures[0]}")
    return 0
