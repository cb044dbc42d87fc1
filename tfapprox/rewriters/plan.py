"""The frozen choice, site -> candidate: versioned JSON that can be edited and applied again."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfapprox.accounting.cost import Cost
from tfapprox.errors import UserError
from tfapprox.selection.problem import Configuration

PLAN_VERSION = 1

EXTRA = Path("assets.extra", "tfapprox")
"""Where a compressed SavedModel carries its plan and report; servers ignore it."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What happens to one site, and why.

    Attributes:
      site, kind: as in the inspection.
      kernel_shape: [height, width, in, out], checked when the plan is applied.
      choice: the configuration, or None when the site is kept dense.
      reason: why it is kept dense; "" when replaced.
      error: relative error of the composed kernel in the plan's metric.
      before, after: cost of the site.
    """

    site: str
    kind: str
    kernel_shape: tuple[int, int, int, int]
    choice: Configuration | None
    reason: str
    error: float
    before: Cost
    after: Cost


@dataclasses.dataclass(frozen=True)
class Plan:
    """One verdict for each site, with the settings that led to it."""

    verdicts: tuple[Verdict, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    version: int = PLAN_VERSION

    @property
    def choices(self) -> dict[str, Configuration]:
        return {v.site: v.choice for v in self.verdicts if v.choice is not None}

    def to_json(self) -> str:
        body = {
            "tfapprox_plan": self.version,
            "settings": dict(self.settings),
            "sites": [_verdict_to_json(verdict) for verdict in self.verdicts],
        }
        return json.dumps(body, indent=1)

    @classmethod
    def from_json(cls, text: str, origin: str = "plan") -> "Plan":
        """Reads a plan; numbers a user did not keep in step are not trusted later on.

        Raises:
          UserError: not a plan, of an unknown version, or with a malformed site.
        """
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{origin} is not JSON: {error}") from error
        if not isinstance(body, dict) or "tfapprox_plan" not in body:
            raise UserError(f"{origin} is not a tfapprox plan: it has no key 'tfapprox_plan'")
        if body["tfapprox_plan"] != PLAN_VERSION:
            raise UserError(
                f"{origin} has plan version {body['tfapprox_plan']!r}; this tfapprox reads "
                f"version {PLAN_VERSION}: write it anew with --save_plan"
            )
        sites = body.get("sites")
        if not isinstance(sites, list):
            raise UserError(f"{origin} has no list 'sites'")
        settings = body.get("settings", {})
        if not isinstance(settings, dict):
            raise UserError(f"{origin} has settings that are no object of names and values")
        return cls(
            tuple(_verdict_from_json(site, f"{origin}, site {i}") for i, site in enumerate(sites)),
            settings,
        )


def _verdict_to_json(verdict: Verdict) -> dict:
    body = dataclasses.asdict(verdict)
    body["kernel_shape"] = list(verdict.kernel_shape)
    body["choice"] = verdict.choice and verdict.choice.to_json()
    return body


def _verdict_from_json(body: Any, origin: str) -> Verdict:
    try:
        choice = body["choice"]
        if choice is not None:
            settings = {k: int(v) for k, v in choice.items() if k != "decomposition"}
            choice = Configuration(choice["decomposition"], settings)
        shape = tuple(int(size) for size in body["kernel_shape"])
        if len(shape) != 4:
            raise ValueError(f"kernel_shape must have 4 entries, got {len(shape)}")
        return Verdict(
            site=body["site"],
            kind=body.get("kind", ""),
            kernel_shape=shape,
            choice=choice,
            reason=body.get("reason", ""),
            error=float(body.get("error", 0.0)),
            before=Cost(**body.get("before", {})),
            after=Cost(**body.get("after", {})),
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{origin} is malformed: {type(error).__name__}: {error}") from error
