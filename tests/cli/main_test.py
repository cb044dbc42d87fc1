"""What goes wrong becomes one line and an exit status; faults of ours show a traceback."""

import argparse
import errno
import json
import subprocess
import sys
import types

import pytest

from tfapprox.cli.main import main
from tfapprox.errors import InfeasibleBudgetError, UserError, VerificationError


def run(capsys, action):
    command = types.SimpleNamespace(execute=lambda args: action())
    status = main(argparse.Namespace(command=command, verbose=False))
    return status, capsys.readouterr()


def fail(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such thing"), 2, "no such thing"),
        (InfeasibleBudgetError("floor is 0.3", 0.3), 2, "floor is 0.3"),
        (VerificationError("too far"), 1, "too far"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied"),
        (UserError("two\n  lines"), 2, "two lines"),
    ],
)
def test_error_becomes_one_line_and_a_status(capsys, error, status, line):
    got, captured = run(capsys, fail(error))
    assert (got, captured.out, captured.err) == (status, "", f"tfapprox: error: {line}\n")


def test_full_disk_names_the_file_and_the_way_out(capsys):
    status, captured = run(capsys, fail(OSError(errno.ENOSPC, "No space left on device", "/o/v")))
    assert status == 2
    assert captured.err.startswith("tfapprox: error: /o/v: No space left on device; free")


def test_full_disk_as_tensorflow_tells_it(capsys):
    import tensorflow as tf

    error = tf.errors.ResourceExhaustedError(None, None, "/o/variables; No space left on device")
    status, captured = run(capsys, fail(error))
    assert (status, captured.err.count("\n")) == (2, 1)
    assert "No space left on device" in captured.err


def test_running_out_of_memory_is_one_line(capsys):
    status, captured = run(capsys, fail(MemoryError()))
    assert status == 2 and captured.err.startswith("tfapprox: error: out of memory")


def test_fault_of_the_program_shows_its_traceback(capsys):
    status, captured = run(capsys, fail(AssertionError("impossible")))
    assert status == 70
    assert "Traceback" in captured.err and "impossible" in captured.err


def test_status_of_the_command_is_passed_on(capsys):
    assert run(capsys, lambda: 0)[0] == 0


def program(*argv, **settings):
    command = [sys.executable, "-m", "tfapprox", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, **settings)


def test_program_prints_json_alone_and_keeps_quiet_otherwise(model):
    done = program("verify", "--dir", model, "--against", model, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["passed"] is True


def test_closed_output_is_one_line(model):
    shell = f"'{sys.executable}' -m tfapprox verify --dir '{model}' --against '{model}' | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True)
    assert done.returncode == 2
    assert done.stderr == b"tfapprox: error: standard output was closed before all was written\n"
