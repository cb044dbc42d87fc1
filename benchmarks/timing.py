"""Times functions in turns, so that whatever else the machine does meets all of them alike."""

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.record import Spread

Call = Callable[[], object]
_CLOCKS = (time.perf_counter, time.process_time)


class Seconds(float):
    """What a call returns that ran in another process and was timed there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Timings:
    """Seconds of calls that ran in turns.

    Attributes:
      wall, cpu: name -> seconds of each round; CPU seconds are those of all threads of this
        process and are the steadier measure on a machine that others use.
    """

    wall: Mapping[str, np.ndarray]
    cpu: Mapping[str, np.ndarray]

    def best(self, prefix: str) -> str:
        """Returns the name with the smallest median by the clock of those that start so."""
        names = [name for name in self.wall if name.startswith(prefix)]
        return min(names, key=lambda name: float(np.median(self.wall[name])))

    def speed_up(self, slow: str, fast: str) -> Spread:
        """Returns the seconds of `slow` over those of `fast`, by the clock, round by round."""
        return Spread.of(self.wall[slow] / self.wall[fast])

    def cpu_speed_up(self, slow: str, fast: str) -> float:
        """Returns the ratio of the median CPU seconds."""
        return float(np.median(self.cpu[slow]) / np.median(self.cpu[fast]))


def time_in_turns(calls: Mapping[str, Call], rounds: int, warm_up: int = 1) -> Timings:
    """Runs every call once a round, in alternating order.

    Args:
      calls: of those that return `Seconds`, these count as wall and CPU time.
      rounds: measured.
      warm_up: rounds run before and not counted.
    """
    seconds = np.zeros((len(_CLOCKS), warm_up + rounds, len(calls)))
    for turn in range(warm_up + rounds):
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        run = list(calls.values())
        for index in order:
            starts = [clock() for clock in _CLOCKS]
            told = run[index]()
            taken = [clock() - start for clock, start in zip(_CLOCKS, starts, strict=True)]
            seconds[:, turn, index] = told if isinstance(told, Seconds) else taken
    wall, cpu = seconds[:, warm_up:]
    return Timings(
        {name: wall[:, index] for index, name in enumerate(calls)},
        {name: cpu[:, index] for index, name in enumerate(calls)},
    )
