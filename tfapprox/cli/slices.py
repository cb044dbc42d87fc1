"""What `tfapprox compress --decompositions slice_generator` does.

One generator serves all kernels, so there is no plan of one choice for each site: the
budget sets the code size.
"""

import argparse
import re

from tfapprox.cli.inputs import choose_signature
from tfapprox.cli.output import print_json
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget
from tfapprox.serving.inputs import read_inputs

NAME = "slice_generator"
_UNUSED = (
    "plan", "save_plan", "dry_run", "warmup", "report", "selector", "metric", "exclude",
    "schemes", "slices", "rank_multiple",
)  # fmt: skip


def execute(args: argparse.Namespace) -> int:
    """Writes the model with generated kernels and tells what became of it."""
    budget = _budget(args)
    _, signature = choose_signature(args.dir, args.tag_set, args.signature_def)
    inputs = None
    if args.calibration_data is not None:
        inputs = read_inputs(args.calibration_data, signature)
    from tfapprox.rewriters.saved_model.slices import generate_saved_model_slices

    result = generate_saved_model_slices(
        args.dir,
        args.output_dir,
        budget,
        args.slice_shape,
        args.include,
        tags=args.tag_set,
        inputs=inputs,
        overwrite=args.overwrite,
    )
    if args.json:
        print_json(result.to_json())
        return 0
    print(f"slices {list(result.slice_shape)}, codes of {result.code_size} numbers")
    for site, error in result.errors.items():
        print(f"  {site}: generated, relative error {error:.4f}")
    for site, reason in result.kept.items():
        print(f"  {site}: kept, {reason}")
    for output in result.verification.outputs:
        print(f"  output {output.output}: relative error {output.relative_error:.4f}")
    print(f"{result.bytes_before:,} -> {result.bytes_after:,} bytes on disk in {args.output_dir}")
    return 0


def _budget(args: argparse.Namespace) -> Budget:
    if args.decompositions != (NAME,):
        raise UserError(f"--decompositions {NAME} stands alone: one generator makes all kernels")
    if args.slice_shape is not None and len(args.slice_shape) != 4:
        raise UserError(f"--slice_shape needs four numbers like 16,16,3,3, got {args.slice_shape}")
    given = [flag for flag in _UNUSED if getattr(args, flag, None)]
    if given:
        raise UserError(f"--{given[0]} has no meaning with --decompositions {NAME}: drop it")
    if args.output_dir is None:
        raise UserError("give --output_dir, where the smaller SavedModel goes")
    if args.include is not None:
        _check_regex(args.include)
    if args.max_error is not None:
        return Budget("params", max_error=args.max_error)
    if args.keep_params is None:
        raise UserError(
            "a slice generator saves parameters, no multiply-adds: give --keep_params 0.5 or "
            "--max_error 0.05"
        )
    return Budget("params", keep=args.keep_params)


def _check_regex(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"--include {pattern!r} is not a regular expression: {error}") from error
