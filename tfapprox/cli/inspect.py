"""List the sites of a SavedModel: where low-rank factorization may pay.

Every site is a kernel that multiplies activations, with its parameters, its
multiply-adds (MACs) for one example, and its share of the whole model. Linear
operations that can't be factorized are listed with the reason.
"""

import argparse

from tfapprox.cli import flags
from tfapprox.cli.output import print_json
from tfapprox.cli.progress import ProgressBars

EXAMPLES = """\
examples:
  tfapprox inspect --dir model
  tfapprox inspect --dir model --signature_def predict --json > sites.json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_model_flags(parser)
    flags.add_output_flags(parser)


def execute(args: argparse.Namespace) -> int:
    with ProgressBars():
        from tfapprox.rewriters.saved_model import open_saved_model

        inspection = open_saved_model(args.dir, args.tag_set, args.signature_def).inspection
    from tfapprox.report.text import inspection_to_json, print_inspection

    if args.json:
        print_json(inspection_to_json(inspection))
    else:
        print_inspection(inspection)
    return 0
