"""The latency of two SavedModels, measured in a fresh process.

`measure_saved_models` starts `python -m tfapprox.serving.benchmark FOLDER`, which
reads request.json and inputs.npz there and writes answer.json.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession, LoadError, find_signature
from tfapprox.serving.inputs import Inputs, read_inputs, take_batch
from tfapprox.serving.latency import Latency, TimingOptions, compare_latency
from tfapprox.serving.signature import read_signatures

Run = Callable[[Inputs], object]


@dataclasses.dataclass(frozen=True)
class LatencyRequest:
    """Two SavedModels and how to run them.

    Attributes:
      original, compressed: directories with the same signature.
      signature: to run.
      batch_sizes: each is measured.
      tags: of the graph.
      threads: of each of TensorFlow's two pools, or its default.
      options: see `TimingOptions`.
    """

    original: str
    compressed: str
    signature: str = "serving_default"
    batch_sizes: tuple[int, ...] = (1,)
    tags: tuple[str, ...] = ("serve",)
    threads: int | None = None
    options: TimingOptions = TimingOptions()

    def __post_init__(self):
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError(f"batch sizes must be at least 1, got {list(self.batch_sizes)}")
        if self.threads is not None and not 1 <= self.threads <= 127:
            raise UserError(f"threads must be 1 to 127, got {self.threads}")

    @classmethod
    def from_json(cls, body: Mapping) -> "LatencyRequest":
        fields: dict[str, Any] = dict(body)
        fields["batch_sizes"] = tuple(fields["batch_sizes"])
        fields["tags"] = tuple(fields["tags"])
        fields["options"] = TimingOptions(**fields["options"])
        return cls(**fields)


def measure_saved_models(request: LatencyRequest, inputs: Inputs) -> tuple[Latency, ...]:
    """Returns the latency of two SavedModels at each batch size.

    It is measured in a process of its own: TensorFlow fixes the threads within
    operations once for each process, and this one may hold a large model.

    Args:
      request: what to measure.
      inputs: of the signature; batches are cut from them, or repeat them.

    Raises:
      UserError: a model can't be loaded or run, by neither loader.
    """
    with tempfile.TemporaryDirectory(prefix="tfapprox-latency-") as folder:
        stored: dict[str, Any] = storable(inputs)
        np.savez(os.path.join(folder, "inputs.npz"), **stored)
        with open(os.path.join(folder, "request.json"), "w") as file:
            json.dump(dataclasses.asdict(request), file)
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        command = [sys.executable, "-m", "tfapprox.serving.benchmark", folder]
        child = subprocess.run(command, env=environment, capture_output=True, text=True)
        try:
            with open(os.path.join(folder, "answer.json")) as file:
                answer = json.load(file)
        except (OSError, ValueError) as error:
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(
                f"the measuring process ended with {child.returncode}: {last}"
            ) from error
    if "error" in answer:
        raise UserError(answer["error"])
    return tuple(Latency.from_json(body) for body in answer["latency"])


def _storable(array: np.ndarray) -> np.ndarray:
    """Returns the array in a dtype that .npz keeps; `read_inputs` turns it back."""
    if array.dtype.kind == "O":
        texts = [x.encode() if isinstance(x, str) else bytes(x) for x in array.ravel()]
        return np.array(texts, dtype="S").reshape(array.shape)
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)


def _measure(folder: str) -> list[Latency]:
    """Returns what `folder` asks for: the part that runs in the process of its own."""
    with open(os.path.join(folder, "request.json")) as file:
        request = LatencyRequest.from_json(json.load(file))
    paths = (request.original, request.compressed)
    signature, other = (
        find_signature(read_signatures(path, request.tags), request.signature, path)
        for path in paths
    )
    if set(other.inputs) != set(signature.inputs):
        raise UserError(
            f"{request.signature} of {paths[1]} takes inputs {sorted(other.inputs)}, that of "
            f"{paths[0]} {sorted(signature.inputs)}: only models with the same can be compared"
        )
    inputs = read_inputs(os.path.join(folder, "inputs.npz"), signature)
    batches = [take_batch(inputs, signature, size) for size in request.batch_sizes]
    with contextlib.ExitStack() as stack:
        loader, (original, compressed) = _runs(request, paths, batches[0], stack)
        return [
            compare_latency(
                partial(original, batch),
                partial(compressed, batch),
                size,
                request.options,
                threads=request.threads,
                loader=loader,
            )
            for size, batch in zip(request.batch_sizes, batches, strict=True)
        ]


def _runs(
    request: LatencyRequest, paths: Sequence[str], batch: Inputs, stack: contextlib.ExitStack
) -> tuple[str, list[Run]]:
    """Returns the loader's name and a function for each model.

    Both models go through the C++ loader if both can, else both through Python's.
    """
    try:
        sessions = {
            path: stack.enter_context(CcSession(path, request.tags, request.threads))
            for path in dict.fromkeys(paths)  # a model against itself is loaded once
        }
        for session in sessions.values():
            session.run(batch, request.signature)  # some models load but can't run
    except LoadError:
        return "Python", [_python_run(request, path) for path in paths]
    return "C++", [partial(sessions[path].run, signature=request.signature) for path in paths]


def load_one(
    request: LatencyRequest, inputs_path: str, stack: contextlib.ExitStack
) -> Callable[[], object]:
    """Returns a call of the request's original model at its first batch size.

    Raises:
      UserError: the model can't be loaded, or the inputs do not fit it.
    """
    path = request.original
    signature = find_signature(read_signatures(path, request.tags), request.signature, path)
    inputs = read_inputs(inputs_path, signature)
    batch = take_batch(inputs, signature, request.batch_sizes[0])
    _, (run,) = _runs(request, (path,), batch, stack)
    return partial(run, batch)


def storable(inputs: Mapping[str, np.ndarray]) -> Inputs:
    """Returns the inputs in dtypes that .npz keeps; `read_inputs` turns them back."""
    return {key: _storable(np.asarray(array)) for key, array in inputs.items()}


def _python_run(request: LatencyRequest, path: str) -> Run:
    import tensorflow as tf

    if request.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(request.threads)
        tf.config.threading.set_inter_op_parallelism_threads(request.threads)
    try:
        model = tf.saved_model.load(path, list(request.tags))
    except Exception as error:  # TensorFlow raises a dozen kinds here
        raise UserError(f"{path} can't be loaded: {str(error).splitlines()[0]}") from error

    def run(batch: Inputs) -> object:
        # Naming the model keeps its variables alive.
        outputs = model.signatures[request.signature](
            **{key: tf.constant(value) for key, value in batch.items()}
        )
        return {key: value.numpy() for key, value in outputs.items()}

    return run


def _main(folder: str) -> None:
    try:
        answer: dict[str, Any] = {"latency": [latency.to_json() for latency in _measure(folder)]}
    except UserError as error:
        answer = {"error": str(error)}
    with open(os.path.join(folder, "answer.json"), "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    _main(sys.argv[1])
