"""The command line as a whole: one parser with a subcommand for each command module."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from absl.flags import argparse_flags

import tfapprox
from tfapprox.cli import benchmark, compress, inspect, package, restore, verify

COMMANDS: dict[str, ModuleType] = {
    "inspect": inspect,
    "compress": compress,
    "verify": verify,
    "benchmark": benchmark,
    "package": package,
    "restore": restore,
}

_DESCRIPTION = """\
Makes TensorFlow SavedModels cheaper by low-rank factorization of their kernels.

The usual way:
  tfapprox inspect   --dir model
  tfapprox compress  --dir model --output_dir small --keep_macs 0.5
  tfapprox verify    --dir small --against model --inputs inputs.npz
  tfapprox benchmark --dir small --against model
  tfapprox package   --dir small --model_name NAME --base_path /srv/models
"""

_EPILOG = """\
exit status: 0 done; 1 verification failed; 2 wrong use or bad input, told in one line;
70 fault of the program; 130 interrupted. The source model is never changed, and a
target appears only once it is complete.
"""


class _HelpLayout(argparse.RawDescriptionHelpFormatter):
    """Keeps written line breaks and gives flags a column wide enough for most of them."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)


class Parser(argparse_flags.ArgumentParser):
    """Says what is wrong in one line, and lays out help as it is written."""

    def __init__(self, **settings):
        # absl's flags are flags of every command. In a notebook, or a program with
        # flags of its own, ours win where names meet.
        settings |= {"allow_abbrev": False, "conflict_handler": "resolve"}
        super().__init__(formatter_class=_HelpLayout, **settings)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        # Of a command, too: so its own flags are at hand, and its own help is named.
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(_unknown(unknown[0], self._option_string_actions))
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        print(f"tfapprox: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _unknown(word: str, flags: Iterable[str]) -> str:
    """Returns what is wrong with a word that is no flag, and the flag that was meant, if any."""
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: everything is a flag"
    name = word.partition("=")[0]
    written = "--" + name.lstrip("-").replace("-", "_")  # as ours are
    near = difflib.get_close_matches(written, [f for f in flags if f[:2] == "--"], 1, 0.7)
    return f"unknown flag {name}" + (f": did you mean {near[0]}?" if near else "")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the flags of the command in `argv`, with the command's module as `command`.

    Args:
      argv: the program's name and its arguments.
    """
    # The flags of one command may ask the registry, hence load scipy: those of the
    # others can do without.
    return make_parser([name for name in COMMANDS if name in argv]).parse_args(list(argv[1:]))


def make_parser(commands: Sequence[str] = tuple(COMMANDS)) -> Parser:
    """Returns the parser, with the flags of these commands; shell completion asks for all."""
    parser = Parser(prog="tfapprox", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"tfapprox {tfapprox.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        description = command.__doc__ or ""
        summary = description.partition(".\n")[0]
        subparser = subparsers.add_parser(
            name,
            help=summary[:1].lower() + summary[1:],
            description=description,
            epilog=command.EXAMPLES,
        )
        if name in commands:
            command.add_flags(subparser)
            subparser.set_defaults(command=command)
    return parser
