"""Lay out a SavedModel for TF Serving: BASE_PATH/NAME/VERSION.

The version appears in one step, complete, so that a server polling the directory never
loads half of it. Existing versions are never touched.
"""

import argparse

from tfapprox.cli import flags
from tfapprox.cli.output import print_json

EXAMPLES = """\
examples:
  tfapprox package --dir small --model_name faces --version 2 --base_path /srv/models
  as the version after the highest one there:
    tfapprox package --dir small --model_name faces --base_path /srv/models
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--dir", required=True, metavar="DIR", help="SavedModel directory")
    target = parser.add_argument_group("target")
    target.add_argument(
        "--model_name", required=True, metavar="NAME", help="as requests will name the model"
    )
    target.add_argument(
        "--version",
        type=flags.positive,
        metavar="N",
        help="must be new (default: one above the highest that is there)",
    )
    target.add_argument(
        "--base_path", required=True, metavar="PATH", help="holds one directory for each model"
    )
    flags.add_output_flags(parser)


def execute(args: argparse.Namespace) -> int:
    from tfapprox.serving.package import package_saved_model

    path = package_saved_model(args.dir, args.model_name, args.base_path, args.version)
    if args.json:
        print_json(
            {
                "model_name": args.model_name,
                "version": int(path.name),
                "path": str(path),
                "model_base_path": str(path.parent),
            }
        )
    else:
        print(f"version {path.name} of {args.model_name}: {path}")
        print(f"for TF Serving: --model_name={args.model_name} --model_base_path={path.parent}")
    return 0
