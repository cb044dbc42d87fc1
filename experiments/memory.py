"""Peak memory of this process, as Linux reports it."""

import pathlib
import re
import resource

_PROCESS = pathlib.Path("/proc/self")


def reset_peak_memory() -> None:
    """Starts the peak anew where the system allows it."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> float:
    """Returns the peak resident memory in MiB, since the reset or else since the start."""
    try:
        status = (_PROCESS / "status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0
