"""What `tfapprox compress --sweep` does: one model, several budgets, one report."""

import argparse
import copy
from typing import TYPE_CHECKING

from tfapprox.cli import flags
from tfapprox.cli.compress_config import check, make_config, make_training
from tfapprox.cli.inputs import calibration_data, choose_signature, evaluation, head
from tfapprox.cli.output import print_json
from tfapprox.cli.progress import ProgressBars
from tfapprox.errors import UserError
from tfapprox.serving.inputs import read_inputs

if TYPE_CHECKING:
    from tfapprox.report.sweep import Sweep

KINDS = ("macs", "params", "bytes", "latency")


def add_flags(budget: argparse._MutuallyExclusiveGroup, group: argparse._ArgumentGroup) -> None:
    budget.add_argument(
        "--sweep",
        type=flags.ratios,
        metavar="RATIO,...",
        help="compress once for each of these shares, into OUT/keep_RATIO, and compare; finished "
        "ones are not made again (with --dry_run: measure only, and keep no model)",
    )
    group.add_argument(
        "--sweep_kind",
        choices=KINDS,
        default="macs",
        help="what --sweep keeps a share of (default: macs)",
    )


def execute(args: argparse.Namespace) -> int:
    """Compresses to every ratio; 1 if one failed its verification, 2 if one can't be had."""
    config = make_config(_checked(args))
    name, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    data = calibration_data(args, signature)
    warmup = None if args.warmup is None else read_inputs(args.warmup, signature)
    with ProgressBars() as progress:
        from tfapprox.compression.sweep import sweep_saved_model

        sweep = sweep_saved_model(
            args.dir,
            None if args.dry_run else args.output_dir,
            config,
            args.sweep,
            overwrite=args.overwrite,
            progress=progress,
            tags=args.tag_set,
            signature=args.signature_def,
            inputs=head(data),
            calibration_data=data,
            **make_training(args),
            warmup=warmup,
            threads=args.threads,
            evaluate=evaluation(args, name, signature),
            scores=args.scores,
            run=not args.dont_run,
        )
    _tell(args, sweep)
    return _status(sweep)


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags as if one ratio were asked for, checked like those."""
    for flag in ("plan", "save_plan", "work_dir", "tensorboard"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag} is for one budget: drop it or --sweep")
    one = copy.copy(args)
    setattr(one, f"keep_{args.sweep_kind}", args.sweep[0])
    if args.dry_run:
        one.dry_run, one.output_dir = False, args.output_dir or "."
    check(one)
    return one


def _tell(args: argparse.Namespace, sweep: "Sweep") -> None:
    if args.report is not None:
        from tfapprox.report.sweep_page import write_sweep_page

        write_sweep_page(sweep, args.report)
    if args.json:
        print_json(sweep.to_json())
        return
    from tfapprox.report.text import print_sweep

    print_sweep(sweep)
    written = [place for place in (sweep.destination, args.report) if place]
    if written:
        print(f"written: {', '.join(written)}")


def _status(sweep: "Sweep") -> int:
    if any(point.wrong for point in sweep.points):
        return 1
    return 2 if any(point.failure for point in sweep.points) else 0
