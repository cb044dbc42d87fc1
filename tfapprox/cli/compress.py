"""Write a cheaper SavedModel: the same signatures, low-rank kernels.

Chooses a factorization for every site under a budget, or follows a plan, then
rewrites the graph, reads the result back, checks it against the original, measures
both, and puts it in place in one step. The source is never changed.
"""

import argparse
import importlib.util
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tfapprox.cli import flags, sampling, slices
from tfapprox.cli.inputs import choose_signature
from tfapprox.cli.output import check_folder, print_json, read_text
from tfapprox.cli.progress import ProgressBars
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Budget, CostKind
from tfapprox.serving.accuracy import accuracy, read_labels
from tfapprox.serving.inputs import Inputs, read_inputs

if TYPE_CHECKING:
    from tfapprox.report.report import Report

EXAMPLES = """\
examples:
  halve the multiply-adds, with inputs to judge the result by:
    tfapprox compress --dir model --output_dir small --keep_macs 0.5 --calibration_data inputs.npz
  keep every kernel within 5 % of the original, layers named "head" apart:
    tfapprox compress --dir model --output_dir small --max_error 0.05 --exclude head
  be done in 70 % of the time, in calls of 8 examples, with 2 threads:
    tfapprox compress --dir model --output_dir small --keep_latency 0.7 --batch_size 8 --threads 2
  look at the plan, edit it, apply it:
    tfapprox compress --dir model --keep_params 0.3 --dry_run --save_plan plan.json
    tfapprox compress --dir model --output_dir small --plan plan.json
"""

# Flags that make a plan, with what they are called in a config; a given plan has
# already settled them, so the two are refused together.
_PLANNING_FLAGS = ("selector", "decompositions", "metric", "include", "exclude")
_KEPT: tuple[CostKind, ...] = ("macs", "params", "latency")
_CANDIDATE_FLAGS = ("schemes", "slices", "rank_multiple")


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_model_flags(parser)
    _add_target_flags(parser.add_argument_group("target"))
    budget = parser.add_argument_group("budget (one of these, or --plan)")
    _add_budget_flags(budget.add_mutually_exclusive_group())
    _add_method_flags(parser.add_argument_group("method"))
    plan = parser.add_argument_group("plan")
    plan.add_argument("--plan", metavar="FILE", help="apply this plan instead of making one")
    plan.add_argument("--save_plan", metavar="FILE", help="write the plan as JSON, to edit")
    plan.add_argument("--dry_run", action="store_true", help="make the plan and stop there")
    run = parser.add_argument_group("run")
    run.add_argument(
        "--calibration_data",
        metavar="FILE.npz",
        help="inputs to compare both models on, one array for each input key (default: made up)",
    )
    run.add_argument(
        "--warmup",
        metavar="FILE.npz",
        help="inputs that TF Serving replays before it lets requests in: writes its warmup record",
    )
    run.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)"
    )
    run.add_argument(
        "--labels",
        metavar="FILE.npy",
        help="the class of each example of --calibration_data, for the selector greedy, which "
        "evaluates the accuracy of each candidate",
    )
    run.add_argument(
        "--scores",
        metavar="FILE.json",
        help="remember those accuracies here, to go on after an interruption",
    )
    run.add_argument(
        "--batch_size",
        type=flags.positive,
        default=1,
        metavar="N",
        help="examples in the calls whose latency counts (default: 1)",
    )
    flags.add_threads_flag(run)
    flags.add_output_flags(parser).add_argument(
        "--report", metavar="PAGE.html", help="also write a self-contained page with plots"
    )


def _add_target_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output_dir", metavar="OUT", help="where the cheaper SavedModel goes")
    group.add_argument(
        "--overwrite", action="store_true", help="replace a SavedModel that is there already"
    )


def _add_budget_flags(group: argparse._MutuallyExclusiveGroup) -> None:
    group.add_argument(
        "--keep_macs",
        type=float,
        metavar="RATIO",
        help="keep at most this share of the model's multiply-adds, in (0, 1]",
    )
    group.add_argument(
        "--keep_params", type=float, metavar="RATIO", help="the same for its parameters"
    )
    group.add_argument(
        "--keep_latency",
        type=float,
        metavar="RATIO",
        help="the same for its latency, measured on this machine",
    )
    group.add_argument(
        "--max_latency_ms", type=float, metavar="MS", help="the latency itself, in milliseconds"
    )
    group.add_argument(
        "--max_error",
        type=float,
        metavar="E",
        help="spend as few MACs (with --objective=latency: as little time) as a relative "
        "error E of every kernel allows",
    )


