"""Where measured times are kept from run to run: one JSON file for each machine setting."""

import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from tfapprox.errors import UserError
from tfapprox.selection.latency_table import RelativeTime
from tfapprox.serving import c_api

CACHE_VERSION = 1
FOLDER_VARIABLE = "TFAPPROX_CACHE_DIR"


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a measured time depends on beside the operation itself.

    Attributes:
      processor: model name.
      cores: logical processors that the process may use.
      threads: of each of TensorFlow's two pools, or None for its default.
      tensorflow: version.
    """

    processor: str
    cores: int
    threads: int | None
    tensorflow: str

    @classmethod
    def here(cls, threads: int | None = None) -> "Machine":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return cls(processor_name(), cores, threads, c_api.tensorflow_version())


def processor_name() -> str:
    """Returns the processor's model name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Returns $TFAPPROX_CACHE_DIR, or tfapprox/ in the user's cache (XDG) folder."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfapprox")


Times = dict[str, RelativeTime]
"""Times of chains relative to the dense operation, by `ChainForm.key`."""


class LatencyCache:
    """The times measured on one machine setting, by `Workload.key`, and their file.

    Only ratios are kept: unlike seconds, they hardly depend on what else a machine does.
    Saving first reads what others saved meanwhile, and replaces the file in one step:
    of runs side by side, each loses at most what the other saves that very moment.
    """

    def __init__(self, machine: Machine, folder: Path | None = None):
        """Reads the file, if there is one.

        Raises:
          UserError: the file is not of this kind.
        """
        body = json.dumps(dataclasses.asdict(machine), sort_keys=True)
        digest = hashlib.sha256(body.encode()).hexdigest()[:16]
        self.machine = machine
        self.path = (folder or cache_folder()) / f"latency-{digest}.json"
        self._times = self._read()

    def times(self, workload: str) -> Times:
        """Returns what is known of a workload."""
        return self._times.get(workload, {})

    def add(self, workload: str, times: Times) -> None:
        """Adds measured times, and saves them."""
        self._times.setdefault(workload, {}).update(times)
        for key, others in self._read().items():
            self._times[key] = others | self._times.get(key, {})
        self._write()

    def _read(self) -> dict[str, Times]:
        if not self.path.exists():
            return {}
        try:
            body = json.loads(self.path.read_text())
            if body["tfapprox_latency"] != CACHE_VERSION:
                return {}
            return {
                workload: {key: RelativeTime(*map(float, pair)) for key, pair in times.items()}
                for workload, times in body["workloads"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path} is no cache of measured latencies ({type(error).__name__}: {error}); "
                f"delete it, or set {FOLDER_VARIABLE} to another folder"
            ) from error

    def _write(self) -> None:
        body = {
            "tfapprox_latency": CACHE_VERSION,
            "machine": dataclasses.asdict(self.machine),
            "workloads": {
                workload: {key: [time.ratio, time.noise] for key, time in times.items()}
                for workload, times in self._times.items()
            },
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self.path.parent, suffix=".tmp", delete=False
            ) as file:
                json.dump(body, file)
            os.replace(file.name, self.path)
        except OSError as error:
            raise UserError(
                f"{self.path} can't be written: {error.strerror}; "
                f"set {FOLDER_VARIABLE} to a folder that can"
            ) from error
