"""Trains a model's factors to give the original's outputs: no labels needed.

References: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural
Network", section 2 (soft targets, here at temperature 1, and without labels).
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.serving.inputs import Inputs
from tfapprox.training.adam import Adam
from tfapprox.training.distillation_config import Distillation, DistillationConfig
from tfapprox.training.distillation_state import DistillationState, RunFolder
from tfapprox.training.output_loss import Outputs, choose_losses, relative_error

Student = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Runs the model on {input key: tensor}; returns {output key: tensor}."""

_HELD_BACK = 0.2
_EVALUATIONS = 12
_SAVE_SECONDS = 30.0
_MEMORY_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One batch: what goes in, and what the original makes of it."""

    inputs: Inputs
    targets: Outputs


def distill(
    student: Student,
    variables: Mapping[str, tf.Variable],
    data: Sequence[Example],
    config: DistillationConfig,
    folder: RunFolder | None = None,
    progress: Progress = no_progress,
) -> Distillation:
    """Trains variables until the student's outputs are as near to the targets as they get.

    Now and then the student is judged on batches that are held back from the training; in
    the end the variables hold the values that were best there, by the loss, without a
    larger relative error: never worse than they came.

    Args:
      student: differentiable in the variables.
      variables: by a name that stays the same from run to run; changed in place. Made,
        like the student, in the scope of `config`'s strategy.
      data: at least two batches.
      config: see `DistillationConfig`.
      folder: keeps the state of the run; a run that was killed goes on there, exactly.
      progress: told of every step.

    Raises:
      UserError: too few batches, outputs that can't be matched, or no gradient.
    """
    run = _Run(student, variables, data, config)
    state = DistillationState.fresh(run.values(), run.adam.values())
    if folder is not None:
        state = folder.load(run.identity(), state)
    if state.step:
        run.assign(state)
    else:
        state = run.judge(state)
    saved = time.monotonic()
    every = max(1, config.steps // _EVALUATIONS)
    while state.step < config.steps and not state.stopped:
        progress("distilling", state.step, config.steps)
        stopped = not np.isfinite(run.train(state.step))
        state = dataclasses.replace(state, step=state.step + 1, stopped=stopped)
        if state.step % every == 0 or state.step == config.steps:
            state = run.judge(state)
        if folder is not None and (
            time.monotonic() - saved > _SAVE_SECONDS or state.step == config.steps
        ):
            folder.save(run.identity(), run.snapshot(state))
            saved = time.monotonic()
    progress("distilling", config.steps, config.steps)
    return run.finish(state)


def held_back(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Returns which of `count` batches are trained on, and which are held back."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(count)]
    held = max(1, round(_HELD_BACK * count))
    return sorted(order[held:]), sorted(order[:held])


class _Run:
    """One training: the student, its data, its optimizer."""

    def __init__(
        self,
        student: Student,
        variables: Mapping[str, tf.Variable],
        data: Sequence[Example],
        config: DistillationConfig,
    ):
        if len(data) < 2:
            raise UserError(
                "distillation trains on some batches and judges by others, and the calibration "
                "data make up but one: give more, or a smaller batch size"
            )
        self._student, self._config = student, config
        self._names = sorted(variables)
        self._variables = [variables[name] for name in self._names]
        trained, judged = held_back(len(data), config.seed)
        self._trained, self._judged = [data[i] for i in trained], [data[i] for i in judged]
        self._losses = choose_losses([batch.targets for batch in self._trained])
        choose_losses([batch.targets for batch in self._judged])  # finite too?
        self._strategy = tf.distribute.get_strategy()
        self.adam = Adam(self._variables)
        self._start = _digest(self.values(), *(batch.inputs for batch in data))
        self._step = tf.function(self._train_step, reduce_retracing=True, autograph=False)
        self._forward = tf.function(self._outputs, reduce_retracing=True, autograph=False)

    def identity(self) -> dict[str, Any]:
        """Returns what must be the same for a run to go on."""
        shapes = {n: list(v.shape) for n, v in zip(self._names, self._variables, strict=True)}
        return {"config": dataclasses.asdict(self._config), "variables": shapes,
                "batches": [len(self._trained), len(self._judged)],
                "start and data": self._start,
                "losses": [dataclasses.asdict(loss) for loss in self._losses]}  # fmt: skip

    def values(self) -> dict[str, np.ndarray]:
        return {n: v.numpy() for n, v in zip(self._names, self._variables, strict=True)}

    def assign(self, state: DistillationState) -> None:
        for name, variable in zip(self._names, self._variables, strict=True):
            variable.assign(state.values[name])
        self.adam.assign(state.moments)

    def snapshot(self, state: DistillationState) -> DistillationState:
        return dataclasses.replace(state, values=self.values(), moments=self.adam.values())

    def train(self, step: int) -> float:
        """Takes one step; returns the loss before it."""
        epoch, place = divmod(step, len(self._trained))
        order = np.random.default_rng([self._config.seed, epoch]).permutation(len(self._trained))
        batch = self._trained[order[place]]
        rate = tf.constant(self._config.rate(step), tf.float32)
        count = tf.constant(step + 1, tf.float32)
        return float(self._step(_tensors(batch.inputs), self._wanted(batch), rate, count))

    def _wanted(self, batch: Example) -> dict[str, tf.Tensor]:
        return {loss.key: tf.constant(batch.targets[loss.key]) for loss in self._losses}

    def _train_step(self, inputs: Any, targets: Any, rate: tf.Tensor, count: tf.Tensor) -> Any:
        loss, gradients = self._strategy.run(self._gradients, args=(inputs, targets))
        loss, gradients = (
            tf.nest.map_structure(
                lambda x: self._strategy.reduce(tf.distribute.ReduceOp.MEAN, x, axis=None), part
            )
            for part in (loss, gradients)
        )
        finite = tf.math.is_finite(loss)
        self.adam.apply(gradients, tf.where(finite, rate, 0.0), count)
        return loss

    def _outputs(self, inputs: Any) -> Any:
        """Returns the outputs of a whole batch, as the first replica has them."""
        outputs = self._strategy.run(self._student, args=(inputs,))
        return {k: self._strategy.experimental_local_results(v)[0] for k, v in outputs.items()}

    def _gradients(self, inputs: Any, targets: Any) -> tuple[Any, list[Any]]:
        """Returns loss and gradients of this replica's share of a batch."""
        inputs, targets = _share(inputs), _share(targets)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            outputs = self._student(inputs)
            loss = tf.add_n([loss(outputs[loss.key], targets[loss.key]) for loss in self._losses])
        gradients = tape.gradient(loss, self._variables)
        if all(gradient is None for gradient in gradients):
            raise UserError("no gradient of the outputs reaches any factor, so none can be trained")
        pairs = zip(gradients, self._variables, strict=True)
        return loss, [tf.zeros_like(v) if g is None else tf.convert_to_tensor(g) for g, v in pairs]

    def judge(self, state: DistillationState) -> DistillationState:
        """Returns the state with the values of now as the best ones, if they are."""
        targets = [batch.targets for batch in self._judged]
        outputs = [
            {k: np.asarray(v) for k, v in self._forward(_tensors(batch.inputs)).items()}
            for batch in self._judged
        ]
        pairs = list(zip(outputs, targets, strict=True))
        loss = sum(
            float(np.mean([one(y[one.key], t[one.key]) for y, t in pairs])) for one in self._losses
        )
        error = max(relative_error(one.key, outputs, targets) for one in self._losses)
        record = {"step": state.step, "loss": loss, "error": error}
        history = (*state.history, record)
        if state.history:
            best, first = state.best, state.history[0]
            if not (loss < best["loss"] and error <= first["error"]):
                return dataclasses.replace(state, history=history)
        return dataclasses.replace(state, history=history, best=record, best_values=self.values())

    def finish(self, state: DistillationState) -> Distillation:
        """Gives the variables their best values."""
        for name, variable in zip(self._names, self._variables, strict=True):
            variable.assign(state.best_values[name])
        notes = []
        if state.stopped:
            notes.append(
                f"the loss was not finite at step {state.step}, where the training ended: try a "
                "smaller learning rate"
            )
        if not state.best["step"]:
            notes.append(
                "training did not bring the outputs nearer to the original's on the batches held "
                "back, so the factors are the untrained ones: try more data or a smaller rate"
            )
        first, best = state.history[0], state.best
        return Distillation(
            state.step, int(best["step"]), first["loss"], best["loss"], first["error"],
            best["error"], len(self._trained), len(self._judged), tuple(notes),
        )  # fmt: skip


