"""Factorize, prune, cluster and quantize one model in turn, and measure after each step.

The order is fixed, because each step keeps what the earlier ones made and would be undone
by them the other way round: the factors of a sparse or clustered kernel are dense and have
all different values; pruning puts zeros where clusters were; eight-bit integers have to
come last, as training goes on in floating point before. See `steps.check_order`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tfapprox.combining.exporting import (
    INPUT,
    LIMIT,
    OUTPUT,
    QUANTIZED_LIMIT,
    export_saved_model,
)
from tfapprox.combining.keras_bridge import to_tf_keras
from tfapprox.combining.kernels import kernel_states, require_clusters, require_sparsity
from tfapprox.combining.optimizing import Examples, cluster, prune, quantize_aware, train_model
from tfapprox.combining.result import CombinedResult, StepResult, disk_bytes, summary
from tfapprox.combining.steps import (
    Cluster,
    Factorize,
    Prune,
    Quantize,
    Step,
    Tuning,
    check_order,
)
from tfapprox.combining.tflite import TfliteModel, convert_tflite
from tfapprox.combining.tfmot_import import load_tfmot
from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.latency import TimingOptions, time_interleaved

Score = Callable[[np.ndarray, np.ndarray], float]
"""Outputs and labels to a number; higher is better."""

_SAMPLE = 32  # examples that compare a SavedModel with its model
_SCORED_AT_ONCE = 256


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of examples whose largest output is the label's."""
    return float(np.mean(np.argmax(outputs, axis=-1) == labels))


@dataclasses.dataclass(frozen=True, eq=False)
class CombineData:
    """What to tune and to judge by.

    Attributes:
      train: what training steps see, and what settles the ranges of integers.
      test: what scores are taken on.
      score: see `Score`.
    """

    train: Examples
    test: Examples
    score: Score = accuracy


def combine(
    model: Any,
    steps: Sequence[Step],
    data: CombineData,
    output_dir: pathlib.Path,
    tuning: Tuning | None = None,
    *,
    batch_size: int = 1,
    timing: TimingOptions | None = None,
) -> tuple[Any, CombinedResult]:
    """Returns the tf_keras model after the last step, and what each step did.

    Each step leaves a folder in `output_dir` with a SavedModel and a TFLite model. Both are
    read back, scored and, all steps in turns, timed; the SavedModel through the C++ loader
    of TF Serving. Training is seeded: TensorFlow's and numpy's global generators are set.

    Args:
      model: Sequential or Functional, of Keras 3 or tf_keras, with one input and one
        output; it stays as it is.
      steps: in the order Factorize, Prune, Cluster, Quantize; any may be left out.
      data: to tune and judge by.
      output_dir: gets a folder a step; must not hold them yet.
      tuning: of the steps that train; by its own defaults when None.
      batch_size: examples a call of the measured latency.
      timing: how long to measure it; by its own defaults when None.

    Raises:
      UserError: TFMOT is missing, the model, the order or the directory does not fit.
      VerificationError: a step lost what it or an earlier one was to bring about, or
        what was written gives other outputs when read back.
    """
    check_order(steps)
    load_tfmot()
    tuning = tuning or Tuning()
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"model {model.name!r} must have one input and one output to be combined")
    current, _ = to_tf_keras(model, data.test.x[:_SAMPLE])
    run = _Run(data, pathlib.Path(output_dir), tuning)
    run.measure("original", current, None)
    for step in steps:
        current, quantization = run.apply(step, current)
        run.measure(step.name, current, quantization)
    results = run.timed(batch_size, timing or TimingOptions())
    settings = {"steps": [_settings(s) for s in steps], "tuning": dataclasses.asdict(tuning)}
    return current, CombinedResult(results, batch_size, settings)


def _settings(step: Step) -> dict[str, Any]:
    return {"step": step.name, **dataclasses.asdict(step)}


