"""The program `tfapprox`, also as `python -m tfapprox`."""

import sys


def run() -> None:
    """Runs the command of `sys.argv` and exits; interrupted at any moment, it says so."""
    try:
        from tfapprox.cli.main import run_program

        run_program()
    except KeyboardInterrupt:
        print("tfapprox: error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
