"""What `tfapprox compress --decompositions crs` does.

Every product keeps the same share of its column-row pairs, and what is lost depends on the
activations: there is no budget to spend, and no selector.
"""

import argparse
import re

from tfapprox.cli.inputs import calibration_data, choose_signature, head
from tfapprox.cli.progress import ProgressBars
from tfapprox.cli.refusing import refuse_flags
from tfapprox.cli.telling import tell
from tfapprox.errors import UserError

NAME = "crs"
_UNUSED = (
    "plan", "dry_run", "warmup", "selector", "metric", "schemes",
    "slices", "rank_multiple", "slice_shape", "keep_macs", "keep_params", "keep_latency",
    "max_latency_ms", "max_error", "scores", "keep_bytes",
    "refine_steps", "distill_steps", "work_dir", "sweep", "labels", "calibration",
    "keep_biases", "threads", "distill_learning_rate", "distill_batch_size",
    "distribution_strategy", "evbmf_weakening", "evbmf_floor",
)  # fmt: skip


def execute(args: argparse.Namespace) -> int:
    """Writes the model with sampled products and tells what became of it."""
    _check(args)
    _, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    inputs = head(calibration_data(args, signature))
    with ProgressBars() as progress:
        from tfapprox.compression.sampling import sample_saved_model

        report = sample_saved_model(
            args.dir,
            args.output_dir,
            args.sampling_ratio,
            args.sampling or "topk",
            include=args.include or "",
            exclude=args.exclude,
            tags=args.tag_set,
            signature=args.signature_def,
            inputs=inputs,
            seed=args.seed,
            overwrite=args.overwrite,
            run=not args.dont_run,
            progress=progress,
        )
    tell(args, report.plan, report)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.decompositions != (NAME,):
        raise UserError(f"--decompositions {NAME} stands alone: it samples, others factorize")
    refuse_flags(args, _UNUSED, NAME)
    if args.sampling_ratio is None:
        raise UserError(f"--decompositions {NAME} needs --sampling_ratio, e.g. 0.5")
    if args.output_dir is None:
        raise UserError("give --output_dir, where the sampled SavedModel goes")
    for flag in ("include", "exclude"):
        pattern = getattr(args, flag)
        try:
            re.compile(pattern or "")
        except re.error as error:
            message = f"--{flag} {pattern!r} is not a regular expression: {error}"
            raise UserError(message) from error
