"""The model of the moment in a training that decomposes, how it came about, what is on disk."""

import functools
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from tensorflow import keras

from tfapprox.rewriters.plan import Plan
from tfapprox.training.callback_relay import CallbackRelay
from tfapprox.training.callback_state import callback_states, restore_callback_states
from tfapprox.training.multi_worker import is_chief, text_of_chief, train_on_workers
from tfapprox.training.snapshots import read_extra, read_record, restore_snapshot, save_snapshot
from tfapprox.training.switching import decompose_model, describe, reconstruct_model

_LOG = logging.getLogger(__name__)
_SNAPSHOT, _PLAN = "training.npz", "decomposition_plan.json"


class Switches(Protocol):
    """When a training decomposes, and how."""

    @property
    def at_epoch(self) -> int | None:
        """The first epoch (from 0) that trains the decomposed model, if any."""

    def is_decomposed(self, epoch: int) -> bool:
        """Says whether this epoch trains the decomposed model."""

    def plan(self, model: Any) -> Plan:
        """Returns one verdict for each site of the model as it is now."""


class SwitchedTraining:
    """A training whose model is replaced by its decomposed form, and back.

    Attributes:
      model: dense or decomposed.
      plan: of the decomposition, once there was one.
      epoch, stopped: where an interrupted training was; 0 and False else.
    """

    def __init__(
        self,
        model: Any,
        settings: Switches,
        backup: pathlib.Path | None,
        callbacks: Sequence[Any],
    ):
        """Takes up the training where `backup` or a BackupAndRestore has left it.

        Args:
          model: compiled, as it is before the first switch.
          settings: when to switch, and to what.
          backup: a folder for all that a training is; None keeps nothing.
          callbacks: those of the user.

        Raises:
          UserError: the backup is of another model or optimizer.
        """
        self.model = train_on_workers(model)
        self.plan: Plan | None = None
        self.epoch, self.stopped = 0, False
        self._settings, self._decomposed = settings, False
        self._snapshot = backup / _SNAPSHOT if backup is not None else None
        kind = keras.callbacks.BackupAndRestore
        self._folders = [pathlib.Path(c.backup_dir) for c in callbacks if isinstance(c, kind)]
        if self._snapshot is not None and (record := read_record(self._snapshot)):
            self.epoch, self.stopped = record["epoch"], record["stopped"]
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

    def remind(self, relay: CallbackRelay) -> None:
        """Gives the callbacks what they knew where an interrupted training was."""
        if self._snapshot is None or not (record := read_record(self._snapshot)):
            return
        relay.restore_history(record["history"])
        states = record.get("callbacks", [])
        restore_callback_states(relay.callbacks, states, read_extra(self._snapshot))

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
            kept = " / ".join(f"{v.site}: {v.reason}" for v in self.plan.verdicts[:3])
            _LOG.warning("epoch %d: no site is decomposed, the model stays dense (%s)", epoch, kept)
            return
        make = functools.partial(decompose_model, plan=self.plan) if wanted else reconstruct_model
        self.model = make(self.model)
        relay.change_model(self.model)

    def end_of(self, epoch: int, relay: CallbackRelay) -> None:
        """Keeps on disk what a stretch of epochs led to."""
        if self._snapshot is None or not is_chief(self.model):
            return
        states, arrays = callback_states(relay.callbacks)
        record = {
            "epoch": epoch,
            "decomposed": self._decomposed,
            "plan": self.plan and self.plan.to_json(),
            "history": relay.history_records(),
            "stopped": bool(self.model.stop_training),
            "callbacks": states,
        }
        save_snapshot(self._snapshot, self.model, record, arrays)
