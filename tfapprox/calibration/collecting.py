"""Gathers the moments of every site's inputs while a model runs."""

import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import MomentAccumulator, Moments
from tfapprox.calibration.patches import patch_rows, position_count

ROWS_PER_CALL = 4096
"""Rows of one call of a site that enter its moments: more of them are drawn at random."""

MEMORY = 2**30
"""Bytes that all input moments together may take."""


class RowSampler:
    """Draws rows of a call's input, the same ones for the same call of every run."""

    def __init__(self, most: int = ROWS_PER_CALL, seed: int = 0):
        self._most, self._seed = most, seed
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def rows(self, site: Site, use: str, x: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Returns [n, D], at most as many rows as asked for, in their order.

        Args:
          site: whose kernel multiplies `x`.
          use: which place in the model it is.
          x: [N, height, width, I].
          geometry: where the taps fall.
        """
        count = position_count(x.shape, site.kernel_size, geometry)
        with self._lock:
            call, self._calls[use] = self._calls[use], self._calls[use] + 1
        if count <= self._most:
            return patch_rows(x, site.kernel_size, geometry)
        rng = np.random.default_rng([self._seed, zlib.crc32(use.encode()), call])
        chosen = np.sort(rng.choice(count, self._most, replace=False))
        return patch_rows(x, site.kernel_size, geometry, chosen)

    def start_over(self) -> None:
        """Draws for the next run what was drawn for the last."""
        self._calls.clear()


class MomentCollector:
    """Watches the original model; see `watch`.

    Attributes:
      outputs_only: sites whose input moment would not fit into the memory bound.
    """

    def __init__(self, sites: Sequence[Site], memory: int = MEMORY, seed: int = 0):
        self._sites = {site.name: site for site in sites}
        self._sampler = RowSampler(seed=seed)
        self.outputs_only = frozenset(_too_large(sites, memory))
        self._accumulators = {
            site.name: MomentAccumulator(site.kernel, site.name not in self.outputs_only)
            for site in sites
        }
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._weights: dict[tuple[str, int], float] = {}
        self._calls: Counter[str] = Counter()

    def start_run(self) -> None:
        """Tells of a new batch: the calls that come now are those of the last one again."""
        self._calls.clear()

    def watch(
        self, name: str, use: str, x: np.ndarray, geometry: Geometry
    ) -> tuple[np.ndarray, np.ndarray]:
        """Takes in the input of a site and returns its own kernel and no offset.

        Calls that share a kernel count alike, whatever the size of their outputs.
        """
        site = self._sites[name]
        rows = self._sampler.rows(site, use, x, geometry)
        with self._locks[name]:  # one kernel may be used in several places at once
            call, self._calls[use] = (use, self._calls[use]), self._calls[use] + 1
            if call not in self._weights:
                self._weights[call] = call_weight(rows @ site.kernel.reshape(rows.shape[1], -1))
            self._accumulators[name].add(rows, self._weights[call])
        return site.kernel, np.zeros(site.out_channels, site.kernel.dtype)

    def moments(self, uncentred: Collection[str] = ()) -> dict[str, Moments]:
        """Returns the moments of every site that was executed, and frees the memory.

        Args:
          uncentred: sites whose bias can't be corrected.
        """
        found = {}
        while self._accumulators:
            name, accumulator = self._accumulators.popitem()
            if accumulator.rows:
                found[name] = accumulator.finish(centred=name not in uncentred)
        return found


def call_weight(outputs: np.ndarray) -> float:
    """Returns what a row counts in a call with such outputs, [n, O]."""
    energy = float(np.square(outputs, dtype=np.float64).mean()) if outputs.size else 0.0
    return 1 / energy if energy > 0 else 1.0


def _too_large(sites: Sequence[Site], memory: int) -> list[str]:
    """Returns the sites that go without an input moment, so that most others have one."""
    used, large = 0, []
    for site in sorted(sites, key=lambda site: site.kernel[..., 0].size):
        need = 4 * site.kernel[..., 0].size ** 2
        if used + need > memory:
            large.append(site.name)
        else:
            used += need
    return large