def _add_method_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the settings of `CompressionConfig`; None, the default, leaves them to it."""
    from tfapprox import registry  # loads scipy

    usual = CandidateOptions()
    group.add_argument(
        "--selector",
        metavar="NAME",
        help=f"how to spend the budget: {', '.join(registry.SELECTORS)} (default: alds)",
    )
    group.add_argument(
        "--decompositions",
        type=flags.names,
        metavar="NAME,...",
        help=f"methods to try: {', '.join(registry.DECOMPOSITIONS)} (default: svd); or, alone, "
        f"{slices.NAME}, which makes all kernels from one matrix at load, or {sampling.NAME}, "
        "which multiplies sampled column-row pairs only",
    )
    group.add_argument(
        "--sampling_ratio",
        type=float,
        metavar="R",
        help=f"of {sampling.NAME}: share of the pairs that each product keeps",
    )
    group.add_argument(
        "--sampling",
        choices=("topk", "sampled"),
        help=f"of {sampling.NAME}: the heaviest pairs, or drawn by weight (default: topk)",
    )
    group.add_argument(
        "--slice_shape",
        type=flags.numbers,
        metavar="O,I,H,W",
        help=f"of {slices.NAME}: out, in, height, width (default: 16,16,3,3)",
    )
    group.add_argument(
        "--metric",
        metavar="NAME",
        help=f"what error means: {', '.join(registry.METRICS)} (default: the selector's own)",
    )
    group.add_argument(
        "--objective",
        choices=("cost", "latency"),
        default="cost",
        help="latency: replace a site only where that is measured to be faster, and never "
        "write a model slower than the original (default: cost, what the budget limits)",
    )
    group.add_argument(
        "--include", metavar="REGEX", help="factorize only sites whose name matches (default: all)"
    )
    group.add_argument(
        "--exclude", metavar="REGEX", help="keep sites whose name matches (default: none)"
    )
    group.add_argument(
        "--schemes",
        type=flags.numbers,
        metavar="N,...",
        help=f"SVD unfoldings to try (default: {','.join(map(str, usual.schemes))})",
    )
    group.add_argument(
        "--slices",
        type=flags.numbers,
        metavar="K,...",
        help="numbers of channel slices to try "
        f"(default: {','.join(map(str, usual.slices))}; more is rarely faster)",
    )
    group.add_argument(
        "--rank_multiple",
        type=flags.positive,
        metavar="N",
        help=f"ranks are multiples of this (default: {usual.rank_multiple})",
    )


def execute(args: argparse.Namespace) -> int:
    if slices.NAME in (args.decompositions or ()):
        return slices.execute(args)
    if sampling.NAME in (args.decompositions or ()):
        return sampling.execute(args)
    check(args)
    config, given = make_config(args), _read_plan(args.plan)
    name, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    inputs = None
    if args.calibration_data is not None:
        inputs = read_inputs(args.calibration_data, signature)
    warmup = None if args.warmup is None else read_inputs(args.warmup, signature)
    report = None
    with ProgressBars() as progress:
        from tfapprox import compression

        model = {
            "tags": args.tag_set,
            "signature": args.signature_def,
            "inputs": inputs,
            "threads": args.threads,
            "evaluate": _evaluation(args, name, inputs),
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
                **model,
            )
            plan = report.plan
    _tell(args, plan, report)
    return 0


def _evaluation(
    args: argparse.Namespace, signature: str, inputs: Inputs | None
) -> Callable[[str], float] | None:
    """Returns a function from a SavedModel's path to its accuracy on --labels."""
    if args.labels is None or inputs is None:
        return None
    labels = read_labels(args.labels, inputs)
    return partial(accuracy, inputs=inputs, labels=labels, tags=args.tag_set, signature=signature)


def _read_plan(path: str | None) -> Plan | None:
    return None if path is None else Plan.from_json(read_text("plan", path), f"--plan {path}")


