"""Runs calibration data through a model and fits its sites to them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.calibration.anchoring import AnchoredFits
from tfapprox.calibration.collecting import MomentCollector
from tfapprox.calibration.moments import Moments
from tfapprox.calibration.rectifying import Rectifier
from tfapprox.calibration.weights import CovarianceWeight, DiagonalWeight, Weight
from tfapprox.compression.sensitivity import EXAMPLES, SensitivityTrial
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.fitting import factorize
from tfapprox.progress import Progress
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.calibration_data import CalibrationData

_ANCHOR_BYTES = 2**30  # of activations, as far as the sites show, in the one anchoring batch
_MOST_ANCHORS = 2048


class Probe(Protocol):
    """A model that runs under observation."""

    def run(self, batch: Any) -> Sequence[np.ndarray]:
        """Returns the model's outputs, in an order of its own."""
        ...


class _Switch:
    """A watching function that can be exchanged between runs."""

    def __init__(self, watch: Callable):
        self.watch = watch

    def __call__(self, *call: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.watch(*call)


OpenProbe = Callable[[Iterable[str], Any], AbstractContextManager[Probe]]
"""Returns a probe for some sites and a function that watches them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A model to calibrate, in whatever form.

    Attributes:
      open_probe: see `OpenProbe`.
      batches: calibration data, each time from the start.
      head: returns the first so many examples as one batch.
      gradients: returns the squared gradients of some sites on some batches.
      rectifiers: returns the ReLUs that sites run into, by site.
      unwatched: site -> why it can't be observed.
      unbiased: site -> why its bias can't be corrected.
    """

    open_probe: OpenProbe
    batches: Iterable[Any]
    head: Callable[[int], Any]
    gradients: Callable[[Sequence[Site], Iterable[Any]], dict[str, np.ndarray]]
    rectifiers: Callable[[], Mapping[str, Rectifier]]
    unwatched: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unbiased: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What the data say of the sites.

    Attributes:
      target: the model that was run.
      moments: of every site that was executed.
      sensitivities: what an error of a site's output does to the model's; see
        `SensitivityTrial`.
      squares: squared gradients of kernels, for the metric mahalanobis.
      notes: on sites that were not, or not wholly.
    """

    target: Target
    moments: Mapping[str, Moments]
    sensitivities: Mapping[str, float]
    notes: tuple[str, ...]
    squares: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def weighted(self, inspection: Inspection) -> Inspection:
        """Returns the inspection with sites that are fitted to the data."""
        sites = [dataclasses.replace(site, weight=self._weight(site)) for site in inspection.sites]
        return dataclasses.replace(inspection, sites=tuple(sites))

    def _weight(self, site: Site) -> Weight | None:
        if site.name in self.squares:
            return DiagonalWeight(self.squares[site.name].reshape(site.kernel.shape))
        if site.name not in self.moments:
            return None
        sensitivity = self.sensitivities.get(site.name, 1.0)
        return CovarianceWeight(self.moments[site.name], sensitivity)


def calibrate(
    inspection: Inspection, config: CompressionConfig, target: Target, progress: Progress
) -> Calibration:
    """Runs all batches through the original and returns the moments of its sites.

    Raises:
      UserError: no site that takes part can be observed, none is executed, or data are
        not finite.
    """
    admitted = [s for s in inspection.sites if config.admits(s.name)]
    watched = [site for site in admitted if site.name not in target.unwatched]
    collector = MomentCollector(watched, seed=config.seed)
    uncentred = set(target.unbiased) if config.correct_bias else {s.name for s in watched}
    switch = _Switch(collector.watch)
    with target.open_probe([site.name for site in watched], switch) as probe:
        for done, batch in enumerate(target.batches):
            progress("calibrating", done, 0)
            collector.start_run()
            probe.run(batch)
        moments = collector.moments(uncentred)
        _require_finite(moments)
        sensitivities = {}
        if config.needs_sensitivities:
            trial = SensitivityTrial(watched, moments)
            switch.watch, few = trial.watch, target.head(EXAMPLES)
            sensitivities = trial.measure(
                lambda: probe.run(few),
                lambda done: progress("sensitivities", done, len(moments)),
            )
    if not moments:
        raise UserError(
            "no site was executed on the calibration data: another signature may be the one "
            "that uses the kernels (--signature_def), or go without --calibration_data"
        )
    notes = [
        f"{site.name}: not calibrated, {target.unwatched[site.name]}"
        for site in admitted
        if site.name in target.unwatched
    ]
    notes += [
        f"{site.name}: not calibrated, the calibration data never reach it"
        for site in watched
        if site.name not in moments
    ]
    notes += [
        f"{site.name}: {site.kernel[..., 0].size} inputs are beyond the memory bound of "
        "calibration; only the outputs were taken, so only svd scheme 0 is fitted to data"
        for site in watched
        if site.name in collector.outputs_only
    ]
    if config.correct_bias:
        notes += [
            f"{name}: bias not corrected, {reason}"
            for name, reason in target.unbiased.items()
            if name in moments
        ]
    squares = {}
    if config.metric == "mahalanobis":
        progress("gradients", 0, 0)
        executed = [site for site in watched if site.name in moments]
        squares = target.gradients(executed, _one_by_one(target.head(EXAMPLES)))
    return Calibration(target, moments, sensitivities, tuple(notes), squares)


def _require_finite(moments: Mapping[str, Moments]) -> None:
    for name, own in moments.items():
        moment = own.outputs if own.inputs is None else own.inputs
        if moment is not None and not np.isfinite(np.diag(moment)).all():
            raise UserError(
                f"{name}: its inputs are not finite on the calibration data; look for NaN and "
                "infinity in the data and in what the model makes of them"
            )


def _one_by_one(batch: Any) -> list[Any]:
    """Returns the examples of a batch, each as a batch of one."""
    import tensorflow as tf

    count = max(len(array) for array in tf.nest.flatten(batch) if np.ndim(array))

    def cut(array: Any, index: int) -> Any:
        return array[index : index + 1] if np.ndim(array) and len(array) == count else array

    return [tf.nest.map_structure(functools.partial(cut, index=i), batch) for i in range(count)]


def correct_biases(
    inspection: Inspection,
    factorizations: Mapping[str, Factorization],
    calibration: Calibration,
) -> dict[str, Factorization]:
    """Returns the factorizations with offsets that restore the mean output of every site."""
    kernels = {site.name: site.kernel for site in inspection.sites}
    corrected = {}
    for name, built in factorizations.items():
        moments = calibration.moments.get(name)
        if moments is not None and moments.center.any():
            lost = kernels[name].astype(np.float64) - built.reconstruct()
            offset = moments.center @ lost.reshape(len(moments.center), -1)
            built = dataclasses.replace(built, offset=offset.astype(kernels[name].dtype))
        corrected[name] = built
    return corrected


def anchor(
    inspection: Inspection,
    plan: Plan,
    factorizations: Mapping[str, Factorization],
    calibration: Calibration,
    config: CompressionConfig,
    progress: Progress,
) -> tuple[Plan, dict[str, Factorization]]:
    """Returns the factorizations fitted anew to what the sites before them give.

    One batch is run twice, whatever the number of sites; see `AnchoredFits`. The plan then
    has the errors that these fits made small.
    """
    sites = {site.name: site for site in inspection.sites if site.name in calibration.moments}
    anchored = [
        name
        for name in factorizations
        if name in sites and calibration.moments[name].inputs is not None
    ]
    done = 0

    def told(name: str) -> None:
        nonlocal done
        done += 1
        progress("anchoring", done, len(anchored))

    def fit(choice: Any, site: Site) -> Factorization:
        return factorize(site, choice, SpectrumCache())

    fits = {name: functools.partial(fit, plan.choices[name]) for name in anchored}
    progress("anchoring", 0, len(anchored))
    batch = calibration.target.head(_anchors(inspection))
    unbiased = set(calibration.target.unbiased) if config.correct_bias else set(sites)
    rectifiers = calibration.target.rectifiers() if config.calibration == "rectified" else {}
    run = AnchoredFits(sites, fits, unbiased, rectifiers, told, config.seed)
    switch = _Switch(run.record)
    with calibration.target.open_probe(sites, switch) as probe:
        probe.run(batch)
        run.turn()
        switch.watch = run.replay
        probe.run(batch)
    weigh = calibration.sensitivities if plan.settings.get("metric") == "output" else {}
    verdicts = tuple(
        dataclasses.replace(v, error=run.errors[v.site] * weigh.get(v.site, 1.0))
        if v.site in run.errors
        else v
        for v in plan.verdicts
    )
    settings = {**plan.settings, "rectified": sorted(set(rectifiers) & set(run.fitted))}
    return Plan(verdicts, settings, plan.version), {**factorizations, **run.fitted}


def _anchors(inspection: Inspection) -> int:
    """Returns how many examples the one batch of anchoring has."""
    values = 0
    for site in inspection.sites:
        for place in site.geometries:
            height, width = place.output_size(site.kernel_size)
            values += place.input_size[0] * place.input_size[1] * site.in_channels
            values += height * width * site.out_channels
    return max(1, min(_MOST_ANCHORS, _ANCHOR_BYTES // max(1, 4 * values)))


def saved_model_target(opened: Any, data: CalibrationData, tags: Sequence[str]) -> Target:
    """Returns an opened SavedModel as something to calibrate."""
    from tfapprox.rewriters.kernel_gradients import saved_model_gradients
    from tfapprox.rewriters.saved_model.finding import fetched_nodes
    from tfapprox.rewriters.saved_model.probing import (
        SavedModelProbe,
        offset_reason,
        watch_reason,
    )
    from tfapprox.rewriters.saved_model.rectifiers import rectifier_behind

    kernels = [kernel for kernel in opened.kernels if not kernel.reason]
    unwatched = {k.name: reason for k in kernels if (reason := watch_reason(k))}
    unbiased = {k.name: reason for k in kernels if (reason := offset_reason(k))}

    def rectifiers() -> dict[str, Rectifier]:
        fetched = set(fetched_nodes(opened.files.meta))
        found = {kernel.name: rectifier_behind(kernel, fetched) for kernel in kernels}
        return {name: one for name, one in found.items() if one is not None}

    return Target(
        lambda names, watch: SavedModelProbe(opened, list(names), watch, tags),
        data, data.head,
        lambda sites, examples: saved_model_gradients(opened, sites, tags, examples),
        rectifiers, unwatched, unbiased,
    )  # fmt: skip


def keras_target(model: Any, inspection: Inspection, data: Any) -> Target:
    """Returns a Keras model as something to calibrate."""
    from tfapprox.rewriters.keras_graph import layers_by_path
    from tfapprox.rewriters.keras_probe import KerasProbe, batches_of, head_of
    from tfapprox.rewriters.keras_rectifiers import keras_rectifiers
    from tfapprox.rewriters.keras_stages import offset_reason
    from tfapprox.rewriters.kernel_gradients import keras_gradients

    sites = {site.name: site for site in inspection.sites}
    layers = layers_by_path(model)
    unbiased = {name: reason for name in sites if (reason := offset_reason(layers[name]))}
    return Target(
        lambda names, watch: KerasProbe(model, {n: sites[n] for n in names}, watch, unbiased),
        batches_of(data), functools.partial(head_of, data),
        functools.partial(keras_gradients, model), functools.partial(keras_rectifiers, model),
        unbiased=unbiased,
    )  # fmt: skip
