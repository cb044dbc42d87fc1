"""Everything that is known of one compression, in one dataclass that keeps in JSON."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tfapprox.errors import UserError
from tfapprox.report.environment import Environment
from tfapprox.report.spectra import SiteSpectrum
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.latency import Latency
from tfapprox.training.distillation_config import Distillation, RefinedBlock

REPORT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """A whole model: parameters, MACs for one example, and bytes of its files (0: not saved)."""

    params: int
    macs: int
    disk_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a user's own measure says of the original and of the result; higher is better.

    Attributes:
      before, after: e.g. the share of right answers.
      name: of the measure.
    """

    before: float
    after: float
    name: str = "accuracy"


@dataclasses.dataclass(frozen=True)
class Report:
    """One compression, from the settings to the measurements.

    Attributes:
      source, destination: directories or model names.
      plan: the verdicts and the settings that led to them.
      before, after: the whole model.
      environment: versions, machine, threads, seed.
      verification: None when it was not done.
      latency: one for each batch size; empty when not measured.
      scores: None without labels or a function that evaluates.
      distillation: None where the whole was not trained.
      refinement: what came of each block; empty where blocks were not trained.
      spectra: singular values of the sites that were looked at.
      notes: remarks for the user.
      seconds: phase -> seconds it took.
      peak_memory_bytes: of the process, TensorFlow included.
    """

    source: str
    destination: str
    plan: Plan
    before: ModelSize
    after: ModelSize
    environment: Environment
    verification: Verification | None = None
    latency: tuple[Latency, ...] = ()
    spectra: tuple[SiteSpectrum, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    peak_memory_bytes: int = 0
    scores: Scores | None = None
    distillation: Distillation | None = None
    refinement: tuple[RefinedBlock, ...] = ()

    @property
    def replaced(self) -> int:
        """Number of sites that were factorized."""
        return len(self.plan.choices)

    def to_json(self) -> dict:
        """Returns what `json.dumps` takes and `from_json` reads."""
        return {
            "tfapprox_report": REPORT_VERSION,
            "source": self.source,
            "destination": self.destination,
            "plan": json.loads(self.plan.to_json()),
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "environment": dataclasses.asdict(self.environment),
            "verification": self.verification and self.verification.to_json(),
            "latency": [latency.to_json() for latency in self.latency],
            "spectra": [dataclasses.asdict(spectrum) for spectrum in self.spectra],
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
            "peak_memory_bytes": self.peak_memory_bytes,
            "scores": self.scores and dataclasses.asdict(self.scores),
            "distillation": self.distillation and self.distillation.to_json(),
            "refinement": [block.to_json() for block in self.refinement],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any], origin: str = "report") -> "Report":
        """Returns the report that `to_json` wrote.

        Raises:
          UserError: no report, of an unknown version, or malformed.
        """
        if not isinstance(body, Mapping) or "tfapprox_report" not in body:
            raise UserError(f"{origin} is not a tfapprox report: it has no key 'tfapprox_report'")
        if body["tfapprox_report"] != REPORT_VERSION:
            raise UserError(
                f"{origin} has report version {body['tfapprox_report']!r}; this tfapprox reads "
                f"version {REPORT_VERSION}: compress again"
            )
        try:
            return cls(
                source=str(body["source"]),
                destination=str(body["destination"]),
                plan=Plan.from_json(json.dumps(body["plan"]), f"{origin}, plan"),
                before=ModelSize(**body["before"]),
                after=ModelSize(**body["after"]),
                environment=Environment(**body["environment"]),
                verification=body["verification"] and Verification.from_json(body["verification"]),
                latency=tuple(Latency.from_json(latency) for latency in body["latency"]),
                spectra=tuple(SiteSpectrum.from_json(spectrum) for spectrum in body["spectra"]),
                notes=tuple(body["notes"]),
                seconds=dict(body["seconds"]),
                peak_memory_bytes=int(body["peak_memory_bytes"]),
                scores=Scores(**body["scores"]) if body.get("scores") else None,
                distillation=Distillation.from_json(body["distillation"])
                if body.get("distillation")
                else None,
                refinement=tuple(map(RefinedBlock.from_json, body.get("refinement", ()))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{origin} is malformed: {type(error).__name__}: {error}") from error
