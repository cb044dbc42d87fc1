"""Tells of a compression as the flags ask: plan file, page, TensorBoard, JSON or tables."""

import argparse
import json
import pathlib
from typing import TYPE_CHECKING

from tfapprox.cli.output import print_json
from tfapprox.printable import printable
from tfapprox.rewriters.plan import Plan

if TYPE_CHECKING:
    from tfapprox.report.report import Report


def tell(args: argparse.Namespace, plan: Plan, report: "Report | None") -> None:
    """Writes and prints what the flags ask for, and where; a dry run has no report."""
    from tfapprox.report.text import print_plan, print_report

    if args.save_plan is not None:
        pathlib.Path(args.save_plan).write_text(plan.to_json() + "\n")
    if report is not None and args.report is not None:
        from tfapprox.report.page import write_page

        write_page(report, args.report)
    if report is not None and args.tensorboard is not None:
        from tfapprox.report.tensorboard import write_tensorboard

        write_tensorboard(report, args.tensorboard, args.report)
    if args.json:
        print_json(json.loads(plan.to_json()) if report is None else report.to_json())
        return
    if report is None:
        print_plan(plan)
    else:
        print_report(report)
    model = None if report is None else args.output_dir
    written = [place for place in (model, args.save_plan, args.report, args.tensorboard) if place]
    if written:
        print(printable(f"written: {', '.join(written)}"))
