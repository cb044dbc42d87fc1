"""C++ is silenced, Python is not, and everything is as before afterwards."""

import os
import subprocess
import sys
import warnings

from tfapprox.cli.hush import hushed_tensorflow


def test_native_messages_vanish_and_python_ones_pass():
    code = (
        "import os, sys\n"
        "from tfapprox.cli.hush import hushed_tensorflow\n"
        "with hushed_tensorflow():\n"
        "    os.write(2, b'native\\n'); print('python', file=sys.stderr)\n"
        "os.write(2, b'after\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "python\nafter\n"


def test_streams_and_warnings_are_restored_after_an_error(capfd):
    before, filters = sys.stderr, list(warnings.filters)
    try:
        with hushed_tensorflow():
            raise RuntimeError
    except RuntimeError:
        pass
    assert sys.stderr is before and warnings.filters == filters
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
