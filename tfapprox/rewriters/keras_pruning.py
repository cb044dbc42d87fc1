"""Plans and removes channels of a Keras model: the pruning counterpart of factorizing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfapprox.accounting.cost import Cost
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.pruning.channels import ChannelLayer, ChannelMap, Unit
from tfapprox.pruning.levels import highest_survivors, smallest_level, survivors
from tfapprox.pruning.methods import PRUNINGS, Evidence
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.keras_channels import trace_channels
from tfapprox.rewriters.keras_cut import cut_keras_model
from tfapprox.rewriters.keras_rows import input_rows
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Configuration


def pruning_of(plan: Plan) -> str | None:
    """Returns the name of the pruning method that a plan follows, None if it has none."""
    methods = {choice.decomposition for choice in plan.choices.values()}
    return next((name for name in PRUNINGS if name in methods), None)


@dataclasses.dataclass(frozen=True, eq=False)
class PruningJob:
    """A model whose channels were judged.

    Attributes:
      model, inspection: as they are.
      method: name of the method.
      channels: of the model.
      levels: of each unit of `channels.units`.
    """

    model: Any
    inspection: Inspection
    method: str
    channels: ChannelMap
    levels: Sequence[np.ndarray]

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.channels.units

    def plan(self, config: CompressionConfig) -> tuple[Plan, np.ndarray]:
        """Returns the config's plan, and which classes of channels stay.

        Raises:
          UserError: a budget that the method does not take, or an infeasible one.
        """
        budget, whole = config.budget.relative_to(self.inspection.cost), self.inspection.cost
        if budget.max_error is not None and not PRUNINGS[self.method].bounds_error:
            raise UserError(
                f"{self.method} has no error to bound: give keep_params or keep_macs, or take pfp"
            )
        level = budget.max_error
        if level is None:
            # A budget of latency is refused in there.
            cost = getattr(whole, budget.kind)
            level = smallest_level(self.channels, self.units, self.levels, budget, cost)
        alive = survivors(self.channels, self.units, self.levels, level)
        settings = config.to_json() | {
            "selector": self.method,
            "metric": "frobenius",
            "objective": level,
        }
        return Plan(self._verdicts(alive), settings), alive

    def follow(self, plan: Plan) -> tuple[Plan, np.ndarray]:
        """Returns a given plan with its costs counted anew, and which classes stay.

        Raises:
          UserError: the plan and the model do not fit, naming the site.
        """
        counts = [self._count(unit, plan.choices) for unit in self.units]
        alive = highest_survivors(self.channels, self.units, self.levels, counts)
        verdicts = self._verdicts(alive)
        for verdict in verdicts:
            given = plan.choices.get(verdict.site)
            if given is not None and given != verdict.choice:
                raise UserError(
                    f"the plan has {given} for site {verdict.site!r}, but the other sites' choices "
                    f"make it {verdict.choice or 'dense'}: change all that are tied alike"
                )
        return dataclasses.replace(plan, verdicts=verdicts), alive

    def _count(self, unit: Unit, choices: Mapping[str, Configuration]) -> int:
        """Returns how many of a unit's channels the plan keeps, by its smallest layer."""
        makers = [layer for layer in self.channels.layers if layer.name in unit.layers]
        layer = min(makers, key=lambda layer: len(layer.outputs))
        name, others = layer.name, len(np.setdiff1d(layer.outputs, unit.classes))
        if name not in choices:
            return len(unit.classes)
        count = choices[name].settings.get("outputs", -1) - others
        if not 1 <= count <= len(unit.classes):
            raise UserError(
                f"site {name}: {self.method} can keep {others + 1} to "
                f"{others + len(unit.classes)} outputs, got {count + others}"
            )
        return count

    def _verdicts(self, alive: np.ndarray) -> tuple[Verdict, ...]:
        layers = {layer.name: layer for layer in self.channels.layers}
        return tuple(
            self._verdict(site, layers.get(site.name), alive) for site in self.inspection.sites
        )

    def _verdict(self, site: Any, layer: ChannelLayer | None, alive: np.ndarray) -> Verdict:
        dense = Verdict(
            site.name, site.kind, site.kernel.shape, None, "", 0.0, site.cost, site.cost
        )
        if layer is None:
            return dataclasses.replace(
                dense, reason="channels of this kind of layer are not traced"
            )
        kept = {"inputs": alive[layer.inputs], "outputs": alive[layer.outputs]}
        if all(own.all() for own in kept.values()):
            reason = self.channels.reason(layer) or "the budget leaves room to keep all channels"
            return dataclasses.replace(dense, reason=f"its outputs stay: {reason}")
        settings = {name: int(np.count_nonzero(own)) for name, own in kept.items()}
        return dataclasses.replace(
            dense,
            choice=Configuration(self.method, settings),
            error=_lost(site.kernel, *kept.values()),
            after=layer.cost(alive, slice(0, 1)),
        )