def collect_examples(
    batches: Any, run: Callable[[Inputs], Outputs], progress: Progress = no_progress
) -> tuple[list[Example], str]:
    """Returns batches with the original's outputs, and a note when memory limits their number."""
    found: list[Example] = []
    size = 0
    for number, batch in enumerate(batches):
        progress("running the original", number, 0)
        example = Example(batch, run(batch))
        size += sum(a.nbytes for part in (example.inputs, example.targets) for a in part.values())
        found.append(example)
        if size > _MEMORY_BYTES:
            return found, f"distillation used the first {len(found)} batches, a GiB with outputs"
    return found, ""


def halves(data: Sequence[Example], keys: Iterable[str]) -> list[Example]:
    """Returns a lone batch as two, a larger to train on, if its examples can be told apart.

    Args:
      data: batches; more than one stay as they are.
      keys: of inputs whose first axis counts examples.
    """
    if len(data) != 1:
        return list(data)
    (whole,), keys = data, set(keys)
    count = min((len(whole.inputs[key]) for key in keys), default=0)
    if count < 2 or any(t.ndim == 0 or len(t) != count for t in whole.targets.values()):
        return [whole]
    cut = count - max(1, count // 5)

    def part(rows: slice) -> Example:
        inputs = {k: v[rows] if k in keys else v for k, v in whole.inputs.items()}
        return Example(inputs, {k: v[rows] for k, v in whole.targets.items()})

    return [part(slice(cut)), part(slice(cut, count))]


def _digest(*groups: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        for name in sorted(group):
            array = np.asarray(group[name])
            content = str(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + content)
    return digest.hexdigest()


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {key: tf.constant(value) for key, value in arrays.items()}


def _share(tensors: dict[str, Any]) -> dict[str, Any]:
    """Returns this replica's rows of every tensor; rows that do not divide are left out."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return tensors
    place = context.replica_id_in_sync_group

    def rows(x: Any) -> Any:
        size = tf.shape(x)[0] // replicas
        return x[place * size : (place + 1) * size]

    return {key: rows(x) if x.shape.rank else x for key, x in tensors.items()}