def _tell(args: argparse.Namespace, plan: Plan, report: "Report | None") -> None:
    """Writes and prints what the flags ask for; there is no report after a dry run."""
    from tfapprox.report.text import print_plan, print_report

    if args.save_plan is not None:
        pathlib.Path(args.save_plan).write_text(plan.to_json() + "\n")
    if report is not None and args.report is not None:
        from tfapprox.report.page import write_page

        write_page(report, args.report)
    if args.json:
        print_json(json.loads(plan.to_json()) if report is None else report.to_json())
    elif report is None:
        print_plan(plan)
    else:
        print_report(report)


def check(args: argparse.Namespace) -> None:
    """Refuses flags that contradict each other, before anything slow is done.

    Raises:
      UserError: naming the flags.
    """
    budget = (*(f"keep_{kind}" for kind in _KEPT), "max_latency_ms", "max_error")
    has_budget = any(getattr(args, flag) is not None for flag in budget)
    for flag in (f"keep_{kind}" for kind in _KEPT):
        ratio = getattr(args, flag)
        if ratio is not None and not 0 < ratio <= 1:
            raise UserError(f"--{flag} must be in (0, 1], got {ratio}; 0.5 keeps half")
    if args.max_latency_ms is not None and not args.max_latency_ms > 0:
        raise UserError(f"--max_latency_ms must be above 0, got {args.max_latency_ms}")
    if (args.selector == "greedy") != (args.labels is not None):
        raise UserError("--selector greedy and --labels go together: give both or neither")
    if args.labels is not None and args.calibration_data is None:
        raise UserError("--labels are the classes of --calibration_data: give that too")
    if args.plan is None and not has_budget:
        raise UserError(
            "give a budget: --keep_macs 0.5, --keep_params 0.5, --keep_latency 0.7 or "
            "--max_error 0.05"
        )
    if args.plan is not None:
        settled = [f for f in (*_PLANNING_FLAGS, *_CANDIDATE_FLAGS) if getattr(args, f) is not None]
        if has_budget or settled or args.dry_run:
            given = settled or ["dry_run"] if not has_budget else ["a budget"]
            raise UserError(f"--plan has settled that already: drop --plan or {given[0]}")
    if args.dry_run and args.report is not None:
        raise UserError("--report tells of a finished compression: drop it or --dry_run")
    if args.dry_run and args.warmup is not None:
        raise UserError("--warmup goes into a finished model: drop it or --dry_run")
    if args.output_dir is None and not args.dry_run:
        raise UserError("give --output_dir, or --dry_run to see the plan alone")
    for flag in ("save_plan", "report", "scores"):
        check_folder(flag, getattr(args, flag))
    if args.slice_shape is not None:
        raise UserError(f"--slice_shape belongs to --decompositions {slices.NAME}")
    for flag in ("sampling_ratio", "sampling"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag} belongs to --decompositions {sampling.NAME}")
    if args.report is not None and importlib.util.find_spec("jinja2") is None:
        raise UserError("--report needs Jinja2: pip install 'tfapprox[report]'")


def make_config(args: argparse.Namespace) -> CompressionConfig:
    """Returns the settings that the flags describe; with a plan, the budget does not count."""
    faster = args.objective == "latency"
    kept = {kind: ratio for kind in _KEPT if (ratio := getattr(args, f"keep_{kind}")) is not None}
    budget = Budget("macs", keep=1.0)
    if args.max_error is not None:
        timed = faster or args.selector == "latency"
        budget = Budget("latency" if timed else "macs", max_error=args.max_error)
    elif args.max_latency_ms is not None:
        budget = Budget("latency", limit=1e6 * args.max_latency_ms)
    for kind, ratio in kept.items():
        budget = Budget(kind, keep=ratio)
    given = {f: getattr(args, f) for f in _PLANNING_FLAGS if getattr(args, f) is not None}
    options = {f: getattr(args, f) for f in _CANDIDATE_FLAGS if getattr(args, f) is not None}
    return CompressionConfig(
        budget,
        candidates=CandidateOptions(**options),
        seed=args.seed,
        faster=faster,
        batch_size=args.batch_size,
        **given,
    )
