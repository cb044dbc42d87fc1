"""`python -m tfapprox` is the program `tfapprox`."""

from tfapprox.cli.main import run

if __name__ == "__main__":
    run()