def judge_channels(
    model: Any, inspection: Inspection, config: CompressionConfig, method: str, inputs: Any
) -> PruningJob:
    """Returns the model with the levels of its channels.

    Args:
      model: Keras, Sequential or Functional.
      config: its filters on sites count here.
      method: "ft" or "pfp".
      inputs: examples, for a method that looks at data; what `model(inputs)` takes.

    Raises:
      UserError: nothing can be pruned, or data are missing.
    """
    channels = trace_channels(model, inspection, config.admits)
    pruning = PRUNINGS[method]
    if not channels.units:
        reasons = [reason for layer in channels.layers if (reason := channels.reason(layer))]
        raise UserError(
            f"{method} finds no channel to remove: "
            + ("; ".join(dict.fromkeys(reasons[:3])) or "the model has no chain of layers")
        )
    traced = {layer.name for layer in channels.layers}
    sites = [site for site in inspection.sites if site.name in traced]
    if pruning.needs_data and inputs is None:
        raise UserError(f"{method} judges channels by data: give some examples (inputs=...)")
    rows = input_rows(model, sites, inputs, config.seed) if pruning.needs_data else {}
    evidence = Evidence({site.name: site.kernel for site in sites}, rows)
    levels = [pruning.levels(channels, unit, evidence) for unit in channels.units]
    return PruningJob(model, inspection, method, channels, levels)


def prune(
    model: Any,
    inspection: Inspection,
    config: CompressionConfig,
    plan: Plan | None,
    inputs: Any,
) -> tuple[Plan, Any, Cost]:
    """Returns the plan, made or given, the smaller model and what it costs.

    Raises:
      UserError: see `judge_channels` and `PruningJob`; or nothing is to be removed.
    """
    method = (plan and pruning_of(plan)) or config.pruning
    assert method is not None, "neither the plan nor the config prunes"
    job = judge_channels(model, inspection, config, method, inputs)
    plan, alive = job.follow(plan) if plan is not None else job.plan(config)
    if alive.all():
        raise UserError(
            f"nothing to do: {method} keeps all channels, "
            f"e.g. {plan.verdicts[0].site}: {plan.verdicts[0].reason}"
        )
    return plan, cut_keras_model(model, job.channels, alive), cost_after_pruning(job, alive)


def cost_after_pruning(job: PruningJob, alive: np.ndarray) -> Cost:
    """Returns the whole model's cost, biases and statistics counted."""
    before = job.channels.cost(np.ones_like(alive))
    return job.inspection.cost - before + job.channels.cost(alive)


def _lost(kernel: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Returns the share of the kernel's norm that goes with its channels."""
    squares = np.square(kernel.astype(np.float64)).sum(axis=(0, 1))
    whole = squares.sum()
    kept = squares[np.ix_(inputs, outputs)].sum()
    return float(np.sqrt(max(0.0, 1 - kept / whole))) if whole else 0.0
