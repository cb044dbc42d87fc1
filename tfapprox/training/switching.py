"""Replaces a compiled Keras model, mid-training, by its decomposed form or back."""

import dataclasses
from collections.abc import Collection
from typing import Any

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import make_plan
from tfapprox.rewriters.keras_graph import check_graph_model
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_model import rewrite_keras_model
from tfapprox.rewriters.keras_pruning import prune
from tfapprox.rewriters.keras_restore import chains_of, restore_keras_model
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.training.multi_worker import take_from_chief, train_on_workers
from tfapprox.training.optimizer_state import carry_optimizer_state


def check_trainable(model: Any) -> None:
    """Raises UserError for what can't be switched mid-training."""
    keras = check_graph_model(model)
    if keras.__name__ != "keras":
        raise UserError("decomposing in training needs Keras 3; unset TF_USE_LEGACY_KERAS")
    if getattr(model, "optimizer", None) is None:
        raise UserError(f"model {model.name!r} is not compiled: call model.compile first")
    if getattr(model.optimizer, "use_ema", False):
        raise UserError(
            "an optimizer with use_ema=True overwrites weights at the end of each fit, of which "
            "a training that is decomposed takes several: set use_ema=False"
        )


def plan_decomposition(model: Any, config: CompressionConfig) -> Plan:
    """Returns the config's plan, less what does not save both parameters and MACs."""
    plan = make_plan(inspect_keras_model(model), config, SpectrumCache())
    return dataclasses.replace(plan, verdicts=tuple(_if_it_saves(v) for v in plan.verdicts))


def _if_it_saves(verdict: Verdict) -> Verdict:
    before, after = verdict.before, verdict.after
    if verdict.choice is None or (after.params < before.params and after.macs < before.macs):
        return verdict
    reason = "no saving in both parameters and MACs"
    return dataclasses.replace(verdict, choice=None, reason=reason, error=0.0, after=before)


def decompose_model(model: Any, plan: Plan) -> Any:
    """Returns the model with the plan's sites factorized, compiled and ready to train on.

    Weights, step count, learning rate and the optimizer's slots of all variables but
    the new kernels' are those of `model`, which stays as it is.

    Raises:
      UserError: not a compiled Keras 3 graph model, or the plan does not fit.
    """
    check_trainable(model)
    _, factorizations = factorize_plan(inspect_keras_model(model), plan, SpectrumCache())
    with model.distribute_strategy.scope():
        rewritten = rewrite_keras_model(model, factorizations, trainable_groups=True)
        return _switched(model, rewritten, factorizations)


def prune_model(
    model: Any, config: CompressionConfig, plan: Plan | None, inputs: Any
) -> tuple[Any, Plan]:
    """Returns the model without some of its channels, compiled, and the plan for it.

    The optimizer starts anew: hardly a variable keeps its shape.

    Args:
      model: compiled; it stays as it is.
      config: names a pruning method.
      plan: follow this one instead of making one.
      inputs: examples to judge channels by.

    Raises:
      UserError: not a compiled Keras 3 graph model, or see `rewriters.keras_pruning`.
    """
    check_trainable(model)
    with model.distribute_strategy.scope():
        plan, pruned, _ = prune(model, inspect_keras_model(model), config, plan, inputs)
        _compile_like(model, pruned)
    return pruned, plan


def reconstruct_model(model: Any) -> Any:
    """Returns the model with factors composed back into dense kernels, compiled.

    It computes what `model` does, but for rounding; see `restore_keras_model`.

    Raises:
      UserError: not a compiled Keras 3 graph model.
    """
    check_trainable(model)
    replaced = {chain.path for chain in chains_of(model)}
    with model.distribute_strategy.scope():
        return _switched(model, restore_keras_model(model), replaced)


def _switched(
    model: Any, new_model: Any, replaced: Collection[str] | dict[str, Factorization]
) -> Any:
    _compile_like(model, new_model)
    take_from_chief(new_model)
    carry_optimizer_state(model, new_model, replaced)
    return train_on_workers(new_model)


def _compile_like(model: Any, new_model: Any) -> None:
    try:
        new_model.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the loss, metrics or optimizer of model {model.name!r} can't be made anew: "
            f"{' '.join(str(error).split())[:200]}; decorate your own functions and classes with "
            "keras.saving.register_keras_serializable()"
        ) from error


def describe(plan: Plan) -> list[str]:
    """Returns one line for each site, and one for all of them."""
    lines = [
        f"{v.site}: {v.choice} ({v.before.params:,} -> {v.after.params:,} parameters)"
        if v.choice
        else f"{v.site}: kept dense: {v.reason}"
        for v in plan.verdicts
    ]
    before, after = (
        sum((getattr(v, side) for v in plan.verdicts), Cost()) for side in ("before", "after")
    )
    lines.append(
        f"{len(plan.choices)} of {len(plan.verdicts)} sites decomposed: parameters "
        f"{before.params:,} -> {after.params:,}, MACs {before.macs:,} -> {after.macs:,}"
    )
    return lines
