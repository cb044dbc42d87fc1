"""On what machine, with what versions."""

import dataclasses
import importlib.metadata
import os
import platform
import sys

import tfapprox


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a reader needs to know to believe, or repeat, a measurement.

    Attributes:
      tfapprox, tensorflow, numpy, python: versions.
      machine: operating system and processor.
      cores: logical processors that the process may use.
      threads: given to TensorFlow, or None for its default.
      seed: of everything random.
    """

    tfapprox: str
    tensorflow: str
    numpy: str
    python: str
    machine: str
    cores: int
    threads: int | None
    seed: int


def collect_environment(threads: int | None = None, seed: int = 0) -> Environment:
    """Returns the environment of this process."""
    return Environment(
        tfapprox=tfapprox.__version__,
        tensorflow=_version("tensorflow"),
        numpy=_version("numpy"),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}, {_processor()}",
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        threads=threads,
        seed=seed,
    )


def peak_memory_bytes() -> int:
    """Returns the most memory this process has held, or 0 where that can't be told."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or "unknown processor"