class _Run:
    """One call of `combine`: what was done so far, and with what result."""

    def __init__(self, data: CombineData, output_dir: pathlib.Path, tuning: Tuning):
        self._data, self._folder, self._tuning = data, output_dir, tuning
        self._done: list[Step] = []
        self._results: list[StepResult] = []

    def apply(self, step: Step, model: Any) -> tuple[Any, str | None]:
        """Returns the model after the step, and how to quantize its TFLite model."""
        data, tuning, quantization = self._data.train, self._tuning, None
        sparse = any(isinstance(done, Prune) for done in self._done)
        clustered = any(isinstance(done, Cluster) for done in self._done)
        match step:
            case Factorize():
                model = _factorize(model, step, tuning, data)
            case Prune():
                model = prune(model, step, tuning, data)
            case Cluster():
                model = cluster(model, step, tuning, data, sparse)
            case Quantize():
                quantization = step.mode
                if step.mode == "training":
                    model = quantize_aware(model, tuning, data, sparse, clustered)
        self._done.append(step)
        for done in self._done:  # no step may undo an earlier one
            if isinstance(done, Prune):
                require_sparsity(model, done.sparsity, done.exclude)
            elif isinstance(done, Cluster):
                require_clusters(model, done.clusters, done.exclude)
        return model, quantization

    def measure(self, name: str, model: Any, quantization: str | None) -> None:
        """Writes the model, reads it back and keeps what came of it."""
        folder = self._folder / f"{len(self._results)}_{name}"
        if folder.exists():
            raise UserError(f"{folder} is there already: give another output_dir")
        folder.mkdir(parents=True)
        test, train = self._data.test, self._data.train
        limit = QUANTIZED_LIMIT if quantization == "training" else LIMIT
        saved, tflite = folder / "saved_model", folder / "model.tflite"
        export_saved_model(model, saved, test.x[:_SAMPLE], limit)
        tflite.write_bytes(convert_tflite(model, quantization, train.x))
        zeros, distinct = summary(kernel_states(model))
        with CcSession(str(saved)) as session:
            saved_score = self._score(partial(_run_session, session))
        result = StepResult(
            name,
            str(folder),
            sum(int(np.prod(w.shape)) for w in model.trainable_weights),
            zeros,
            distinct,
            *disk_bytes(saved),
            *disk_bytes(tflite),
            score=self._score(lambda x: np.asarray(model(x, training=False))),
            saved_model_score=saved_score,
            tflite_score=self._score(TfliteModel(tflite.read_bytes())),
        )
        self._results.append(result)

    def _score(self, predict: Callable[[np.ndarray], np.ndarray]) -> float:
        x, size = self._data.test.x, _SCORED_AT_ONCE
        outputs = [predict(x[i : i + size]) for i in range(0, len(x), size)]
        return self._data.score(np.concatenate(outputs), self._data.test.y)

    def timed(self, batch_size: int, timing: TimingOptions) -> tuple[StepResult, ...]:
        """Returns the results with the latency of every SavedModel and TFLite model."""
        x = np.resize(self._data.test.x, (batch_size, *self._data.test.x.shape[1:]))
        folders = [pathlib.Path(result.folder) for result in self._results]
        with contextlib.ExitStack() as stack:
            sessions = [
                stack.enter_context(CcSession(str(folder / "saved_model"))) for folder in folders
            ]
            models = [TfliteModel((folder / "model.tflite").read_bytes()) for folder in folders]
            calls: list[Callable[[], object]] = [partial(_run_session, s, x) for s in sessions]
            calls += [partial(model, x) for model in models]
            seconds = np.median(time_interleaved(calls, timing), axis=0)
        saved_ms, tflite_ms = np.split(seconds * 1e3, 2)
        return tuple(
            dataclasses.replace(result, saved_model_ms=float(a), tflite_ms=float(b))
            for result, a, b in zip(self._results, saved_ms, tflite_ms, strict=True)
        )


def _run_session(session: CcSession, x: np.ndarray) -> np.ndarray:
    return session.run({INPUT: x})[OUTPUT]


def _factorize(model: Any, step: Factorize, tuning: Tuning, train: Examples) -> Any:
    from tfapprox.compression.keras_model import compress_model

    factorized, _ = compress_model(model, step.config, inputs=train.x[:_SAMPLE])
    train_model(factorized, tuning, train)
    return factorized
