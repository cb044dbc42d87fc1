"""Replaces a SavedModel's convolution kernels by codes and one slice generator, folded at load.

Nothing is trained and no data are needed: the generator is the best linear one for all
chosen kernels together. The model computes as many products as before; it is smaller on
disk and on its way there. Python's loader reads the model and writes it again, so only what
TensorFlow 2 can save survives: signatures, public functions, variables, tables and assets.
"""

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.accounting.site import Site
from tfapprox.decompositions.slice_generator import (
    SliceFit,
    SliceShape,
    code_size_for_error,
    code_size_within,
    fit_generator,
)
from tfapprox.errors import UserError, VerificationError
from tfapprox.ops.slice_generation import generate_kernel
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.folded_kernel import FoldedKernel
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.verify import verify_saved_model
from tfapprox.selection.problem import Budget
from tfapprox.serving.inputs import Inputs

_TRACKED = (tf.Variable, tf.saved_model.experimental.TrackableResource, tf.saved_model.Asset)


@dataclasses.dataclass(frozen=True)
class SavedModelSlices:
    """What became of a SavedModel.

    Attributes:
      slice_shape, code_size: of the generator.
      errors: site of each replaced kernel -> relative Frobenius error.
      kept: every other convolution -> why its kernel is as it was.
      bytes_before, bytes_after: of the directories on disk.
      verification: of the result against the source, in both loaders.
    """

    slice_shape: tuple[int, int, int, int]
    code_size: int
    errors: Mapping[str, float]
    kept: Mapping[str, str]
    bytes_before: int
    bytes_after: int
    verification: Verification

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def generate_saved_model_slices(
    source: str | Path,
    destination: str | Path,
    code_size: int | Budget,
    slice_shape: Sequence[int] | None = None,
    which: str | None = None,
    *,
    tags: Sequence[str] = ("serve",),
    inputs: Inputs | None = None,
    overwrite: bool = False,
) -> SavedModelSlices:
    """Writes a SavedModel whose chosen kernels are generated once, at load.

    Args:
      source: SavedModel directory; only read.
      destination: put in place once it is complete and verified.
      code_size: n_c; or a budget: a share of the model's parameters, or an error that
        no kernel may exceed.
      slice_shape: out, in, height, width of a slice; by default 16 x 16 channels and
        3x3 taps, or 1x1 where no chosen kernel has more.
      which: regular expression searched in site names; by default every convolution
        but the first.
      tags: of the graph.
      inputs: to compare both models on; made up when None.
      overwrite: replace a SavedModel that is at `destination`.

    Raises:
      UserError: bad source or destination, or no kernel that can be generated.
      VerificationError: the result, read back, is not what it should be.
    """
    source, destination = Path(source), Path(destination)
    check_target(destination, source, overwrite)
    inspection = open_saved_model(str(source), tags).inspection
    sites, kept = _choose(inspection.sites, which)
    loaded = tf.saved_model.load(str(source), tags=list(tags))
    variables = _variables_of(loaded, sites, kept)
    if not variables:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        raise UserError(f"{source} has no kernel to generate: {reasons or 'no convolution'}")
    kernels = [sites[name].kernel for name in variables]
    shape = SliceShape(*slice_shape) if slice_shape else _usual_shape(kernels)
    size = _code_size(code_size, kernels, shape, inspection.params)
    fit = fit_generator(kernels, shape, size)
    module = _generated_module(loaded, sites, variables, fit)
    with staged(destination) as staging:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(staging), dict(loaded.signatures), options)
        if (source / "assets.extra").is_dir():
            shutil.copytree(source / "assets.extra", staging / "assets.extra")
        verification = verify_saved_model(str(staging), str(source), inputs, tags=tags)
        if not verification.passed:
            raise VerificationError(
                "the generated model failed its verification, nothing was written: "
                + "; ".join(verification.failures)
            )
    verification = dataclasses.replace(verification, candidate=str(destination))
    return SavedModelSlices(
        (shape.out_channels, shape.in_channels, shape.height, shape.width),
        size,
        dict(zip(variables, fit.errors, strict=True)),
        kept,
        _disk_bytes(source),
        _disk_bytes(destination),
        verification,
    )


def _usual_shape(kernels: Sequence[np.ndarray]) -> SliceShape:
    taps = 1 if all(kernel.shape[:2] == (1, 1) for kernel in kernels) else 3
    return SliceShape(16, 16, taps, taps)


def _code_size(
    wanted: int | Budget, kernels: Sequence[np.ndarray], shape: SliceShape, params: int
) -> int:
    if isinstance(wanted, int):
        return wanted
    if wanted.max_error is not None:
        return code_size_for_error(kernels, shape, wanted.max_error)
    if wanted.kind != "params" or wanted.keep is None:
        raise UserError(
            "a slice generator saves parameters, no multiply-adds: give a share of the "
            "parameters (--keep_params) or an error (--max_error)"
        )
    others = params - sum(kernel.size for kernel in kernels)
    return code_size_within(kernels, shape, wanted.keep * params - others)


