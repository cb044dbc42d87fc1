"""What the corpus of SavedModels is built with."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]
Builder = Callable[[Path], Arrays]


@dataclasses.dataclass(frozen=True)
class Case:
    """One SavedModel of the corpus.

    Attributes:
      build: writes it to a directory and returns inputs for its default signature.
      sites: how many sites it has.
      precision: dtype that the products are computed in.
      grows: whether a rewrite is allowed to be no smaller (kernels too small, or quantized).
    """

    build: Builder
    sites: int
    precision: str = "float32"
    grows: bool = False


CORPUS: dict[str, Case] = {}


def case(sites: int, **settings) -> Callable[[Builder], Builder]:
    """Registers a builder under its function's name."""

    def register(build: Builder) -> Builder:
        CORPUS[build.__name__] = Case(build, sites, **settings)
        return build

    return register


def weights(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Returns a kernel with a falling spectrum, as trained ones have, of unit-size outputs."""
    generator = np.random.default_rng([seed, *shape])
    fan_in = int(np.prod(shape[:-1]))
    return (generator.standard_normal(shape) / np.sqrt(fan_in)).astype(dtype)


def activations(*shape: int, seed: int = 1, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def export(
    path: Path,
    function: Callable,
    inputs: Arrays,
    tracked: dict | None = None,
    shapes: dict[str, list[int | None]] | None = None,
    **signatures: Callable,
) -> Arrays:
    """Saves a root with one function, called with the inputs by name, as its signature.

    Args:
      tracked: attributes of the root, variables mostly.
      shapes: input shapes of the signature; the arrays' with an open batch by default.
      signatures: more functions of the same inputs.
    """
    root = tf.Module()
    for name, value in (tracked or {}).items():
        setattr(root, name, value)
    shapes = shapes or {key: [None, *value.shape[1:]] for key, value in inputs.items()}
    specs = {key: tf.TensorSpec(shapes[key], inputs[key].dtype, key) for key in inputs}
    root.serve = tf.function(function)
    exported = {"serving_default": root.serve.get_concrete_function(**specs)}
    for name, other in signatures.items():
        setattr(root, name, tf.function(other))
        exported[name] = getattr(root, name).get_concrete_function(**specs)
    tf.saved_model.save(root, str(path), exported)
    return inputs


def variable(*shape: int, seed: int = 0, dtype: type = np.float32, name: str = "w", **settings):
    return tf.Variable(weights(*shape, seed=seed, dtype=dtype), name=name, **settings)
