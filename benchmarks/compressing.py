"""Prepares networks for `benchmarks.inference`, step by step, so that a stopped run goes on.

Candidates are timed, and their tables made, once a network: all ways to compress it share
both. Only timing needs a machine that does nothing else, so it is a step of its own.
"""

import dataclasses
import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks.command import say
from benchmarks.networks import Sizes, export_network
from benchmarks.scoring import OutputScore
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.compression.timing import time_original
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import Spectrum, SpectrumCache
from tfapprox.decompositions.unfolding import matrix_shape
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.fitting import factorize
from tfapprox.planning import cost_after, make_plan, offer_tables
from tfapprox.registry import SELECTOR_METRIC, SELECTORS
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.saved_model import SavedModelSource, open_saved_model, write_saved_model
from tfapprox.selection.greedy import ScoreCache
from tfapprox.selection.problem import Budget, CandidateTable, Configuration
from tfapprox.serving.model_latency import TimedModel
from tfapprox.serving.site_latency import SiteTimingOptions, measure_sites

_ABOUT_THREE = CandidateOptions((0,), (2, 3))  # slices, of which 3 divides few channels
_PLAIN = CandidateOptions((0,))
_OFFERED = {"alds_error": _ABOUT_THREE, "alds_simple": _ABOUT_THREE, "svd_error": _PLAIN}

WAYS: dict[str, dict] = {
    **{name: {"selector": name, "kind": "macs"} for name in SELECTORS if name != "latency"},
    "alds, timed": {"selector": "alds", "kind": "macs", "faster": True},
    "latency, of MACs": {"selector": "latency", "kind": "macs"},
    "latency": {"selector": "latency", "kind": "latency"},
}
_FLOORS = (384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 8)  # EVBMF finds but noise in noise
STEPS = ("time", "tables", "plan", "write")
_MEMORY = 2**32  # of the singular vectors that all results of a network share


def looks_at_the_clock(way: str) -> bool:
    """Says whether a way of WAYS takes only candidates that were measured to be faster."""
    return WAYS[way]["selector"] == "latency" or "faster" in WAYS[way]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What candidates are timed at: examples in a call, and TensorFlow's threads."""

    batch: int = 8
    threads: int = 2


