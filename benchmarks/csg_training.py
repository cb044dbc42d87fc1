"""What slice-generated convolutions cost in training, and that they cost nothing in serving.

Training: one step of the plain and of the slice-generated network in turns, so that both see
the same machine; SGD with momentum, random images. Serving: the plain network, the export
with dense kernels and the one folded at load, in turns, run by TensorFlow's C++ loader.

  python -m benchmarks.csg_training --networks resnet56,densenet-bc-40-48 --batch_size 128
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow import keras

from benchmarks.command import make_parser, run, say
from benchmarks.record import Row
from benchmarks.timing import time_in_turns
from experiments.csg_methods import Network, find_network
from experiments.export import export_saved_model
from tfapprox.rewriters.export_slices import export_slices
from tfapprox.rewriters.generate_slices import generate_slices
from tfapprox.serving.cc_loader import CcSession

_SHAPE = (32, 32, 3)


def main() -> int:
    """Measures what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", default="resnet56,densenet-bc-40-48", help="see cifar_csg")
    parser.add_argument("--batch_size", type=int, default=128, help="examples in a training step")
    parser.add_argument("--rounds", type=int, default=5, help="timed training steps")
    parser.add_argument("--requests", type=int, default=50, help="timed requests of one image")
    return run(parser, "csg_training", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for training and two for serving of each network."""
    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    rows = []
    for name in ["resnet20"] if args.quick else args.networks.split(","):
        say(f"csg_training: {name}")
        batch = 16 if args.quick else args.batch_size
        plain, generated = _models(find_network(name))
        rows.append(_training(name, plain, generated, batch, 3 if args.quick else args.rounds))
        rows += _serving(name, plain, generated, args.requests)
    return rows, []


def _models(network: Network) -> tuple[keras.Model, keras.Model]:
    plain = network.build(10, _SHAPE, "relu")
    rewrite = generate_slices(plain, network.slice_shape, network.code_size, network.generated)
    return plain, rewrite.model


def _training(
    name: str, plain: keras.Model, generated: keras.Model, batch: int, rounds: int
) -> Row:
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(batch, *_SHAPE)), tf.float32)
    labels = tf.constant(rng.integers(0, 10, batch))
    steps = {
        kind: _training_step(model, images, labels)
        for kind, model in (("plain", plain), ("generated", generated))
    }
    return _row({"network": name, "what": f"training, batch {batch}"}, steps, "generated", rounds)


def _row(case: dict, calls: Mapping[str, Callable], kind: str, rounds: int) -> Row:
    timings = time_in_turns(calls, rounds, warm_up=2)
    values = {
        "plain, ms": 1e3 * float(np.median(timings.wall["plain"])),
        "overhead by the clock, %": 100 * (1 / timings.speed_up("plain", kind).median - 1),
        "overhead in CPU time, %": 100 * (1 / timings.cpu_speed_up("plain", kind) - 1),
    }
    return Row(case, {"plain over this": timings.speed_up("plain", kind)}, values)


def _training_step(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> Callable:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return lambda: model.train_on_batch(images, labels)


def _serving(name: str, plain: keras.Model, generated: keras.Model, requests: int) -> list[Row]:
    image = np.random.default_rng(1).normal(size=(1, *_SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = pathlib.Path(scratch)
        export_saved_model(plain, folder / "plain", image)
        export_slices(generated, folder / "dense", "dense")
        export_slices(generated, folder / "folded", "folded")
        calls = {}
        for kind in ("plain", "dense", "folded"):
            session = stack.enter_context(CcSession(str(folder / kind)))
            calls[kind] = lambda session=session: session.run({"inputs": image})
        return [
            _row({"network": name, "what": f"serving, {kind} kernels"}, calls, kind, requests)
            for kind in ("dense", "folded")
        ]


if __name__ == "__main__":
    sys.exit(main())
