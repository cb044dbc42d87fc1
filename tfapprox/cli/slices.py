"""What `tfapprox compress --decompositions slice_generator` does.

One generator serves all kernels, so the selector chooses one code size for all of them.
"""

import argparse
import re

from tfapprox.cli.inputs import calibration_data, choose_signature, head
from tfapprox.cli.progress import ProgressBars
from tfapprox.cli.refusing import refuse_flags
from tfapprox.cli.telling import tell
from tfapprox.errors import UserError
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.problem import Budget

NAME = "slice_generator"
_UNUSED = (
    "plan", "dry_run", "warmup", "metric", "exclude",
    "schemes", "slices", "rank_multiple", "refine_steps", "distill_steps", "work_dir",
    "sweep", "labels",
    "calibration", "keep_biases", "scores", "keep_latency", "max_latency_ms", "threads",
    "distill_learning_rate", "distill_batch_size", "distribution_strategy",
)  # fmt: skip


def execute(args: argparse.Namespace) -> int:
    """Writes the model with generated kernels and tells what became of it."""
    budget = _budget(args)
    _, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    inputs = head(calibration_data(args, signature))
    with ProgressBars() as progress:
        from tfapprox.compression.slices import generate_saved_model_slices

        report = generate_saved_model_slices(
            args.dir,
            args.output_dir,
            budget,
            args.slice_shape,
            args.include,
            tags=args.tag_set,
            signature=args.signature_def,
            selector=_selector(args),
            inputs=inputs,
            overwrite=args.overwrite,
            run=not args.dont_run,
            progress=progress,
        )
    tell(args, report.plan, report)
    return 0


def _budget(args: argparse.Namespace) -> Budget:
    if args.decompositions != (NAME,):
        raise UserError(f"--decompositions {NAME} stands alone: one generator makes all kernels")
    if args.slice_shape is not None and len(args.slice_shape) != 4:
        raise UserError(f"--slice_shape needs four numbers like 16,16,3,3, got {args.slice_shape}")
    refuse_flags(args, _UNUSED, NAME)
    if args.output_dir is None:
        raise UserError("give --output_dir, where the smaller SavedModel goes")
    if args.include is not None:
        _check_regex(args.include)
    if args.max_error is not None:
        return Budget("params", max_error=args.max_error)
    if args.keep_params is not None:
        return Budget("params", keep=args.keep_params)
    if getattr(args, "keep_bytes", None) is not None:
        return Budget("bytes", keep=args.keep_bytes)
    raise UserError(
        "a slice generator saves parameters, no multiply-adds: give --keep_params 0.5, "
        "--keep_bytes 0.5 or --max_error 0.05"
    )


def _selector(args: argparse.Namespace) -> str | EvbmfSelector:
    name = args.selector or "alds"
    flags = ("evbmf_weakening", "evbmf_floor")
    given = {f.removeprefix("evbmf_"): v for f in flags if (v := getattr(args, f)) is not None}
    if given and name != "evbmf":
        raise UserError(f"--evbmf_{next(iter(given))} belongs to --selector evbmf")
    return EvbmfSelector(**given) if given else name


def _check_regex(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"--include {pattern!r} is not a regular expression: {error}") from error
