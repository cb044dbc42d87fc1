"""One cell of the compression table: a model, a method, a share of the MACs, measured."""

import dataclasses
import gc
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.fashion_networks import INPUT, examples, trained
from tfapprox import registry
from tfapprox.compression.calibrating import calibrate, saved_model_target
from tfapprox.compression.steps import Clock, decide
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.planning import cost_after, make_plan, no_progress
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.selection.problem import Budget
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import Inputs, read_inputs
from tfapprox.serving.latency import TimingOptions, time_interleaved
from tfapprox.serving.signature import default_signature, read_signatures
from tfapprox.training.distill_saved_model import distill_saved_model
from tfapprox.training.distillation_config import DistillationConfig

_BATCH = 64
_HELD_BACK = 0.3  # of the inputs that come with a model of the user's own


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      selector, decompositions: see `CompressionConfig`; no decompositions means all.
      calibration: what the sites are fitted to, see `CompressionConfig`.
    """

    selector: str
    decompositions: tuple[str, ...] = ("svd",)
    calibration: str = "none"

    def config(self, keep: float, settings: "Settings") -> CompressionConfig:
        return CompressionConfig(
            Budget("macs", keep=keep),
            self.selector,
            self.decompositions or tuple(registry.DECOMPOSITIONS),
            candidates=CandidateOptions(rank_multiple=settings.rank_multiple),
            seed=settings.seed,
            batch_size=max(settings.batch_sizes),
            calibration=self.calibration,
        )


METHODS = {
    "uniform svd": Method("uniform"),
    "energy": Method("energy"),
    "lrank": Method("lrank"),
    "pca": Method("pca"),
    "evbmf, tucker2": Method("evbmf", ("tucker2", "svd")),
    "alds": Method("alds"),
    "alds+": Method("alds", ()),
    "uniform svd, calibrated": Method("uniform", ("svd",), "symmetric"),
    "alds, calibrated": Method("alds", ("svd",), "symmetric"),
    "alds, anchored": Method("alds", ("svd",), "anchored"),
    "lrank, calibrated": Method("lrank", ("svd",), "symmetric"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
      keeps: shares of the MACs.
      methods: names in `METHODS`.
      distilled: those that are distilled too; distill_steps, learning_rate: how.
      calibration, held_back: examples of each for networks that are trained here.
      rank_multiple: see `CandidateOptions`.
      batch_sizes: to measure latency at.
      seed: of everything random.
    """

    keeps: tuple[float, ...] = (0.2, 0.33, 0.5)
    methods: tuple[str, ...] = tuple(METHODS)
    distilled: tuple[str, ...] = ("uniform svd", "alds, calibrated")
    distill_steps: int = 150
    learning_rate: float = 3e-3
    calibration: int = 256
    held_back: int = 1000
    rank_multiple: int = 1
    batch_sizes: tuple[int, ...] = (1, 8)
    seed: int = 0

    def __post_init__(self):
        unknown = [name for name in (*self.methods, *self.distilled) if name not in METHODS]
        if unknown:
            raise UserError(f"unknown method {unknown[0]!r}; choose among {', '.join(METHODS)}")


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model to compress.

    Attributes:
      name: of the model.
      path: SavedModel directory.
      signature: to run.
      calibration, held_back: inputs.
      labels: classes of those held back, where they are known.
    """

    name: str
    path: pathlib.Path
    signature: str
    calibration: Inputs
    held_back: Inputs
    labels: np.ndarray | None = None


def network_subject(
    name: str, work_dir: pathlib.Path, dataset: str, data_dir: str, settings: Settings
) -> Subject:
    """Returns a network of `fashion_networks`, trained unless it is there already."""
    path = trained(name, work_dir / "networks" / name, dataset, data_dir, seed=settings.seed)
    found = examples(name, dataset, data_dir, settings.calibration, settings.held_back)
    inputs = {INPUT: found.calibration}, {INPUT: found.held_back}
    return Subject(name, path, "serving_default", *inputs, found.labels)


def own_subject(folder: pathlib.Path) -> Subject:
    """Returns a model of the user's own: folder/model and folder/inputs.npz.

    The last third of the inputs is held back.

    Raises:
      UserError: they are not there, or do not fit each other.
    """
    signatures = read_signatures(str(folder / "model"))
    name = default_signature(signatures)
    inputs = read_inputs(str(folder / "inputs.npz"), signatures[name])
    count = len(next(iter(inputs.values())))
    cut = max(1, count - max(1, round(_HELD_BACK * count)))
    calibration = {key: value[:cut] for key, value in inputs.items()}
    held_back = {key: value[cut:] for key, value in inputs.items()}
    return Subject(folder.name, folder / "model", name, calibration, held_back)


class Laboratory:
    """Compresses one subject by one method after the other; keeps what they share."""

    def __init__(self, subject: Subject, settings: Settings, folder: pathlib.Path):
        self._subject, self._settings, self._folder = subject, settings, folder
        self._spectra: dict[str, SpectrumCache] = {}
        self._calibrations: dict[str, Any] = {}
        self._opened: Any = None
        self._reference: Mapping[str, np.ndarray] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        _check_settings(folder / "settings.json", settings)

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
        if method in self._settings.distilled and not {"failure", "distilled"} & record.keys():
            record["distilled"] = self._distil(self.path(method, keep))
            _write(file, record)
        return record

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
        clock, start = Clock(), time.process_time()
        plan, built, _ = decide(
            inspection, config, None, clock, no_progress, None, None, spectra, calibration
        )
        seconds = time.process_time() - start
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
            "planning_cpu_seconds": seconds,
            **self.judge(target),
        }

    def _distil(self, path: pathlib.Path) -> dict[str, Any]:
        """Returns error and accuracy of a copy whose factors were trained."""
        tuned = path.with_name(path.name + "-distilled")
        shutil.rmtree(tuned, ignore_errors=True)
        shutil.copytree(path, tuned)
        signature = read_signatures(str(path))[self._subject.signature]
        count = len(next(iter(self._subject.calibration.values())))
        batch = min(32, max(1, count // 6))
        config = DistillationConfig(
            self._settings.distill_steps, self._settings.learning_rate, batch, self._settings.seed
        )
        start = time.process_time()
        try:
            told = distill_saved_model(
                tuned,
                self._subject.path,
                open_calibration_data(self._subject.calibration, signature, batch),
                config,
                signature=self._subject.signature,
                work_dir=self._folder / "work",
            )
        except UserError as error:
            return {"failure": str(error)}
        finally:
            gc.collect()
        seconds = time.process_time() - start
        return {"cpu_seconds": seconds, "best_step": told.best_step, **self.judge(tuned)}

    def judge(self, path: pathlib.Path) -> dict[str, float]:
        """Returns the relative error of the outputs on held-back inputs, and the accuracy."""
        if self._reference is None:
            self._reference = self._run(self._subject.path)
        outputs = self._run(path)
        found = {"error": max(_error(outputs[k], v) for k, v in self._reference.items())}
        if self._subject.labels is not None:
            (scores,) = outputs.values()
            found["accuracy"] = float(np.mean(scores.argmax(1) == self._subject.labels))
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
        and numbers of slices; nothing where that is not known and `measure` is not set."""
        file = self._folder / f"objectives-{keep:g}.json"
        if not file.exists() and not measure:
            return {"keep": keep}
        if not file.exists():
            options = CandidateOptions(slices=(1, 2, 4), rank_multiple=self._settings.rank_multiple)
            spectra = self._spectra.setdefault("none", SpectrumCache())
            record: dict[str, Any] = {"model": self._subject.name, "keep": keep}
            for name in ("alds", "alds_alternating"):
                config = CompressionConfig(
                    Budget("macs", keep=keep), name, candidates=options, seed=self._settings.seed
                )
                try:
                    plan = make_plan(self._open().inspection, config, spectra)
                    record[name] = plan.settings["objective"]
                except UserError as error:
                    record["failure"] = str(error)
            _write(file, record)
        return json.loads(file.read_text())

    def latencies(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns milliseconds of a call of every compressed model and of the original.

        All are called in turns, through the C++ loader, so that whatever else the machine
        does meets them alike. Without records, those that were measured before.
        """
        paths = {"original": self._subject.path}
        paths |= {
            f"{r['method']}-{r['keep']:g}": self.path(r["method"], r["keep"])
            for r in records
            if "failure" not in r
        }
        file = self._folder / "latencies.json"
        if not records:
            return json.loads(file.read_text()) if file.exists() else {}
        if file.exists() and json.loads(file.read_text()).keys() >= paths.keys():
            return json.loads(file.read_text())
        sessions = {name: CcSession(str(path)) for name, path in paths.items()}
        found: dict[str, dict[str, float]] = {name: {} for name in paths}
        for size in self._settings.batch_sizes:
            rows = {k: v[np.arange(size) % len(v)] for k, v in self._subject.held_back.items()}
            calls = [_call(session, rows, self._subject.signature) for session in sessions.values()]
            seconds = time_interleaved(calls, TimingOptions(2, 15, 4.0, 200))
            for name, median in zip(paths, np.median(seconds, 0), strict=True):
                found[name][str(size)] = 1e3 * float(median)
        for session in sessions.values():
            session.close()
        _write(file, found)
        return found

    def _open(self) -> Any:
        if self._opened is None:
            shapes = {key: value.shape for key, value in self._subject.calibration.items()}
            self._opened = open_saved_model(
                str(self._subject.path), ("serve",), self._subject.signature, shapes
            )
        return self._opened

    def _calibration(self, config: CompressionConfig) -> Any:
        """Returns the moments of all sites, which one pass collects for all methods."""
        if "moments" not in self._calibrations:
            opened = self._open()
            signature = read_signatures(str(self._subject.path))[self._subject.signature]
            data = open_calibration_data(self._subject.calibration, signature)
            target = saved_model_target(opened, data, ("serve",))
            self._calibrations["moments"] = calibrate(
                opened.inspection, config, target, no_progress
            )
        return self._calibrations["moments"]


def _check_settings(file: pathlib.Path, settings: Settings) -> None:
    """Refuses a folder whose cells were measured otherwise; more cells are welcome."""
    extensible = ("keeps", "methods", "distilled")
    wanted = {k: v for k, v in dataclasses.asdict(settings).items() if k not in extensible}
    wanted = json.loads(json.dumps(wanted))
    if not file.exists():
        _write(file, wanted)
    found = json.loads(file.read_text())
    changed = [name for name, value in wanted.items() if found.get(name) != value]
    if changed:
        raise UserError(
            f"{file.parent} has cells with {changed[0]} {found.get(changed[0])!r}, not "
            f"{wanted[changed[0]]!r}: name another --work_dir"
        )


def _call(session: CcSession, inputs: Inputs, signature: str) -> Callable[[], object]:
    return lambda: session.run(inputs, signature)


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
