"""The program `tfapprox`: runs a command and turns what goes wrong into one line."""

import argparse
import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence

from absl import app

from tfapprox.cli.freed_memory import return_freed_arrays
from tfapprox.cli.hush import hushed_tensorflow
from tfapprox.cli.parser import parse
from tfapprox.errors import UserError, VerificationError
from tfapprox.printable import printable

FAILED_VERIFICATION, USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 1, 2, 70, 130


def run_program() -> None:
    """Runs the command of `sys.argv` and exits."""
    return_freed_arrays()
    app.run(main, flags_parser=parse)


def main(args: argparse.Namespace) -> int:
    """Runs a parsed command and returns the exit status.

    What a user can mend is told in one line on standard error. Anything else is
    our fault and shows its traceback.
    """
    try:
        with contextlib.nullcontext() if args.verbose else hushed_tensorflow():
            status = args.command.execute(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except VerificationError as error:
        return _complain(str(error), FAILED_VERIFICATION)
    except UserError as error:
        return _complain(str(error), USER_ERROR)
    except (BrokenPipeError, SystemExit):  # rich makes the second out of the first
        # Python flushes standard output once more on exit; let that succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _complain("standard output was closed before all was written", USER_ERROR)
    except Exception as error:
        told = _environment_fault(error)
        if told is None:
            traceback.print_exc()
            return _complain("this is a fault of tfapprox; please report it", INTERNAL_ERROR)
        return _complain(told, USER_ERROR)


def execute(argv: Sequence[str]) -> int:
    """Runs a command line in this process, for tests and notebooks.

    Args:
      argv: the arguments without the program's name.
    """
    return main(parse(["tfapprox", *argv]))


def _environment_fault(error: Exception) -> str | None:
    """Returns a line on a fault of the machine (disk, rights, memory), or None."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; free some space or choose another --output_dir"
        return f"{where}{reason}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'use a machine with more, or fewer sites (--include)'}"
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return None
    resources = (tensorflow.errors.ResourceExhaustedError, tensorflow.errors.PermissionDeniedError)
    if isinstance(error, resources):
        return error.message
    return None


def _complain(message: str, status: int) -> int:
    line = printable(" ".join(message.split()))
    print(f"tfapprox: error: {line}", file=sys.stderr)
    return status
