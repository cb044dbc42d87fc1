"""Undo a compression: compose every factorization back into one dense kernel.

The result has the original graph's shape, and the outputs of the compressed model: what
the factorization cost in accuracy stays lost. Rewrites of rewrites are undone as well.
"""

import argparse

from tfapprox.cli import flags
from tfapprox.cli.inputs import choose_signature
from tfapprox.cli.output import print_json
from tfapprox.cli.progress import ProgressBars
from tfapprox.printable import printable
from tfapprox.serving.inputs import read_inputs

EXAMPLES = """\
examples:
  tfapprox restore --dir small --output_dir dense
  tfapprox restore --dir small --output_dir dense --inputs inputs.npz --json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_model_flags(parser)
    target = parser.add_argument_group("target")
    target.add_argument(
        "--output_dir", required=True, metavar="DENSE", help="where the dense SavedModel goes"
    )
    target.add_argument(
        "--overwrite", action="store_true", help="replace a SavedModel that is there already"
    )
    comparison = parser.add_argument_group("comparison")
    flags.add_inputs_flag(comparison)
    flags.add_dont_run_flag(comparison)
    flags.add_output_flags(parser)


def execute(args: argparse.Namespace) -> int:
    _, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    inputs = None if args.inputs is None else read_inputs(args.inputs, signature)
    with ProgressBars() as progress:
        from tfapprox.rewriters.saved_model.restoring import restore_saved_model

        restoration = restore_saved_model(
            args.dir,
            args.output_dir,
            tags=args.tag_set,
            signature=args.signature_def,
            inputs=inputs,
            overwrite=args.overwrite,
            run=not args.dont_run,
            progress=progress,
        )
    from tfapprox.report.text import print_verification
    from tfapprox.rewriters.verify import NOT_RUN

    if args.json:
        print_json(restoration.to_json())
        return 0
    print(printable(f"dense again: {', '.join(restoration.restored)}"))
    for name, reason in restoration.kept.items():
        print(printable(f"still factorized: {name}: {reason}"))
    if restoration.verification is None:
        print(f"note: {NOT_RUN}")
    else:
        print_verification(restoration.verification)
    return 0
