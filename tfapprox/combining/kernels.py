"""The kernels that pruning, clustering and quantization are about, and what is known of them."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfapprox.errors import VerificationError

# Exact types: what inherits from them (separable, transposed, one's own) TFMOT treats otherwise.
_KINDS = ("Dense", "Conv1D", "Conv2D")


@dataclasses.dataclass(frozen=True)
class KernelState:
    """What pruning and clustering left in one kernel.

    Attributes:
      size: number of entries.
      zeros: how many of them are zero.
      distinct: how many different values there are.
    """

    size: int
    zeros: int
    distinct: int


def kernel_layers(model: Any, exclude: str | None = None) -> Iterator[Any]:
    """Yields the layers with a kernel, out of the wrappers of quantization."""
    for layer in model.layers:
        inner = _inner(layer)
        if type(inner).__name__ in _KINDS and not (exclude and re.search(exclude, inner.name)):
            yield inner


def _inner(layer: Any) -> Any:
    return getattr(layer, "layer", layer)


def kernel_states(model: Any) -> dict[str, KernelState]:
    """Returns what is in each kernel, by layer name."""
    states = {}
    names = {layer.name for layer in kernel_layers(model)}
    for layer in model.layers:
        name = _inner(layer).name
        if name not in names:
            continue
        # In a wrapper, layer.kernel is the rounded tensor; the variable is what training moves.
        kernel = next(w.numpy() for w in layer.trainable_weights if len(w.shape) > 1)
        zeros = kernel.size - np.count_nonzero(kernel)
        states[name] = KernelState(kernel.size, zeros, len(np.unique(kernel)))
    return states


def require_sparsity(model: Any, sparsity: float, exclude: str | None) -> None:
    """Checks that every kernel has its zeros.

    Raises:
      VerificationError: one has too few.
    """
    states = kernel_states(model)
    for layer in kernel_layers(model, exclude):
        state = states[layer.name]
        if state.zeros < sparsity * state.size - 1:  # TFMOT rounds to whole entries
            raise VerificationError(
                f"kernel of {layer.name!r} has {state.zeros / state.size:.1%} zeros, not "
                f"{sparsity:.1%}: the step lost them"
            )


def require_clusters(model: Any, clusters: int, exclude: str | None) -> None:
    """Checks that no kernel has more distinct values than clusters.

    Raises:
      VerificationError: one has more.
    """
    states = kernel_states(model)
    for layer in kernel_layers(model, exclude):
        found = states[layer.name].distinct
        if found > clusters:
            raise VerificationError(
                f"kernel of {layer.name!r} has {found} distinct values, not {clusters}: the step "
                "lost them"
            )
