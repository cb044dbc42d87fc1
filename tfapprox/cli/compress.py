"""Write a cheaper SavedModel: the same signatures, low-rank kernels.

Chooses a factorization for every site under a budget, or follows a plan, then
rewrites the graph, reads the result back, checks it against the original, measures
both, and puts it in place in one step. The source is never changed.
"""

import argparse

from tfapprox.cli import sampling, slices, sweep
from tfapprox.cli.compress_config import check, make_config, make_training
from tfapprox.cli.compress_flags import add_flags
from tfapprox.cli.inputs import calibration_data, choose_signature, evaluation, head
from tfapprox.cli.output import read_text
from tfapprox.cli.progress import ProgressBars
from tfapprox.cli.telling import tell
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.inputs import read_inputs

__all__ = ["EXAMPLES", "add_flags", "execute", "make_config"]

EXAMPLES = """\
examples:
  halve the multiply-adds, with inputs to judge the result by:
    tfapprox compress --dir model --output_dir small --keep_macs 0.5 --calibration_data inputs.npz
  keep every kernel within 5 % of the original, layers named "head" apart:
    tfapprox compress --dir model --output_dir small --max_error 0.05 --exclude head
  be done in 70 % of the time, in calls of 8 examples, with 2 threads:
    tfapprox compress --dir model --output_dir small --keep_latency 0.7 --batch_size 8 --threads 2
  compare several budgets, on one page:
    tfapprox compress --dir model --output_dir budgets --sweep 0.3,0.5,0.7 --report report.html
  let the factors learn the original's outputs:
    tfapprox compress --dir m --output_dir s --keep_macs .3 --calibration_data x --distill_steps 500
  look at the plan, edit it, apply it:
    tfapprox compress --dir model --keep_params 0.3 --dry_run --save_plan plan.json
    tfapprox compress --dir model --output_dir small --plan plan.json
"""


def execute(args: argparse.Namespace) -> int:
    if slices.NAME in (args.decompositions or ()):
        return slices.execute(args)
    if sampling.NAME in (args.decompositions or ()):
        return sampling.execute(args)
    if args.sweep is not None:
        return sweep.execute(args)
    check(args)
    config, given = make_config(args), _read_plan(args.plan)
    name, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    data = calibration_data(args, signature)
    warmup = None if args.warmup is None else read_inputs(args.warmup, signature)
    report = None
    with ProgressBars() as progress:
        from tfapprox import compression

        model = {
            "tags": args.tag_set,
            "signature": args.signature_def,
            "inputs": head(data),
            "calibration_data": data,
            "threads": args.threads,
            "evaluate": evaluation(args, name, signature),
            "scores": args.scores,
            "progress": progress,
        }
        if args.dry_run:
            plan = compression.plan_saved_model(args.dir, config, **model)
        else:
            report = compression.compress_saved_model(
                args.dir,
                args.output_dir,
                config,
                warmup=warmup,
                plan=given,
                overwrite=args.overwrite,
                **make_training(args),
                work_dir=args.work_dir,
                run=not args.dont_run,
                **model,
            )
            plan = report.plan
    tell(args, plan, report)
    return 0


def _read_plan(path: str | None) -> Plan | None:
    return None if path is None else Plan.from_json(read_text("plan", path), f"--plan {path}")
