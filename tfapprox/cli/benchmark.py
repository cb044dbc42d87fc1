"""Measure the latency of a compressed SavedModel against the original's.

Both models run in turns in one fresh process, through the C++ loader that TF
Serving uses, so that whatever else the machine does meets both alike. Says p50 and
p95 in milliseconds for each batch size, and how many times faster the median is.
"""

import argparse

from tfapprox.cli import flags
from tfapprox.cli.inputs import choose_signature, inputs_for
from tfapprox.cli.output import print_json
from tfapprox.cli.progress import ProgressBars
from tfapprox.serving.benchmark import LatencyRequest, measure_saved_models

EXAMPLES = """\
examples:
  tfapprox benchmark --dir small --against model
  tfapprox benchmark --dir small --against model --inputs inputs.npz --batch_size 1,32 --threads 1
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_model_flags(parser, against=True)
    group = parser.add_argument_group("measurement")
    flags.add_inputs_flag(group)
    group.add_argument(
        "--batch_size",
        type=flags.positives,
        default=(1, 8),
        metavar="N,...",
        help="examples in a call; each is measured (default: 1,8)",
    )
    flags.add_threads_flag(group)
    flags.add_output_flags(parser)


def execute(args: argparse.Namespace) -> int:
    name, signature = choose_signature(args.against, args.tag_set, args.signature_def)
    choose_signature(args.dir, args.tag_set, name)
    request = LatencyRequest(
        original=args.against,
        compressed=args.dir,
        signature=name,
        batch_sizes=args.batch_size,
        tags=args.tag_set,
        threads=args.threads,
    )
    inputs = inputs_for(args.inputs, signature, max(args.batch_size))
    with ProgressBars() as progress:
        progress("measuring both models in turns", 0, 0)
        latency = measure_saved_models(request, inputs)
    from tfapprox.report.text import print_latency

    if args.json:
        print_json({"latency": [one.to_json() for one in latency]})
    else:
        print_latency(latency)
    return 0
