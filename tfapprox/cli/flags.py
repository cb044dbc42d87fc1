"""Flags that several commands share, and the types of their values."""

import argparse


def add_model_flags(parser: argparse.ArgumentParser, against: bool = False) -> None:
    """Adds --dir, --tag_set and --signature_def, and --against for a second model."""
    group = parser.add_argument_group("model")
    group.add_argument("--dir", required=True, metavar="DIR", help="SavedModel directory")
    if against:
        group.add_argument(
            "--against", required=True, metavar="DIR", help="the original SavedModel"
        )
    group.add_argument(
        "--tag_set",
        type=names,
        default=("serve",),
        metavar="TAG,...",
        help="tags of the graph to load (default: serve)",
    )
    group.add_argument(
        "--signature_def",
        metavar="NAME",
        help="signature to look at (default: serving_default, or else the first)",
    )


def add_output_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds --json and --verbose, and returns their group."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="print one JSON document instead of tables"
    )
    group.add_argument(
        "--verbose", action="store_true", help="let TensorFlow's own messages through"
    )
    return group


def add_threads_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of TensorFlow while measuring (default: its own choice)",
    )


def add_dont_run_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dont_run",
        action="store_true",
        help="write, but never run, a model you don't trust: it is compared by structure alone",
    )


def add_inputs_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--inputs",
        metavar="FILE.npz",
        help="one array for each input key of the signature (default: made up)",
    )


def names(text: str) -> tuple[str, ...]:
    """Parses "a,b" into ("a", "b")."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names like a,b")
    return parts


def numbers(text: str) -> tuple[int, ...]:
    """Parses "1,8" into (1, 8)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,8") from None


def positive(text: str) -> int:
    """Parses a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Parses "1,8" into (1, 8), each at least 1."""
    return tuple(positive(part) for part in text.split(","))


def ratios(text: str) -> tuple[float, ...]:
    """Parses "0.3,0.5" into (0.3, 0.5), each in (0, 1]."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of shares in (0, 1] like 0.3,0.5")
    return values
