"""From the flags of `tfapprox compress` to its settings, and the combinations it refuses."""

import argparse
import importlib.util
from typing import Any

from tfapprox.cli import sampling, slices
from tfapprox.cli.output import check_folder
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget, CostKind
from tfapprox.training.distillation_config import DistillationConfig

# Flags that make a plan, with what they are called in a config; a given plan has
# already settled them, so the two are refused together.
_PLANNING_FLAGS = ("selector", "decompositions", "metric", "include", "exclude")
ALL = "all"  # in the place of every name of a decomposition
_EVBMF_FLAGS = ("evbmf_weakening", "evbmf_floor")
_KEPT: tuple[CostKind, ...] = ("macs", "params", "bytes", "latency")
_TRAINING_FLAGS = {
    "distill_learning_rate": "learning_rate",
    "distill_batch_size": "batch_size",
}
_CANDIDATE_FLAGS = ("schemes", "slices", "rank_multiple")


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
    if args.selector == "greedy" and args.labels is None:
        raise UserError("--selector greedy evaluates each candidate: give --labels too")
    for flag in _EVBMF_FLAGS:
        if getattr(args, flag) is not None and args.selector != "evbmf":
            raise UserError(f"--{flag} belongs to --selector evbmf")
    _check_data(args)
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
    for flag in ("report", "tensorboard"):
        if args.dry_run and getattr(args, flag) is not None:
            raise UserError(f"--{flag} tells of a finished compression: drop it or --dry_run")
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
    if args.tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs TensorBoard: pip install 'tfapprox[tensorboard]'")


def _check_data(args: argparse.Namespace) -> None:
    if args.calibration_data is None:
        for flag in ("calibration", "keep_biases"):
            if getattr(args, flag):
                raise UserError(f"--{flag} is about --calibration_data: give that too")
    own_inputs = (args.labels or "").endswith(".npz")
    if args.labels is not None and args.calibration_data is None and not own_inputs:
        raise UserError("--labels are the classes of --calibration_data: give that too")
    given = [f for f in ("distill_steps", "refine_steps") if getattr(args, f) is not None]
    wanted = {"distribution_strategy": "distill_steps"}
    for flag in (*_TRAINING_FLAGS, *wanted):
        steps = wanted.get(flag, given[0] if given else "distill_steps")
        if getattr(args, flag) is not None and steps not in given:
            raise UserError(f"--{flag} belongs to --{steps}: give that too")
    if given and args.calibration_data is None:
        raise UserError(f"--{given[0]} trains on --calibration_data: give that too")
    if given and args.dry_run:
        raise UserError(f"--{given[0]} trains a finished model: drop it or --dry_run")


def make_training(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the training that the flags ask for: block by block (refinement), and of all."""
    given = {f: getattr(args, flag) for flag, f in _TRAINING_FLAGS.items()}
    shared = {name: value for name, value in given.items() if value is not None}
    found: dict[str, Any] = {}
    if args.refine_steps is not None:
        found["refinement"] = DistillationConfig(args.refine_steps, seed=args.seed, **shared)
    if args.distill_steps is not None:
        strategy = args.distribution_strategy or "none"
        found["distillation"] = DistillationConfig(
            args.distill_steps, seed=args.seed, strategy=strategy, **shared
        )
    return found


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
    named = (*_PLANNING_FLAGS, *_EVBMF_FLAGS)
    given = {f: getattr(args, f) for f in named if getattr(args, f) is not None}
    if given.get("decompositions") == (ALL,):
        from tfapprox import registry

        given["decompositions"] = tuple(registry.DECOMPOSITIONS)
    options = {f: getattr(args, f) for f in _CANDIDATE_FLAGS if getattr(args, f) is not None}
    return CompressionConfig(
        budget,
        candidates=CandidateOptions(**options),
        seed=args.seed,
        faster=faster,
        batch_size=args.batch_size,
        calibration=args.calibration,
        correct_bias=not args.keep_biases,
        **given,
    )
