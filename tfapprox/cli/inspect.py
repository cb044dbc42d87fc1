"""List the sites of a SavedModel: where low-rank factorization may pay.

Every site is a kernel that multiplies activations, with its parameters, its
multiply-adds (MACs) for one example, and its share of the whole model. Linear
operations that can't be factorized are listed with the reason, signatures with the keys
of their inputs, which files of inputs need. A model that tfapprox compressed also shows
the plan it was compressed by.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from tfapprox.cli import flags
from tfapprox.cli.output import print_json, read_text
from tfapprox.cli.progress import ProgressBars
from tfapprox.errors import UserError
from tfapprox.printable import printable
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.signature import Signature

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

        source = open_saved_model(args.dir, args.tag_set, args.signature_def)
        inspection = source.inspection
    from tfapprox.report.text import (
        inspection_to_json,
        print_inspection,
        print_plan,
        print_signatures,
    )

    plan = plan_inside(args.dir)
    if args.json:
        body = {} if plan is None else {"compressed_by": json.loads(plan.to_json())}
        keys = {name: _keys(signature) for name, signature in source.signatures.items()}
        print_json({**inspection_to_json(inspection), "signatures": keys, **body})
        return 0
    print_inspection(inspection)
    print()
    print_signatures(source.signatures)
    if plan is not None:
        print()
        print(printable(f"Compressed by tfapprox ({_origin(plan)}). Its plan was:"))
        print_plan(plan)
    return 0


def _keys(signature: Signature) -> dict[str, Any]:
    return {
        side: {key: {"dtype": spec.dtype, "shape": spec.shape} for key, spec in specs.items()}
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }


def plan_inside(model: str) -> Plan | None:
    """Returns the plan that a compressed model carries; one that can't be read is told of."""
    from tfapprox.rewriters.plan import EXTRA

    path = pathlib.Path(model, EXTRA, "plan.json")
    if not path.is_file():
        return None
    try:
        return Plan.from_json(read_text("dir", str(path)), str(path))
    except UserError as error:
        print(printable(f"tfapprox: note: {error}"), file=sys.stderr)
        return None


def _origin(plan: Plan) -> str:
    """Returns the settings that say most about a plan, as the flags call them."""
    if plan.settings.get("full_rank"):
        return "at full rank"
    budget = plan.settings.get("budget")
    budget = budget if isinstance(budget, dict) else {}
    amounts = {
        "max_error": budget.get("max_error"),
        f"keep_{budget.get('kind')}": budget.get("keep"),
        f"limit of {budget.get('kind')}": budget.get("limit"),
        "selector": plan.settings.get("selector"),
        "sampling_ratio": plan.settings.get("sampling_ratio"),
    }
    return ", ".join(f"{name} {value}" for name, value in amounts.items() if value is not None)
