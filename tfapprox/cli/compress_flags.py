"""The flags of `tfapprox compress`, group by group."""

import argparse

from tfapprox.cli import flags, sweep
from tfapprox.cli.method_flags import add_method_flags
from tfapprox.config import CALIBRATIONS
from tfapprox.training.distillation_config import STRATEGIES, DistillationConfig


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_model_flags(parser)
    _add_target_flags(parser.add_argument_group("target"))
    budget = parser.add_argument_group("budget (one of these, or --plan)")
    one = budget.add_mutually_exclusive_group()
    _add_budget_flags(one)
    sweep.add_flags(one, budget)
    add_method_flags(parser.add_argument_group("method"))
    _add_plan_flags(parser.add_argument_group("plan"))
    _add_data_flags(parser.add_argument_group("data"))
    _add_distillation_flags(parser.add_argument_group("training on the original's outputs"))
    _add_run_flags(parser.add_argument_group("run"))
    output = flags.add_output_flags(parser)
    output.add_argument(
        "--report", metavar="PAGE.html", help="also write a self-contained page with plots"
    )
    output.add_argument(
        "--tensorboard", metavar="LOG_DIR", help="also write plan, ranks and errors for TensorBoard"
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
    group.add_argument("--keep_bytes", type=float, metavar="RATIO", help="the same for their bytes")
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
        "error E of every kernel (of greedy: a loss E of accuracy by every site alone) allows",
    )


def _add_plan_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--plan", metavar="FILE", help="apply this plan instead of making one")
    group.add_argument("--save_plan", metavar="FILE", help="write the plan as JSON, to edit")
    group.add_argument("--dry_run", action="store_true", help="make the plan and stop there")


def _add_data_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calibration_data",
        metavar="FILE",
        help="inputs to compress for and to compare both models on (default: made up): .npz with "
        "one array for each input key; .tfrecord of tf.train.Example with one feature for each; "
        "or MODULE:FUNCTION, which returns batches {key: array}",
    )
    group.add_argument(
        "--calibration",
        choices=CALIBRATIONS,
        help="what those data are for: none, to compare models alone; symmetric, to fit every "
        "kernel to its inputs in the original; anchored, to fit it again, one after the other, to "
        "its inputs in the compressed model, which is better and takes longer; rectified, the "
        "same to what a ReLU behind it lets through (default: symmetric)",
    )
    group.add_argument(
        "--keep_biases",
        action="store_true",
        help="do not correct biases by the mean outputs on those data",
    )
    group.add_argument(
        "--labels",
        metavar="FILE",
        help=".npy, the class of each example of an .npz --calibration_data, or .npz with inputs "
        "of its own and an array 'labels': the report then has the accuracy before and after, "
        "and the selector greedy evaluates each candidate",
    )
    group.add_argument(
        "--scores",
        metavar="FILE.json",
        help="remember the accuracies of candidates here, to go on after an interruption",
    )
    group.add_argument(
        "--warmup",
        metavar="FILE.npz",
        help="inputs that TF Serving replays before it lets requests in: writes its warmup record",
    )


def _add_distillation_flags(group: argparse._ArgumentGroup) -> None:
    usual = DistillationConfig(1)
    group.add_argument(
        "--refine_steps",
        type=flags.positive,
        metavar="N",
        help="train the new factors block by block, each for N batches, to give what the same part "
        "of the original does on --calibration_data; --distill_steps may follow (default: no)",
    )
    group.add_argument(
        "--distill_steps",
        type=flags.positive,
        metavar="N",
        help="train the new factors for N batches to give the original's outputs on "
        "--calibration_data, without labels; the best step on batches held back is kept "
        "(default: no training)",
    )
    group.add_argument(
        "--distill_learning_rate",
        type=float,
        metavar="RATE",
        help=f"of Adam, at its highest (default: {usual.learning_rate})",
    )
    group.add_argument(
        "--distill_batch_size",
        type=flags.positive,
        metavar="N",
        help=f"examples of a batch (default: {usual.batch_size})",
    )
    group.add_argument(
        "--distribution_strategy",
        choices=STRATEGIES,
        help="mirrored shares each batch among all GPUs (default: none)",
    )
    group.add_argument(
        "--work_dir",
        metavar="DIR",
        help="keeps the plan and the state of the training here; the same command goes on there "
        "after an interruption",
    )


def _add_run_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)"
    )
    group.add_argument(
        "--batch_size",
        type=flags.positive,
        default=1,
        metavar="N",
        help="examples in the calls whose latency counts (default: 1)",
    )
    flags.add_threads_flag(group)
    flags.add_dont_run_flag(group)