class Workplace:
    """A network, its tables, plans and compressed models in a folder of their own.

    Args:
      folder: of all networks.
      name: of the network.
      sizes: of its inputs.
      setting: that the timed ways plan for.
    """

    def __init__(self, folder: Path, name: str, sizes: Sizes, setting: Setting):
        self.folder = folder / f"{name}-{sizes.image}-{sizes.length}-{sizes.width}"
        self.source = self.folder / "original"
        self._name, self._sizes, self._setting = name, sizes, setting
        self._opened: SavedModelSource | None = None
        self._spectra = _Whole(_MEMORY)

    def model(self, way: str, keep: float) -> Path:
        """Returns where the compressed model is or will be."""
        name = f"{way}-{100 * keep:g}".replace(", ", "-").replace(" ", "-")
        timed = self.config(way, keep).measures_latency
        return self.folder / (name + f"-{self._setting.batch}-{self._setting.threads}" * timed)

    def config(self, way: str, keep: float) -> CompressionConfig:
        """Returns the settings of a way."""
        settings = dict(WAYS[way])
        budget = Budget(settings.pop("kind"), keep=keep)
        candidates = _OFFERED.get(settings["selector"], CandidateOptions())
        batch = self._setting.batch
        return CompressionConfig(budget, candidates=candidates, batch_size=batch, **settings)

    def prepare(self, step: str, ways: list[str], keeps: list[float]) -> None:
        """Does one of `STEPS`, unless it was done before."""
        export_network(self._name, self._sizes, self.source)
        does: dict[str, Callable[[str, float], object]] = {
            "time": lambda way, keep: self._times(self.config(way, keep)),
            "tables": lambda way, keep: self._tables(self.config(way, keep)),
            "plan": self._plan,
            "write": self._write,
        }
        for way in ways:
            for keep in keeps:
                does[step](way, keep)

    def facts(self, way: str, keep: float) -> dict:
        """Returns the speed-up in MACs and the sites replaced, or why not, or nothing."""
        place = self.model(way, keep).with_suffix(".json")
        return json.loads(place.read_text()) if place.exists() else {}

    @property
    def opened(self) -> SavedModelSource:
        if self._opened is None:
            self._opened = open_saved_model(str(self.source))
        return self._opened

    def _tables(self, config: CompressionConfig) -> list[CandidateTable]:
        name = SELECTOR_METRIC[config.selector]
        if config.candidates != CandidateOptions():
            name += f"-{config.candidates.schemes}-{config.candidates.slices}".replace(" ", "")
        place = self.folder / f"tables-{name}.pickle"
        if not place.exists():
            say(f"{self._name}: candidates, {name}")
            tables = offer_tables(self.opened.inspection, config, self._spectra)
            place.with_suffix(".unfinished").write_bytes(pickle.dumps(tables))
            place.with_suffix(".unfinished").rename(place)
        return pickle.loads(place.read_bytes())

    def _timed(self, config: CompressionConfig) -> TimedModel:
        batch, threads = self._setting.batch, self._setting.threads
        place = self.folder / f"timed-{batch}-{threads}.json"
        if not place.exists():
            say(f"{self._name}: timing the original, batch {batch}, {threads} threads")
            sites = self.opened.inspection.sites
            timed = time_original(
                self.source, None, ("serve",), None, config, threads, sites, lambda *_: None
            )
            place.write_text(json.dumps([timed.nanoseconds, timed.dense]))
        nanoseconds, dense = json.loads(place.read_text())
        return TimedModel(nanoseconds, dense, SiteTimingOptions(batch, threads))

    def _times(self, config: CompressionConfig) -> None:
        """Fills the user's cache of candidates' times, which the plans are made from."""
        if not config.measures_latency:
            return
        timed, inspection, shapes = self._timed(config), self.opened.inspection, _Shapes()
        frobenius = dataclasses.replace(config, metric="frobenius")
        tables = offer_tables(inspection, frobenius, shapes)

        def build(site: Site, choice: Configuration) -> Factorization:
            return factorize(site, choice, shapes)

        measure_sites(inspection.sites, tables, build, timed.dense, timed.options, _told)

    def _plan(self, way: str, keep: float) -> Plan | None:
        place = self.model(way, keep).with_suffix(".plan")
        if place.exists():
            return Plan.from_json(place.read_text())
        config = self.config(way, keep)
        tables = self._tables(config)
        timed = self._timed(config) if config.measures_latency else None
        say(f"{self._name}: planning {way}, keep {keep:g}")
        try:
            plan = self._feasible_plan(config, tables, timed)
        except UserError as error:
            place.with_suffix(".json").write_text(json.dumps({"note": str(error)}))
            return None
        place.write_text(plan.to_json())
        return plan

    def _feasible_plan(
        self, config: CompressionConfig, tables: list[CandidateTable], timed: TimedModel | None
    ) -> Plan:
        inspection = self.opened.inspection
        score = None
        if config.selector == "greedy":
            sites = inspection.sites
            outputs = OutputScore(self.source, sites, self._spectra)
            score = ScoreCache(outputs, sites, self.folder / "scores.json")
        floors = _FLOORS if config.selector == "evbmf" else (0,)
        for floor in floors:
            tried = dataclasses.replace(config, evbmf_floor=floor)
            try:
                return make_plan(inspection, tried, _Shapes(), _told, timed, score, tables)
            except InfeasibleBudgetError:
                if floor == floors[-1]:
                    raise
        raise AssertionError("floors are never empty")

    def _write(self, way: str, keep: float) -> None:
        target = self.model(way, keep)
        if target.exists():
            return
        plan = self._plan(way, keep)
        if plan is None:
            return
        say(f"{self._name}: writing {way}, keep {keep:g}")
        inspection = self.opened.inspection
        plan, factorizations = factorize_plan(inspection, plan, self._spectra)
        facts = {
            "MAC speed-up": inspection.macs / cost_after(inspection, plan).macs,
            "sites": f"{len(plan.choices)} of {len(plan.verdicts)}",
        }
        target.with_suffix(".json").write_text(json.dumps(facts))
        if factorizations:
            unfinished = target.with_name(target.name + ".unfinished")
            write_saved_model(self.opened, factorizations, str(unfinished))
            unfinished.rename(target)


class _Whole(SpectrumCache):
    """Keeps all singular vectors: tables of another norm and all results ask for them again."""

    def trim(self, site: Site, configurations: Iterable[Configuration]) -> None:
        pass


class _Shapes(SpectrumCache):
    """Stands in for spectra where only the shapes of factors matter: decomposes nothing."""

    def spectrum(
        self, site: Site, scheme: int = 0, slices: int = 1, rank: int | None = None
    ) -> Spectrum:
        full = min(matrix_shape(site.kernel.shape, scheme, slices))
        basis = np.broadcast_to(np.float32(0), (slices, full, rank or full))
        kernel = np.broadcast_to(np.float32(0), site.kernel.shape)
        return Spectrum(
            kernel, scheme, slices, np.tile(np.linspace(2, 1, full), (slices, 1)), basis
        )


def _told(phase: str, done: int, total: int) -> None:
    say(f"  {phase} {done}/{total}")
