"""Flags that mean nothing to what is asked for: refused, so that nobody believes in them."""

import argparse
from collections.abc import Sequence

from tfapprox.errors import UserError


def refuse_flags(args: argparse.Namespace, meaningless: Sequence[str], decomposition: str) -> None:
    """Checks that no meaningless flag is given, nor another objective than cost.

    Raises:
      UserError: one is; the message names it.
    """
    given = [flag for flag in meaningless if getattr(args, flag, None)]
    given += ["objective"] if args.objective != "cost" else []
    if given:
        raise UserError(
            f"--{given[0]} has no meaning with --decompositions {decomposition}: drop it"
        )
