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


@dataclasses.dataclass
class SiteTimes:
    """Times of one workload: of the dense operation, and of chains relative to it.

    Attributes:
      dense: nanoseconds; 0 if not known.
      chains: by `ChainForm.key`.
    """

    dense: float = 0.0
    chains: dict[str, RelativeTime] = dataclasses.field(default_factory=dict)


class LatencyCache:
    """The times measured on one machine setting, by `Workload.key`, and their file.

    Whoever saves first reads what others saved meanwhile, and the file is replaced in
    one step: runs side by side lose nothing but a race's last entry.
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
        self._fresh: dict[str, SiteTimes] = {}

    def times(self, workload: str) -> SiteTimes:
        """Returns what is known of a workload."""
        return self._times.get(workload, SiteTimes())

    def add(self, workload: str, times: SiteTimes) -> None:
        """Adds measured times, and saves them."""
        self._fresh[workload] = times
        self._times = self._read()
        for key, new in self._fresh.items():
            old = self._times.setdefault(key, SiteTimes())
            old.dense = new.dense
            old.chains |= new.chains
        self._write()

    def _read(self) -> dict[str, SiteTimes]:
        if not self.path.exists():
            return {}
        try:
            body = json.loads(self.path.read_text())
            if body["tfapprox_latency"] != CACHE_VERSION:
                return {}
            return {
                key: SiteTimes(
                    float(times["dense"]),
                    {k: RelativeTime(*map(float, v)) for k, v in times["chains"].items()},
                )
                for key, times in body["workloads"].items()
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
                key: {
                    "dense": times.dense,
                    "chains": {k: [v.ratio, v.noise] for k, v in times.chains.items()},
                }
                for key, times in self._times.items()
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
