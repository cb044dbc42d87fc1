"""Runs a Keras model with its sites under observation."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_graph import (
    first_argument,
    flavour_of,
    is_graph_model,
    layers_by_path,
    run_graph,
    tree_of,
)
from tfapprox.rewriters.keras_model import rewrite_keras_model

Watch = Callable[[str, str, np.ndarray, Geometry], tuple[np.ndarray, np.ndarray]]
"""See `rewriters.saved_model.observing.Watch`."""

BATCH_SIZE = 32


class KerasProbe:
    """A copy of the model that runs layer by layer and takes watched kernels from a function."""

    def __init__(
        self,
        model: Any,
        sites: Mapping[str, Site],
        watch: Watch,
        unbiased: Collection[str] = (),
    ):
        """Args:
        model: a graph model; it stays as it is.
        sites: those to watch, by name.
        watch: called in every execution of a site.
        unbiased: sites whose offset is not added.
        """
        # At full rank, and with a bias everywhere, which a correction may need.
        dense = {
            name: Factorization(
                (Stage(np.ascontiguousarray(site.kernel)),),
                offset=None if name in unbiased else np.zeros(site.out_channels, site.kernel.dtype),
            )
            for name, site in sites.items()
        }
        self._sites, self._watch = sites, watch
        self._model = rewrite_keras_model(model, dense)
        layers = layers_by_path(self._model)
        self._names = {id(layers[name]): name for name in sites}
        self._biases = {
            name: np.asarray(layers[name].bias) for name in sites if name not in unbiased
        }
        self._kernels: dict[str, np.ndarray] = {n: site.kernel for n, site in sites.items()}
        self._uses = 0

    def run(self, batch: Any) -> list[np.ndarray]:
        """Runs the model on a batch, nested as its inputs are, and returns its outputs."""
        self._uses = 0
        tree = tree_of(flavour_of(self._model))
        inputs = tree.map_structure(tf.convert_to_tensor, batch)
        return [np.asarray(y) for y in tree.flatten(run_graph(self._model, inputs, self._call))]

    def _call(self, layer: Any, args: tuple, kwargs: dict) -> Any:
        if is_graph_model(layer):
            inputs = first_argument(args, kwargs) if args or "inputs" in kwargs else args
            return run_graph(layer, inputs, self._call)
        if id(layer) in self._names:
            self._observe(layer, self._names[id(layer)], first_argument(args, kwargs))
        return layer(*args, **kwargs)

    def _observe(self, layer: Any, name: str, x: Any) -> None:
        site = self._sites[name]
        use = f"{name}#{self._uses}"
        self._uses += 1
        kernel, offset = self._watch(name, use, _common_layout(layer, x, site), site.geometries[0])
        if kernel is not self._kernels[name]:
            layer.kernel.assign(kernel.reshape(layer.kernel.shape))
            self._kernels[name] = kernel
        bias = self._biases.get(name)
        if bias is not None:
            layer.bias.assign(bias + offset.reshape(bias.shape))

    def __enter__(self) -> "KerasProbe":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def batches_of(data: Any) -> Iterable[Any]:
    """Returns calibration data as batches, each time from the start.

    Args:
      data: arrays as `model(inputs)` takes them, cut into batches of 32; or a function
        that returns batches; or an iterable of them that is no generator, such as a
        tf.data.Dataset. Batches are inputs alone, without labels.

    Raises:
      UserError: a generator, which can't be started over.
    """
    if callable(data):
        return _Restarted(data)
    if _is_nest_of_arrays(data):
        count = len(tf.nest.flatten(data)[0])
        starts = range(0, count, BATCH_SIZE)
        return _Restarted(lambda: (_rows(data, start, BATCH_SIZE) for start in starts))
    if not isinstance(data, Iterable) or iter(data) is data:
        raise UserError(
            f"calibration_data is a {type(data).__name__}, which can't be gone through twice: "
            "give arrays, a tf.data.Dataset, or a function that returns batches"
        )
    return data


def head_of(data: Any, examples: int) -> Any:
    """Returns the first examples as one batch."""
    parts, count = [], 0
    for batch in batches_of(data):
        parts.append(batch)
        count += len(tf.nest.flatten(batch)[0])
        if count >= examples:
            break
    if not parts:
        raise UserError("calibration_data holds no example")
    return tf.nest.map_structure(lambda *xs: np.concatenate(xs)[:examples], *parts)


def check_batch(model: Any, batch: Any, name: str) -> None:
    """Refuses a batch that the model does not take, labels beside the inputs above all.

    Args:
      name: of the argument, for the message.

    Raises:
      UserError: with the shapes that were found and those that are wanted.
    """
    found = [tuple(getattr(x, "shape", np.shape(x))) for x in tf.nest.flatten(batch)]
    wanted = [tuple(x.shape) for x in model.inputs]
    known = len(wanted) == 1 or not isinstance(batch, dict)  # a dict has an order of its own
    if len(found) == len(wanted) and (not known or all(map(_admits, wanted, found))):
        return
    labels = " (inputs alone, without labels)" if len(found) > len(wanted) else ""
    raise UserError(
        f"{name}: model {model.name!r} takes shapes {wanted}{labels}, got {found} a batch"
    )


def _admits(wanted: tuple, found: tuple) -> bool:
    if len(found) == len(wanted) - 1 and wanted[-1] == 1:
        wanted = wanted[:-1]  # Keras adds such an axis
    return len(found) == len(wanted) and all(
        a is None or a == b for a, b in zip(wanted[1:], found[1:], strict=True)
    )


class _Restarted:
    def __init__(self, start: Callable[[], Iterable[Any]]):
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return iter(self._start())


def _is_nest_of_arrays(data: Any) -> bool:
    leaves = tf.nest.flatten(data) if isinstance(data, dict | list | tuple) else [data]
    return bool(leaves) and all(hasattr(x, "shape") and hasattr(x, "dtype") for x in leaves)


def _rows(data: Any, start: int, count: int) -> Any:
    return tf.nest.map_structure(lambda x: x[start : start + count], data)


def _common_layout(layer: Any, x: Any, site: Site) -> np.ndarray:
    """Returns a layer's input as [N, height, width, I]."""
    x = np.asarray(x)
    if not hasattr(layer, "strides"):
        return x.reshape(-1, 1, 1, site.in_channels)
    if layer.data_format == "channels_first":
        x = np.moveaxis(x, 1, -1)
    return x if x.ndim == 4 else x[:, None]
