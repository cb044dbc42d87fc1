"""Decompose-in-training: train dense, go on decomposed, end dense again if wanted.

Why this is no callback of a single `model.fit`. A Functional model is a fixed graph of
calls; Keras locks a built layer against new sublayers and variables; a built optimizer
refuses variables it does not know; and the compiled train step has captured the old ones.
So nothing public puts other layers into the model that `fit` is running, and a model of a
private kind would no longer be saved, exported or compressed like any other.
`fit_with_decomposition` therefore calls `fit` for each stretch between two switches, on the
model of that stretch, with callbacks and History that see one training.

References:
  Elhoushi, Shafiq, Tian, Li and Chen: Accelerating Training using Tensor Decomposition,
  2019, Section 4 and Figure 4 (decompose at epoch N, reconstruct M epochs before the end).
"""

import dataclasses
import itertools
import logging
import pathlib
import re
from typing import Any

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Budget
from tfapprox.training.callback_relay import CallbackRelay
from tfapprox.training.switched_training import SwitchedTraining
from tfapprox.training.switching import check_trainable, plan_decomposition

_LOG = logging.getLogger(__name__)
_FIRST_LAYER = "the first layer; first_layer=True decomposes it, too"


@dataclasses.dataclass(frozen=True)
class DecomposeInTraining:
    """When to decompose, and how.

    Attributes:
      at_epoch: the first epoch (from 0) that trains the decomposed model; None for a
        dense training, e.g. of the rival that the decomposed one is compared with.
      decomposition, selector: names in `tfapprox.registry`.
      reconstruct_at: the first epoch that trains the dense architecture again, if any.
      budget: what may remain at most; EVBMF's ranks stand unless they exceed it.
      first_layer: whether the layer next to the inputs may be decomposed.
      include, exclude: as in `CompressionConfig`.
      candidates: ranks to choose from.
    """

    at_epoch: int | None
    decomposition: str = "tucker2"
    selector: str = "evbmf"
    reconstruct_at: int | None = None
    budget: Budget = Budget("params", keep=1.0)
    first_layer: bool = False
    include: str = ""
    exclude: str | None = None
    candidates: CandidateOptions = CandidateOptions()

    def __post_init__(self):
        for name in ("at_epoch", "reconstruct_at"):
            epoch = getattr(self, name)
            if epoch is not None and not (isinstance(epoch, int) and epoch >= 0):
                raise UserError(
                    f"{name} must be the number of an epoch, counted from 0, got {epoch!r}"
                )
        if self.reconstruct_at is not None and (
            self.at_epoch is None or self.reconstruct_at < self.at_epoch
        ):
            raise UserError(
                f"reconstruct_at must not be below at_epoch, got {self.reconstruct_at} and "
                f"{self.at_epoch}"
            )
        _ = self.compression  # checks the names

    @property
    def compression(self) -> CompressionConfig:
        """The settings without the epochs."""
        return CompressionConfig(
            self.budget,
            self.selector,
            (self.decomposition,),
            include=self.include,
            exclude=self.exclude,
            candidates=self.candidates,
        )

    def is_decomposed(self, epoch: int) -> bool:
        """Says whether this epoch trains the decomposed model."""
        if self.at_epoch is None or epoch < self.at_epoch:
            return False
        return self.reconstruct_at is None or epoch < self.reconstruct_at

    def check(self, model: Any) -> None:
        """Refuses a model without a layer to decompose, before it is trained for nothing.

        Raises:
          UserError: naming the layers, and what left them out.
        """
        names = [site.name for site in inspect_keras_model(model).sites]
        if not any(map(self.compression.admits, names if self.first_layer else names[1:])):
            raise UserError(
                f"model {model.name!r} has no layer to decompose: of {', '.join(names) or 'none'}, "
                f"include={self.include!r}, exclude={self.exclude!r} and "
                f"first_layer={self.first_layer} leave none"
            )

    def plan(self, model: Any) -> Plan:
        """Returns one verdict for each site of the model as it is now."""
        config = self.compression
        first = inspect_keras_model(model).sites[0].name
        if self.first_layer or not config.admits(first):
            return plan_decomposition(model, config)
        own = f"|{config.exclude}" if config.exclude else ""
        without = dataclasses.replace(config, exclude=f"^{re.escape(first)}$" + own)
        plan = plan_decomposition(model, without)
        verdicts = (
            dataclasses.replace(v, reason=_FIRST_LAYER) if v.site == first else v
            for v in plan.verdicts
        )
        return dataclasses.replace(plan, verdicts=tuple(verdicts))


