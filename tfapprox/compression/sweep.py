"""Compresses one SavedModel to several budgets and compares what came of them."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfapprox.compression.resuming import difference, origins
from tfapprox.compression.saved_model import ModelPath, compress_saved_model, open_data
from tfapprox.config import CompressionConfig, check_config
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError, VerificationError
from tfapprox.progress import Progress, no_progress
from tfapprox.report.report import Report
from tfapprox.report.sweep import Sweep, SweepPoint, ratio_name
from tfapprox.rewriters.plan import EXTRA
from tfapprox.rewriters.publish import check_target
from tfapprox.selection.problem import Budget

Compress = Callable[[Path, CompressionConfig, Progress], Report]


def sweep_saved_model(
    source: ModelPath,
    destination: ModelPath | None,
    config: CompressionConfig,
    ratios: Sequence[float],
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    **options: Any,
) -> Sweep:
    """Returns what each ratio of the budget costs, all measured alike.

    Every ratio is compressed by itself and put in place whole as `destination`/keep_RATIO; singular
    values are computed once. Called again after an interruption, it takes up the ratios
    that are there. A ratio that can't be had is recorded with the reason, and the others
    go on.

    Args:
      source: SavedModel directory.
      destination: directory to write to; None measures every ratio and keeps no model.
      config: as of `compress_saved_model`; its budget says what is kept a share of.
      ratios: shares to keep, each in (0, 1].
      overwrite: compress anew what is there already.
      progress: told of every step.
      **options: as of `compress_saved_model`, but plan and spectra.

    Raises:
      UserError: no ratio, a ratio out of range, a source that can't be read, something
        else at a ratio's place, or no ratio that worked.
    """
    check_config(config)
    source, kind = Path(source), config.budget.kind
    wanted = _check(ratios)
    spectra = SpectrumCache()
    tags, signature = options.get("tags", ("serve",)), options.get("signature")
    data = open_data(options.get("calibration_data"), source, tags, signature)
    options["calibration_data"] = data
    origin = None

    def compress(target: Path, config: CompressionConfig, progress: Progress) -> Report:
        return compress_saved_model(
            source, target, config,
            overwrite=overwrite, spectra=spectra, progress=progress, **options,
        )  # fmt: skip

    points = []
    for ratio in wanted:
        one = dataclasses.replace(config, budget=Budget(kind, keep=ratio))
        told = _prefixed(progress, ratio_name(ratio))
        if destination is None:
            points.append(_measured_only(ratio, one, compress, told))
            continue
        target = Path(destination, ratio_name(ratio))
        check_target(target, source, overwrite=True)
        known = None
        if target.exists() and not overwrite:
            trained = (options.get(key) for key in ("refinement", "distillation"))
            origin = origin or origins(config, data, *trained)
            known = _finished(target, source, one, origin)
        if known is not None:
            points.append(SweepPoint(ratio, known, resumed=True))
        else:
            points.append(_attempt(ratio, target, one, compress, told))
    if all(point.report is None for point in points):
        first = points[0]
        raise UserError(f"no ratio worked; {ratio_name(first.ratio)}: {first.failure}")
    where = None if destination is None else str(destination)
    return Sweep(str(source), where, kind, tuple(points))


def _check(ratios: Sequence[float]) -> list[float]:
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise UserError(f"--sweep takes shares to keep, in (0, 1], got {ratio:g}")
    if not ratios:
        raise UserError("--sweep needs at least one ratio, e.g. 0.3,0.5")
    return sorted(set(ratios))


def _prefixed(progress: Progress, name: str) -> Progress:
    return lambda phase, done, total: progress(f"{name}: {phase}", done, total)


def _attempt(
    ratio: float, target: Path, config: CompressionConfig, compress: Compress, progress: Progress
) -> SweepPoint:
    try:
        return SweepPoint(ratio, compress(target, config, progress))
    except VerificationError as error:
        return SweepPoint(ratio, None, str(error), wrong=True)
    except UserError as error:
        return SweepPoint(ratio, None, str(error))


def _measured_only(
    ratio: float, config: CompressionConfig, compress: Compress, progress: Progress
) -> SweepPoint:
    with tempfile.TemporaryDirectory(prefix="tfapprox-sweep-") as folder:
        point = _attempt(ratio, Path(folder, ratio_name(ratio)), config, compress, progress)
    if point.report is None:
        return point
    report = dataclasses.replace(point.report, destination=f"{ratio_name(ratio)}, not kept")
    return dataclasses.replace(point, report=report)


def _finished(
    target: Path, source: Path, config: CompressionConfig, origin: Mapping[str, Any]
) -> Report:
    """Returns the report of a ratio that an earlier run finished.

    Raises:
      UserError: something else is there, or it was made otherwise, or of another source or
        other calibration data.
    """
    file = target / EXTRA / "report.json"
    if not file.is_file():
        raise UserError(f"{target} exists and holds no result of a sweep; choose another directory")
    try:
        report = Report.from_json(json.loads(file.read_text()), str(file))
    except ValueError as error:
        raise UserError(f"{file} can't be read, use --overwrite: {error}") from error
    changed = difference(report.plan.settings, config, origin)
    if Path(report.source).resolve() != source.resolve():
        changed = "source"
    if changed:
        raise UserError(
            f"{target} was made with another {changed}: pass --overwrite, or choose another "
            "directory"
        )
    if max(f.stat().st_mtime for f in source.rglob("*")) > file.stat().st_mtime:
        raise UserError(f"{source} is newer than {target}: pass --overwrite to compress it anew")
    return report
