"""One cell of the compression table: a model, a method, a share of the MACs, measured."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.compression_latencies import measure_latencies
from experiments.compression_methods import FEWEST_TO_TRAIN, LARGE, MAIN, METHODS, Settings
from experiments.compression_subjects import Subject
from experiments.compression_training import TRAININGS, train
from experiments.settings_file import keep_to_settings
from tfapprox.compression.calibrating import Calibration, calibrate, saved_model_target
from tfapprox.compression.steps import Clock, decide
from tfapprox.compression.timing import time_original
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.planning import cost_after, make_plan, metric_for, offer_tables
from tfapprox.progress import no_progress
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.selection.problem import Budget, CandidateTable
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.signature import read_signatures

_BATCH = 64
_TAGS = ("serve",)
_EXTENSIBLE = ("keeps", "methods", "refined", "distilled")  # more cells, not others


class Laboratory:
    """Compresses one subject by one method after the other; keeps what they share."""

    def __init__(self, subject: Subject, settings: Settings, folder: pathlib.Path):
        self._subject, self._settings, self._folder = subject, settings, folder
        self._spectra: dict[str, SpectrumCache] = {}
        self._calibrations: dict[bool, Calibration] = {}
        self._tables: dict[tuple, list[CandidateTable]] = {}
        self._opened: Any = None
        self._reference: Mapping[str, np.ndarray] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        shared = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _EXTENSIBLE}
        keep_to_settings(folder / "settings.json", shared, "name another --work_dir")

    def cell(self, method: str, keep: float) -> dict[str, Any]:
        """Returns the record of one cell; from its file, if it was measured before."""
        file = self._folder / f"{_slug(method)}-{keep:g}.json"
        if not file.exists():
            try:
                record = self._measure(method, keep)
            except UserError as error:
                record = {"failure": str(error)}
            _write(file, {"model": self._subject.name, "method": method, "keep": keep, **record})
        record = json.loads(file.read_text())
        for kind in self._trainings(method):
            if not {"failure", kind} & record.keys():
                record[kind] = train(
                    kind, self.path(method, keep), self._subject, self._settings,
                    self._folder / "work", self.judge,
                )  # fmt: skip
                _write(file, record)
        return record

    @property
    def is_large(self) -> bool:
        """Whether the model is measured by the main methods alone."""
        return self._open().inspection.macs > LARGE

    def methods(self, timing: bool) -> list[str]:
        """Returns the methods that this model is compressed by.

        Args:
          timing: with those that time their candidates.
        """
        params = self._open().inspection.params
        chosen = {name: METHODS[name] for name in self._settings.methods}
        return [
            name
            for name, method in chosen.items()
            if params <= method.most_params
            and (name in MAIN or not self.is_large)
            and (timing or not method.is_timed)
        ]

    def _trainings(self, method: str) -> list[str]:
        if self._subject.calibrating < FEWEST_TO_TRAIN:
            return []
        return [kind for kind in TRAININGS if method in getattr(self._settings, kind)]

    def measured(self) -> list[dict[str, Any]]:
        """Returns the records of the cells that are there, in the order of the settings."""
        files = [
            self._folder / f"{_slug(method)}-{keep:g}.json"
            for keep in self._settings.keeps
            for method in self._settings.methods
        ]
        return [json.loads(file.read_text()) for file in files if file.exists()]

    def path(self, method: str, keep: float) -> pathlib.Path:
        """Returns where the compressed model is."""
        return self._folder / f"{_slug(method)}-{keep:g}"

    def _measure(self, method: str, keep: float) -> dict[str, Any]:
        opened = self._open()
        chosen = METHODS[method]
        config = chosen.config(keep, self._settings)
        inspection, calibration = opened.inspection, None
        spectra = self._spectra.setdefault(chosen.calibration, SpectrumCache())
        if chosen.calibration != "none":
            calibration = self._calibration(config)
            inspection = calibration.weighted(inspection)
        timed = None
        if config.measures_latency:
            subject, sites = self._subject, inspection.sites
            timed = time_original(
                subject.path, subject.held_back, _TAGS, subject.signature, config, None, sites,
                no_progress,
            )  # fmt: skip
        tables = self._tables_for(inspection, config, spectra)
        plan = make_plan(inspection, config, spectra, no_progress, timed, None, tables)
        plan, built, _ = decide(
            inspection, config, plan, Clock(), no_progress, spectra=spectra, calibration=calibration
        )
        target = self.path(method, keep)
        shutil.rmtree(target, ignore_errors=True)
        write_saved_model(opened, built, target)
        after, before = cost_after(opened.inspection, plan), opened.inspection.cost
        return {
            "params": after.params / before.params,
            "macs": after.macs / before.macs,
            "bytes": _bytes(target) / _bytes(self._subject.path),
            "replaced": len(built),
            "sites": len(opened.inspection.sites),
            "objective": plan.settings["objective"],
            **self.judge(target),
        }

    def _tables_for(
        self, inspection: Inspection, config: CompressionConfig, spectra: SpectrumCache
    ) -> list[CandidateTable]:
        """Returns the candidates of all sites, which methods that differ in the choice share."""
        key = (config.decompositions, metric_for(config, inspection.sites), config.calibrates)
        if key not in self._tables:
            self._tables[key] = offer_tables(inspection, config, spectra)
        return self._tables[key]

    def judge(self, path: pathlib.Path) -> dict[str, float]:
        """Returns the relative error of the outputs on held-back inputs, and the accuracy.

        Without labels, the accuracy is how often the largest output is the original's; a
        model of several outputs has none.
        """
        if self._reference is None:
            self._reference = self._run(self._subject.path)
        outputs = self._run(path)
        found = {"error": max(_error(outputs[k], v) for k, v in self._reference.items())}
        if len(outputs) == 1:
            ((key, scores),) = outputs.items()
            labels = self._subject.labels
            if labels is None:
                labels = self._reference[key].argmax(-1)
            found["accuracy"] = float(np.mean(scores.argmax(-1) == labels))
        return found

    def _run(self, path: pathlib.Path) -> dict[str, np.ndarray]:
        inputs, batches = self._subject.held_back, []
        with CcSession(str(path)) as session:
            for start in range(0, len(next(iter(inputs.values()))), _BATCH):
                batch = {k: v[start : start + _BATCH] for k, v in inputs.items()}
                batches.append(session.run(batch, self._subject.signature))
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}

    def objectives(self, keep: float, measure: bool = True) -> dict[str, float]:
        """Returns what the exact and the alternating search of ALDS come to, over all schemes
        and numbers of slices; nothing where that is not known and `measure` is not set, nor
        for a large model."""
        file = self._folder / f"objectives-{keep:g}.json"
        if not file.exists() and (not measure or self.is_large):
            return {"keep": keep}
        if not file.exists():
            options = CandidateOptions(slices=(1, 2, 4), rank_multiple=self._settings.rank_multiple)
            spectra = self._spectra.setdefault("none", SpectrumCache())
            record: dict[str, Any] = {"model": self._subject.name, "keep": keep}
            inspection, tables = self._open().inspection, None
            for name in ("alds", "alds_alternating"):
                config = CompressionConfig(
                    Budget("macs", keep=keep), name, candidates=options, seed=self._settings.seed
                )
                try:
                    tables = tables or offer_tables(inspection, config, spectra)
                    plan = make_plan(inspection, config, spectra, tables=tables)
                    record[name] = plan.settings["objective"]
                except UserError as error:
                    record["failure"] = str(error)
            _write(file, record)
        return json.loads(file.read_text())

    def latencies(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns milliseconds of a call of every compressed model and of the original.

        Without records, those that were measured before.
        """
        paths = {"original": self._subject.path} if records else {}
        paths |= {
            f"{r['method']}-{r['keep']:g}": self.path(r["method"], r["keep"])
            for r in records
            if "failure" not in r
        }
        file = self._folder / "latencies.json"
        return measure_latencies(self._subject, paths, self._settings.batch_sizes, file)

    def _open(self) -> Any:
        if self._opened is None:
            shapes = {key: value.shape for key, value in self._subject.calibration.items()}
            self._opened = open_saved_model(
                str(self._subject.path), _TAGS, self._subject.signature, shapes
            )
        return self._opened

    def _calibration(self, config: CompressionConfig) -> Calibration:
        """Returns the moments of all sites, which one pass collects for all methods."""
        key = config.needs_sensitivities
        if key not in self._calibrations:
            opened = self._open()
            signature = read_signatures(str(self._subject.path))[self._subject.signature]
            data = open_calibration_data(self._subject.calibration, signature)
            target = saved_model_target(opened, data, _TAGS)
            self._calibrations[key] = calibrate(opened.inspection, config, target, no_progress)
        return self._calibrations[key]


def _error(y: np.ndarray, t: np.ndarray) -> float:
    return float(np.linalg.norm(y.astype(np.float64) - t) / (np.linalg.norm(t) or 1.0))


def _bytes(model: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in model.rglob("*") if file.is_file())


def _slug(method: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in method.replace("+", "_plus"))


def _write(file: pathlib.Path, body: Any) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(body, indent=1) + "\n")
    partial.replace(file)
