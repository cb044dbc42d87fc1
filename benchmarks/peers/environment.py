"""The peers' own virtual environment, apart from that of tfapprox.

  python -m benchmarks.peers.environment

makes .venv-peers beside pyproject.toml, from pinned versions. Benchmarks use it where it is
there, and say which columns are missing where it is not.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("TFAPPROX_PEERS", ROOT / ".venv-peers"))
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def main() -> int:
    """Makes the environment anew and says what is in it."""
    venv.create(FOLDER, with_pip=True, clear=True)
    command = [str(_python()), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)]
    status = subprocess.run(command).returncode
    if status:
        print(f"{FOLDER} could not be filled from {REQUIREMENTS}", file=sys.stderr)
        return status
    print(f"{FOLDER} is ready")
    return 0


def _python() -> Path:
    return FOLDER / "bin" / "python"


class Peer:
    """A process in the peers' environment that answers JSON lines with JSON lines.

    Args:
      script: module in this folder that answers.
      threads: of its numerical libraries; their own choice when None.

    Raises:
      PeerError: the environment or a package in it is missing.
    """

    def __init__(self, script: str, threads: int | None = None):
        if not _python().exists():
            raise PeerError(f"no {FOLDER}: python -m benchmarks.peers.environment makes it")
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [str(_python()), str(Path(__file__).with_name(f"{script}.py"))],
            env={**os.environ, **limits},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = self.ask()

    def ask(self, **request: Any) -> Any:
        """Sends a request and returns the answer.

        Raises:
          PeerError: the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"the peer ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class PeerError(Exception):
    """A peer can't be asked; the message says why."""


if __name__ == "__main__":
    sys.exit(main())
