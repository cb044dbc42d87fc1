"""Staged fine-tuning: approximate some layers, freeze them and all below, train those above.

References:
  Denton, Zaremba, Bruna, LeCun and Fergus: Exploiting Linear Structure Within
  Convolutional Networks for Efficient Evaluation, 2014, Section 4.1: layers are
  approximated one after the other from the input upward; each time the approximated
  layer and all below are fixed and those above fine-tuned until accuracy is restored.
"""

import dataclasses
import pathlib
import re
from collections.abc import Collection
from typing import Any

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.planning import make_plan
from tfapprox.rewriters.keras_graph import (
    flavour_of,
    is_graph_model,
    layers_by_path,
    nodes_of,
    tree_of,
)
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_restore import chains_of
from tfapprox.rewriters.plan import Plan
from tfapprox.training.best_epoch import BestEpochTraining, RetrainData, write_whole
from tfapprox.training.compress_retrain import score_by_accuracy
from tfapprox.training.switching import check_trainable, decompose_model
from tfapprox.training.trade_off import TradeOff


@dataclasses.dataclass(frozen=True)
class StagedFineTuning:
    """What is approximated when, and for how long the rest is trained.

    Attributes:
      compression: gives one plan for the whole model, so its budget is that of the end.
      epochs: of training after each stage.
      stages: regular expressions searched in names of sites, from the inputs upward; no
        stages means each replaced site by itself, in the order of execution.
      seed: noted in the rows.
    """

    compression: CompressionConfig
    epochs: int
    stages: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if self.epochs < 0:
            raise UserError(f"epochs must not be negative, got {self.epochs}")
        if isinstance(self.stages, str):
            raise UserError(f"stages is a tuple of expressions: write ({self.stages!r},)")

    def sites(self, plan: Plan) -> list[list[str]]:
        """Returns the replaced sites of each stage.

        Raises:
          UserError: a stage without any, or a replaced site without a stage.
        """
        rest = list(plan.choices)
        if not self.stages:
            return [[site] for site in rest]
        found = []
        for stage in self.stages:
            own = [site for site in rest if re.search(stage, site)]
            if not own:
                raise UserError(
                    f"stage {stage!r} names no site that is left; replaced are: "
                    f"{', '.join(plan.choices)}"
                )
            found.append(own)
            rest = [site for site in rest if site not in own]
        if rest:
            raise UserError(f"no stage names {', '.join(rest)}: leave them out with exclude")
        return found


def staged_fine_tuning(
    model: Any, data: RetrainData, config: StagedFineTuning, folder: str | pathlib.Path
) -> tuple[Any, list[TradeOff]]:
    """Approximates a trained model stage by stage; returns it and a row for each stage.

    In each stage its sites are factorized as the plan says, from their kernels of that
    moment; they and every layer on the way from the inputs to them are frozen (batch
    normalization there keeps its statistics); the others are trained by a new optimizer
    of the model's kind, and the best validation epoch is kept, which may be the one
    before any training. After the last stage every layer can be trained as before.

    `folder` gets plan.json and a folder for each stage. A run that was killed goes on
    there after the last whole epoch, with the same numbers.

    Args:
      model: trained, compiled Keras 3 model with the metric "accuracy"; stays as it is.
      data: see `RetrainData`; epochs are counted on through the stages.
      config: see `StagedFineTuning`.
      folder: belongs to this model, data and config.

    Raises:
      UserError: the model is of another kind, or the config does not fit it.
    """
    check_trainable(model)
    folder = pathlib.Path(folder)
    inspection = inspect_keras_model(model)
    run = BestEpochTraining(data, config.seed, (inspection.cost.params, inspection.cost.macs))
    plan = _plan(model, config, folder, run, data)
    keep = config.compression.budget.keep or 1.0
    trainable = {path: layer.trainable for path, layer in layers_by_path(model).items()}
    rows = []
    for number, sites in enumerate(config.sites(plan)):
        own = tuple(verdict for verdict in plan.verdicts if verdict.site in sites)
        model = decompose_model(model, dataclasses.replace(plan, verdicts=own))
        freeze_up_to(model, sites)
        _compile_anew(model)
        first = number * config.epochs
        # Above the last site there may be nothing to train.
        last = first + (config.epochs if model.trainable_variables else 0)
        method = f"stage {number + 1}: {', '.join(sites)}"
        place = folder / f"stage-{number + 1}"
        model, row = run.train(model, place, range(first, last), method, keep)
        rows.append(row)
    _thaw(model, trainable)
    _compile_anew(model)
    return model, rows


def freeze_up_to(model: Any, paths: Collection[str]) -> None:
    """Makes the layers at these paths, and all that they depend on, not trainable.

    Compile the model anew before training it.

    Args:
      model: Sequential or Functional; nested models are fine.
      paths: as in `layers_by_path`.
    """
    tree = tree_of(flavour_of(model))
    needed: set[int] = set()
    for layer, args, kwargs, outputs in reversed(list(nodes_of(model))):
        inside = [p.partition("/")[2] for p in paths if p.startswith(f"{layer.name}/")]
        whole = layer.name in paths or any(id(x) in needed for x in outputs)
        if whole:
            # Of a nested model its layers, so that each can be thawed by itself.
            leaves = layers_by_path(layer).values() if is_graph_model(layer) else (layer,)
            for leaf in leaves:
                leaf.trainable = False
        elif inside and is_graph_model(layer):
            freeze_up_to(layer, inside)
        if whole or inside:
            needed.update(id(x) for x in tree.flatten((args, dict(kwargs))))


def _thaw(model: Any, trainable: dict[str, bool]) -> None:
    """Gives layers the trainability of those they are or stand in for."""
    stages = {id(x): chain.path for chain in chains_of(model) for x in chain.layers}
    for path, layer in layers_by_path(model).items():
        layer.trainable = trainable.get(stages.get(id(layer), path), True)


def _compile_anew(model: Any) -> None:
    with model.distribute_strategy.scope():
        model.compile_from_config(model.get_compile_config())


def _plan(
    model: Any,
    config: StagedFineTuning,
    folder: pathlib.Path,
    run: BestEpochTraining,
    data: RetrainData,
) -> Plan:
    path = folder / "plan.json"
    if path.exists():
        return Plan.from_json(path.read_text(), str(path))
    score = None
    if config.compression.selector == "greedy":
        score = score_by_accuracy(
            model, lambda m: run.accuracy(m, data.valid), folder / "scores.json"
        )
    plan = make_plan(inspect_keras_model(model), config.compression, SpectrumCache(), score=score)
    write_whole(path, plan.to_json())
    return plan
