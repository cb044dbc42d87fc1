"""What every program here does with its flags: check, save, and tell of a user's mistake."""

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from tfapprox.errors import UserError


def run_command(name: str, argv: Sequence[str], run: Callable[[], object]) -> int:
    """Runs a program; returns its exit status, 2 for a user's mistake, told in one line.

    Args:
      name: of the program, in front of its messages.
      argv: what absl left of the command line.
      run: what the program does. Its UserError and OSError are mistakes of the user.
    """
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: everything is a flag, see --help")
        run()
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


def save_flags(
    values: flags.FlagValues, folder: pathlib.Path, of: Sequence[str] = ("model_dir",)
) -> None:
    """Writes flags so that --flagfile=FOLDER/flags.txt runs the same again.

    Args:
      values: the flags.
      folder: made where it is missing.
      of: one flag of each module whose flags are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_module = values.flags_by_module_dict()
    modules = dict.fromkeys(str(values.find_module_defining_flag(name)) for name in of)
    lines = [flag.serialize() for module in modules for flag in by_module[module]]
    (folder / "flags.txt").write_text("".join(f"{line}\n" for line in lines if line))
