"""Runs `tfapprox.serving.site_timing` in a process of its own and yields its answers.

TensorFlow fixes the threads within operations once for each process.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfapprox.errors import UserError


def timing_answers(
    request: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> Iterator[Any]:
    """Yields one answer for each job of the request, as soon as it is there.

    Args:
      request: JSON, see `site_timing`.
      arrays: written beside it as inputs.npz.

    Raises:
      UserError: the process says that the user can mend what went wrong.
      RuntimeError: it ended otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="tfapprox-timing-") as folder:
        Path(folder, "request.json").write_text(json.dumps(request))
        if arrays is not None:
            np.savez(Path(folder, "inputs.npz"), **dict(arrays))  # type: ignore[arg-type]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        command = [sys.executable, "-m", "tfapprox.serving.site_timing", folder]
        errors = Path(folder, "errors")
        with (
            errors.open("w") as stream,
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True
            ) as child,
        ):
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise UserError(answer["error"])
                    yield answer
                if child.wait() != 0:
                    last = (errors.read_text().strip().splitlines() or ["no message"])[-1]
                    raise RuntimeError(f"the timing process ended with {child.returncode}: {last}")
            finally:
                child.kill()
