"""What slice-generated convolutions cost in training, and that they cost nothing in serving.

Training: one step of the plain and of the slice-generated network in turns, so that both see
the same machine; SGD with momentum, random images. Serving: the plain network, the export
with dense kernels and the one folded at load, in turns, run by TensorFlow's C++ loader.

  python -m benchmarks.csg_training --networks=resnet56,densenet-bc-40-48 --batch_size=128
"""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from absl import app, flags
from tensorflow import keras

from experiments.csg_methods import Network, find_network
from experiments.export import export_saved_model
from tfapprox.rewriters.export_slices import export_slices
from tfapprox.rewriters.generate_slices import generate_slices
from tfapprox.serving.cc_loader import CcSession

_SHAPE = (32, 32, 3)

_NETWORKS = flags.DEFINE_list("networks", ["resnet56", "densenet-bc-40-48"], "See cifar_csg.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Examples in a training step.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed training steps of each network.")
_SERVING_REPEATS = flags.DEFINE_integer("serving_repeats", 50, "Timed requests of 1 image each.")
_THREADS = flags.DEFINE_integer("threads", 2, "Threads within an operation.")


def measure(network: Network, batch_size: int, repeats: int, serving_repeats: int) -> dict:
    """Returns seconds of training steps and of requests, by kind of model."""
    plain = network.build(10, _SHAPE, "relu")
    rewrite = generate_slices(plain, network.slice_shape, network.code_size, network.generated)
    models = {"plain": plain, "generated": rewrite.model}
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(batch_size, *_SHAPE)), tf.float32)
    labels = tf.constant(rng.integers(0, 10, batch_size))
    steps = {name: _training_step(model, images, labels) for name, model in models.items()}
    return {
        "training": in_turns(steps, repeats),
        "serving": _measure_serving(plain, rewrite.model, serving_repeats),
    }


def _training_step(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> Callable:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return lambda: model.train_on_batch(images, labels)


def _measure_serving(plain: keras.Model, generated: keras.Model, repeats: int) -> dict:
    image = np.random.default_rng(1).normal(size=(1, *_SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        export_saved_model(plain, folder / "plain", image)
        export_slices(generated, folder / "dense", "dense")
        export_slices(generated, folder / "folded", "folded")
        sessions = {kind: CcSession(str(folder / kind)) for kind in ("plain", "dense", "folded")}
        calls = {
            kind: (lambda session=session: session.run({"inputs": image}))
            for kind, session in sessions.items()
        }
        return in_turns(calls, repeats)


def in_turns(calls: Mapping[str, Callable], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each call, and the median ratio to the first in its turn.

    Seconds come by the clock and of this process's CPU, which other processes slow down
    less. Two rounds of warm-up are not counted; `spread` is the interquartile range of the
    ratios.
    """
    rounds = []
    for _ in range(repeats + 2):
        seconds = []
        for call in calls.values():
            start = time.perf_counter(), time.process_time()
            call()
            seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        rounds.append(seconds)
    times = np.array(rounds[2:])
    ratios = times / times[:, :1]
    low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
    result = {}
    for index, name in enumerate(calls):
        for kind, label in enumerate(("clock", "cpu")):
            result[f"{name}_{label}_seconds"] = float(np.median(times[:, index, kind]))
            result[f"{name}_{label}_ratio"] = float(middle[index, kind])
            result[f"{name}_{label}_spread"] = float(high[index, kind] - low[index, kind])
    return result


def main(argv: list[str]) -> None:
    """Measures the networks asked for and prints JSON."""
    del argv
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    results: dict = {"threads": _THREADS.value, "load": os.getloadavg()[0]}
    for name in _NETWORKS.value:
        results[name] = measure(
            find_network(name), _BATCH.value, _REPEATS.value, _SERVING_REPEATS.value
        )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    app.run(main)