@dataclasses.dataclass(frozen=True, eq=False)
class DecomposedFit:
    """What `fit_with_decomposition` leaves.

    Attributes:
      model: the trained model, compiled.
      history: of all epochs, as `fit` returns it.
      plan: one verdict a site; None if training ended before `at_epoch`, of which a
        warning tells.
    """

    model: Any
    history: Any
    plan: Plan | None


def fit_with_decomposition(
    model: Any,
    settings: DecomposeInTraining,
    x: Any = None,
    y: Any = None,
    *,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Any = (),
    backup_dir: str | pathlib.Path | None = None,
    verbose: Any = "auto",
    **fit_arguments: Any,
) -> DecomposedFit:
    """Trains like `model.fit`, decomposing and reconstructing on the way.

    Callbacks live through all of it: each sees one beginning, one end, and every epoch
    by its number, and finds the model of the moment in `self.model`. An EarlyStopping
    that restores the best weights starts anew at a switch, because those of one
    structure do not fit the other. Files of ModelCheckpoint are of the structure that
    was trained at their epoch. With BackupAndRestore a run that was stopped goes on, on
    the right side of the switch.

    `backup_dir` is stricter: after each epoch everything is in one file that is
    replaced at once (BackupAndRestore writes two in turn, and no random seeds), History
    comes back whole, what EarlyStopping, ReduceLROnPlateau and ModelCheckpoint remember
    with it, and where the data are a function of the epoch the same numbers come out as
    without the interruption. (State of other callbacks is theirs to keep.)

    A model of a tf.distribute strategy stays with it. On several workers all call this
    with the same arguments; the chief decomposes, and writes to `backup_dir`, which all
    have to see.

    Args:
      model: compiled Keras 3 model, Sequential or Functional; it is what trains until
        the first switch, and is left as it was then.
      settings: see `DecomposeInTraining`.
      x, y: as in `fit`; or x is a function from the number of an epoch to its data, in
        the order to take them in.
      epochs, initial_epoch, callbacks, verbose: as in `fit`.
      backup_dir: see above; a finished run is returned at once.
      fit_arguments: anything else that `fit` takes.

    Raises:
      UserError: the model can't be switched or has nothing to decompose, or the backup is
        of another one.
    """
    check_trainable(model)
    if not isinstance(settings, DecomposeInTraining):
        raise UserError(
            f"settings must be a DecomposeInTraining, got a {type(settings).__name__}: write "
            "DecomposeInTraining(at_epoch=1)"
        )
    if settings.at_epoch is not None and settings.at_epoch < epochs:
        settings.check(model)
    _warn_of_switches_not_reached(settings, epochs)
    backup = pathlib.Path(backup_dir) if backup_dir is not None else None
    callbacks = [callbacks] if hasattr(callbacks, "on_epoch_end") else callbacks or ()
    training = SwitchedTraining(model, settings, backup, callbacks)
    relay = CallbackRelay(callbacks, training.model, epochs, verbose)
    epoch = relay.begin() or training.epoch or initial_epoch
    training.remind(relay)
    if training.stopped:
        epochs = epoch
    if callable(x):
        fit_arguments.setdefault("shuffle", False)  # the function has the say
    for start, end in _stretches(settings, epoch, epochs, by_epoch=callable(x) or bool(backup)):
        training.switch(start, relay)
        training.model.fit(
            x(start) if callable(x) else x,
            y,
            epochs=end,
            initial_epoch=start,
            callbacks=relay,
            verbose=0,
            **fit_arguments,
        )
        training.end_of(end, relay)
        if training.model.stop_training:
            _warn_of_switches_not_reached(settings, end)
            break
    relay.finish()
    return DecomposedFit(training.model, relay.history, training.plan)


def _warn_of_switches_not_reached(settings: DecomposeInTraining, epochs: int) -> None:
    for name in ("at_epoch", "reconstruct_at"):
        switch = getattr(settings, name)
        if switch is not None and switch >= epochs:
            _LOG.warning(
                "%s=%d is not reached in training that ends with epoch %d, counted from 0",
                name,
                switch,
                epochs - 1,
            )


def _stretches(
    settings: DecomposeInTraining, first: int, last: int, by_epoch: bool
) -> list[tuple[int, int]]:
    """Returns (first epoch, epoch after the last) of each call of fit."""
    cuts = range(first + 1, last) if by_epoch else (settings.at_epoch, settings.reconstruct_at)
    inner = sorted({cut for cut in cuts if cut is not None and first < cut < last})
    ends = [first, *inner, last]
    return [(a, b) for a, b in itertools.pairwise(ends) if a < b]