def _choose(sites: Sequence[Site], which: str | None) -> tuple[dict[str, Site], dict[str, str]]:
    chosen, kept = {}, {}
    convolutions = [site for site in sites if site.kind in ("conv1d", "conv2d")]
    for index, site in enumerate(convolutions):
        if which is None and index == 0:
            kept[site.name] = "the first convolution"
        elif which is not None and not re.search(which, site.name):
            kept[site.name] = f"not chosen by {which!r}"
        else:
            chosen[site.name] = site
    return chosen, kept


def _variables_of(
    loaded: Any, sites: dict[str, Site], kept: dict[str, str]
) -> dict[str, list[tf.Variable]]:
    """Returns site -> its kernel, in all its copies; others are moved to `kept`.

    Keras's `export` stores each weight twice; any copy may be the one that is read.
    """
    variables = [x for x in _tracked(loaded) if isinstance(x, tf.Variable)]
    by_size: dict[int, list[tf.Variable]] = {}
    for variable in variables:
        by_size.setdefault(int(np.prod(variable.shape)), []).append(variable)
    found: dict[str, list[tf.Variable]] = {}
    taken: set[Any] = set()
    for name, site in list(sites.items()):
        matches = [v for v in by_size.get(site.kernel.size, []) if _is_kernel(v, site.kernel)]
        if matches and not taken & {v.ref() for v in matches}:
            found[name] = matches
            taken |= {v.ref() for v in matches}
        else:
            kept[name] = "another kernel equals it" if matches else "its kernel is no variable"
            del sites[name]
    return found


def _is_kernel(variable: tf.Variable, kernel: np.ndarray) -> bool:
    sizes = [size for size in variable.shape if size > 1]
    if sizes != [size for size in kernel.shape if size > 1]:
        return False
    return np.array_equal(variable.numpy().reshape(kernel.shape), kernel)


def _generated_module(
    loaded: Any,
    sites: Mapping[str, Site],
    variables: Mapping[str, list[tf.Variable]],
    fit: SliceFit,
) -> tf.Module:
    """Returns what is saved: the loaded functions, on generated kernels."""
    module = tf.Module()
    dtype = next(iter(variables.values()))[0].dtype
    module.generator = tf.Variable(fit.generator, dtype=dtype, name="generator")
    module.codes = {}
    module.kernels = {}
    stand_ins: dict[int, FoldedKernel] = {}
    for (name, copies), codes in zip(variables.items(), fit.codes, strict=True):
        module.codes[name] = tf.Variable(codes, dtype=copies[0].dtype, name="codes")
        module.kernels[name] = folded = _folded(
            module.codes[name], module.generator, copies[0], sites[name].kernel.shape
        )
        stand_ins |= {id(copy.handle): folded for copy in copies}
    functions = dict(_public_functions(loaded))
    concrete = {id(f): f for f in _concrete(loaded, functions)}.values()
    read = {id(x) for f in concrete for x in f.captured_inputs} - set(stand_ins)
    module.kept = [
        x for x in _tracked(loaded) if not isinstance(x, tf.Variable) or id(x.handle) in read
    ]
    for function in concrete:
        function.set_external_captures(
            [
                stand_ins[id(x)].resource_handle if id(x) in stand_ins else x
                for x in function.captured_inputs
            ]
        )
    for name, function in functions.items():
        setattr(module, name, function)
    return module


def _folded(
    codes: tf.Variable, generator: tf.Variable, kernel: tf.Variable, shape: tuple[int, ...]
) -> FoldedKernel:
    def compute() -> tf.Tensor:
        slices = tf.cast(generator, codes.dtype)
        return tf.reshape(generate_kernel(codes, slices, shape), kernel.shape)

    folded = FoldedKernel(compute, tuple(kernel.shape), kernel.dtype)
    folded.initialize()
    return folded


def _tracked(loaded: Any) -> list[Any]:
    """Returns variables, tables and assets that the model holds, each once."""
    found = tf.train.TrackableView(loaded).descendants()
    return [x for x in found if isinstance(x, _TRACKED) or hasattr(x, "resource_handle")]


def _public_functions(loaded: Any) -> list[tuple[str, Any]]:
    children = tf.train.TrackableView(loaded).children(loaded)
    return [(name, x) for name, x in children.items() if hasattr(x, "concrete_functions")]


def _concrete(loaded: Any, functions: Mapping[str, Any]) -> list[Any]:
    public = [f for function in functions.values() for f in function.concrete_functions]
    return [*loaded.signatures.values(), *public]


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
