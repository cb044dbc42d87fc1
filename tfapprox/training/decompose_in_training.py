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
import functools
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from tensorflow import keras

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Budget
from tfapprox.training.callback_relay import CallbackRelay
from tfapprox.training.multi_worker import is_chief, text_of_chief, train_on_workers
from tfapprox.training.snapshots import read_record, restore_snapshot, save_snapshot
from tfapprox.training.switching import (
    check_trainable,
    decompose_model,
    describe,
    plan_decomposition,
    reconstruct_model,
)

_LOG = logging.getLogger(__name__)
_SNAPSHOT, _PLAN = "training.npz", "decomposition_plan.json"
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
        if self.at_epoch is not None and self.at_epoch < 0:
            raise UserError(f"at_epoch must not be negative, got {self.at_epoch}")
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
    callbacks: Sequence[Any] = (),
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
    comes back whole, and where the data are a function of the epoch the same numbers
    come out as without the interruption. (Callbacks' own state is theirs to keep.)

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
      UserError: the model can't be switched, or the backup is of another one.
    """
    check_trainable(model)
    _warn_of_switches_not_reached(settings, epochs)
    backup = pathlib.Path(backup_dir) if backup_dir is not None else None
    training = _Training(model, settings, backup, callbacks)
    relay = CallbackRelay(callbacks, training.model, epochs, verbose)
    epoch = relay.begin() or training.epoch or initial_epoch
    if training.history:
        relay.restore_history(training.history)
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


class _Training:
    """The model of the moment, how it came about, and what of it is on disk.

    Attributes:
      model: dense or decomposed.
      plan: of the decomposition, once there was one.
      epoch, history, stopped: where an interrupted training was; 0, None, False else.
    """

    def __init__(
        self,
        model: Any,
        settings: DecomposeInTraining,
        backup: pathlib.Path | None,
        callbacks: Sequence[Any],
    ):
        self.model = train_on_workers(model)
        self.plan: Plan | None = None
        self.epoch, self.stopped = 0, False
        self.history: dict[str, Any] | None = None
        self._settings, self._decomposed = settings, False
        self._snapshot = backup / _SNAPSHOT if backup is not None else None
        kind = keras.callbacks.BackupAndRestore
        self._folders = [pathlib.Path(c.backup_dir) for c in callbacks if isinstance(c, kind)]
        if self._snapshot is not None and (record := read_record(self._snapshot)):
            self.epoch, self.history = record["epoch"], record["history"]
            self.stopped = record["stopped"]
            if record["plan"]:
                self._take_structure(record["plan"], record["decomposed"])
            restore_snapshot(self._snapshot, self.model)
        for folder in self._folders:
            self._follow(folder)

    def _take_structure(self, plan: str, decomposed: bool) -> None:
        """Gives the model the plan's ranks; its weights are to be filled in."""
        self.plan, self._decomposed = Plan.from_json(plan), decomposed
        if self.plan.choices:
            self.model = decompose_model(self.model, self.plan)
            if not decomposed:
                self.model = reconstruct_model(self.model)

    def _follow(self, folder: pathlib.Path) -> None:
        """Takes the structure whose weights BackupAndRestore has in its folder."""
        plan, metadata = folder / _PLAN, folder / "training_metadata.json"
        if plan.exists() and metadata.exists():
            state = json.loads(metadata.read_text())
            # A backup at the end of an epoch already bears the next one's number.
            last = state["epoch"] if state.get("batch") else state["epoch"] - 1
            first = self._settings.at_epoch
            if first is not None and last >= first:
                self._take_structure(plan.read_text(), self._settings.is_decomposed(last))

    def switch(self, epoch: int, relay: CallbackRelay) -> None:
        """Decomposes or reconstructs the model if this epoch asks for it."""
        wanted = self._settings.is_decomposed(epoch)
        if wanted == self._decomposed:
            return
        self._decomposed = wanted
        if wanted:
            plan = self._settings.plan(self.model)
            self.plan = Plan.from_json(text_of_chief(self.model, plan.to_json()))
            for line in describe(self.plan):
                _LOG.info("epoch %d: %s", epoch, line)
            for folder in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / _PLAN).write_text(self.plan.to_json())
        assert self.plan is not None  # nothing but a plan decomposes
        if not self.plan.choices:
            _LOG.warning("epoch %d: no site is worth decomposing; the model stays dense", epoch)
            return
        make = functools.partial(decompose_model, plan=self.plan) if wanted else reconstruct_model
        self.model = make(self.model)
        relay.change_model(self.model)

    def end_of(self, epoch: int, relay: CallbackRelay) -> None:
        """Keeps on disk what a stretch of epochs led to."""
        if self._snapshot is None or not is_chief(self.model):
            return
        record = {
            "epoch": epoch,
            "decomposed": self._decomposed,
            "plan": self.plan and self.plan.to_json(),
            "history": relay.history_records(),
            "stopped": bool(self.model.stop_training),
        }
        save_snapshot(self._snapshot, self.model, record)


def _stretches(
    settings: DecomposeInTraining, first: int, last: int, by_epoch: bool
) -> list[tuple[int, int]]:
    """Returns (first epoch, epoch after the last) of each call of fit."""
    cuts = range(first + 1, last) if by_epoch else (settings.at_epoch, settings.reconstruct_at)
    inner = sorted({cut for cut in cuts if cut is not None and first < cut < last})
    ends = [first, *inner, last]
    return [(a, b) for a, b in itertools.pairwise(ends) if a < b]
