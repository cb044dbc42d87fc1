"""Settings of a compression, checked once, with a JSON round trip."""

import dataclasses
import json
import re
from typing import Any

from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.problem import Budget

CALIBRATIONS = ("none", "symmetric", "anchored", "rectified")


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
    """A budget, a way to spend it, and the sites it may be spent on.

    Attributes:
      budget: see `Budget`.
      selector, decompositions, metric: names in `tfapprox.registry`; no metric
        means the selector's own. A pruning method (ft, pfp), or slice_generator, may
        stand alone in the place of the decompositions.
      include, exclude: regular expressions searched in site names; a site takes
        part when `include` is found and `exclude` is not.
      candidates: see `CandidateOptions`.
      seed: of everything random (generated inputs, randomized SVD).
      faster: take only candidates that are measured to be faster here than the dense
        operation, and never end with a model that is slower than the original. A
        budget of kind latency and the selector "latency" imply it.
      batch_size: of the calls whose latency counts.
      evbmf_weakening, evbmf_floor: see `EvbmfSelector`; of the selector evbmf alone.
      calibration: what calibration data are used for: "none" (to compare models alone),
        "symmetric" (fits to the original's inputs, in closed form), "anchored" (then
        again, site after site, to what the compressed network makes of them) or
        "rectified" (as anchored, but what a ReLU behind a site lets through counts, not
        what it cuts off). "symmetric" when None.
      correct_bias: restore the mean of each site's output on calibration data.
    """

    budget: Budget
    selector: str = "alds"
    decompositions: tuple[str, ...] = ("svd",)
    metric: str | None = None
    include: str = ""
    exclude: str | None = None
    candidates: CandidateOptions = CandidateOptions()
    seed: int = 0
    faster: bool = False
    batch_size: int = 1
    evbmf_weakening: float = 1.0
    evbmf_floor: int = 0
    calibration: str | None = None
    correct_bias: bool = True

    def __post_init__(self):
        from tfapprox import registry
        from tfapprox.decompositions import generated

        if not isinstance(self.budget, Budget):
            raise UserError(
                f'budget must be a Budget, e.g. Budget("macs", keep=0.5), got {self.budget!r}'
            )
        if isinstance(self.decompositions, str):
            raise UserError(f"decompositions is a tuple of names: write ({self.decompositions!r},)")
        if self.batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {self.batch_size}")

        registry.look_up("selector", self.selector)
        EvbmfSelector(self.evbmf_weakening, self.evbmf_floor)  # in range?
        for name in self.decompositions:
            if name not in (*registry.PRUNINGS, generated.NAME):
                registry.look_up("decomposition", name)
        if self.generates:
            self._check_generator()
        if self.pruning is not None:
            self._check_pruning(self.pruning)
        if self.metric is not None:
            registry.look_up("metric", self.metric)
        if self.calibration not in (None, *CALIBRATIONS):
            raise UserError(
                f"unknown calibration {self.calibration!r}; choose among {', '.join(CALIBRATIONS)}"
            )
        for flag in ("include", "exclude"):
            _check_regex(flag, getattr(self, flag))

    def admits(self, site: str) -> bool:
        """Says whether the site's name passes `include` and `exclude`."""
        excluded = self.exclude is not None and re.search(self.exclude, site)
        return bool(re.search(self.include, site)) and not excluded

    @property
    def generates(self) -> bool:
        """Whether one slice generator is to make all kernels."""
        from tfapprox.decompositions import generated

        return generated.NAME in self.decompositions

    def _check_generator(self) -> None:
        if len(self.decompositions) > 1:
            raise UserError(
                "slice_generator stands alone: one generator makes all kernels, so leave out the "
                "other decompositions"
            )
        if self.measures_latency:
            raise UserError("slice_generator saves no time: leave out what is about latency")
        if self.metric not in (None, "frobenius"):
            raise UserError(
                f"slice_generator measures errors in the metric frobenius: leave out {self.metric}"
            )
        if self.calibration not in (None, "none"):
            raise UserError(
                "slice_generator makes kernels that are not fitted to data: leave out calibration "
                f"{self.calibration}"
            )

    @property
    def pruning(self) -> str | None:
        """The pruning method that is named in the place of a decomposition, if one is."""
        from tfapprox import registry

        return next((name for name in self.decompositions if name in registry.PRUNINGS), None)

    def _check_pruning(self, name: str) -> None:
        if len(self.decompositions) > 1:
            raise UserError(
                f"{name} removes channels, which can't be mixed with decompositions: compress "
                "with the one first and then with the other"
            )
        if self.measures_latency or self.metric or self.selector not in ("alds", "uniform"):
            raise UserError(
                f"{name} chooses by itself which channels go: leave out selector, metric and "
                "latency, and give a budget of parameters, MACs or bytes"
            )

    @property
    def calibrates(self) -> bool:
        """Whether calibration data, if there are any, are to be fitted to."""
        return self.calibration != "none" and not self.generates

    @property
    def needs_sensitivities(self) -> bool:
        """Whether errors count by what they do to the model's outputs, if there are data.

        L-Rank adds up errors of different sites, which takes a common unit.
        """
        return self.metric == "output" or (self.metric is None and self.selector == "lrank")

    @property
    def measures_latency(self) -> bool:
        """Whether a plan needs candidates that were timed on this machine."""
        return self.faster or self.budget.kind == "latency" or self.selector == "latency"

    def to_json(self) -> dict:
        """Returns what JSON can hold and gives back alike: lists, no tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, body: dict) -> "CompressionConfig":
        fields = dict(body)
        fields["budget"] = Budget(**fields["budget"])
        options: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields["candidates"].items()
        }
        fields["candidates"] = CandidateOptions(**options)
        fields["decompositions"] = tuple(fields["decompositions"])
        return cls(**fields)


def check_config(config: Any) -> None:
    """Refuses what is no `CompressionConfig`, such as a bare budget or ratio.

    Raises:
      UserError: with the call to write instead.
    """
    if not isinstance(config, CompressionConfig):
        raise UserError(
            f"config must be a CompressionConfig, got {config!r}: write "
            'CompressionConfig(Budget("macs", keep=0.5))'
        )


def _check_regex(flag: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UserError(f"--{flag} {pattern!r} is not a regular expression: {error}") from error
