"""Saves a slice-generated model for serving: with dense kernels, or folded at load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.layers.slice_generated_conv2d import SliceGeneratedConv2D
from tfapprox.rewriters.folded_kernel import FoldedKernel
from tfapprox.rewriters.generate_slices import generator_of, strip_slices
from tfapprox.rewriters.keras_graph import (
    first_argument,
    flavour_of,
    layers_by_path,
    run_graph,
    tree_of,
)
from tfapprox.rewriters.publish import staged

Kernels = Literal["dense", "folded"]


def export_slices(model: Any, directory: str | Path, kernels: Kernels = "folded") -> int:
    """Writes a SavedModel with the signature serving_default; returns its bytes on disk.

    Args:
      model: with slice-generated convolutions, of one input and one output. The
        signature calls them "inputs" and "outputs", for a batch of any size.
      directory: replaced as a whole, or left as it was if anything fails.
      kernels: "dense" stores every kernel. "folded" stores codes and generators, a
        binary generator a byte an entry, and multiplies them out once at load; both
        compute the same and run equally fast.

    Raises:
      UserError: several inputs or outputs, an unknown value of `kernels`, or no
        slice-generated convolution.
    """
    if kernels not in ("dense", "folded"):
        raise UserError(f"kernels must be dense or folded, got {kernels!r}")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"model {model.name!r} must have one input and one output to be exported")
    module = tf.Module()
    if kernels == "dense":
        plain = strip_slices(model)
        module.variables_used = _raw_variables(plain)
        _save(module, model, lambda x: plain(x, training=False), directory)
    else:
        module.variables_used = _raw_variables(model)
        module.kernels = folded = _folded_kernels(model)
        by_id = {id(layers_by_path(model)[path]): kernel for path, kernel in folded.items()}
        _save(module, model, lambda x: _run_folded(model, x, by_id), directory)
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def _raw_variables(model: Any) -> list[tf.Variable]:
    """Returns TensorFlow's variables, each once: the C++ loader knows no other."""
    return [v if isinstance(v, tf.Variable) else v.value for v in model.variables]


def _folded_kernels(model: Any) -> dict[str, FoldedKernel]:
    layers = layers_by_path(model)
    found = {p: layer for p, layer in layers.items() if isinstance(layer, SliceGeneratedConv2D)}
    if not found:
        raise UserError(f"model {model.name!r} has no slice-generated convolution")
    return {
        path: _folded_kernel(layer, generator_of(model, layer)) for path, layer in found.items()
    }


def _folded_kernel(layer: SliceGeneratedConv2D, generator: Any) -> FoldedKernel:
    def compute() -> tf.Tensor:
        return layer.generated_kernel(generator(tf.zeros((1, 1))))

    return FoldedKernel(compute, layer.kernel_shape, tf.as_dtype(layer.compute_dtype))


def _run_folded(model: Any, inputs: tf.Tensor, kernels: dict[int, FoldedKernel]) -> tf.Tensor:
    known = flavour_of(model).layers.Layer

    def call(layer: Any, args: tuple, kwargs: dict) -> Any:
        if id(layer) in kernels:
            x, _ = first_argument(args, kwargs)
            return layer.apply_kernel(x, kernels[id(layer)].read())
        if isinstance(layer, known) and layer._call_has_training_arg:
            kwargs["training"] = False
        return layer(*args, **kwargs)

    return tree_of(flavour_of(model)).flatten(run_graph(model, inputs, call))[0]


def _save(
    module: tf.Module, model: Any, function: Callable[[tf.Tensor], tf.Tensor], directory: str | Path
) -> None:
    (symbol,) = model.inputs
    spec = tf.TensorSpec((None, *symbol.shape[1:]), symbol.dtype, name="inputs")

    @tf.function(input_signature=[spec])
    def serve(inputs):
        return {"outputs": tree_of(flavour_of(model)).flatten(function(inputs))[0]}

    module.serve = serve
    with staged(Path(directory)) as folder:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
