"""How many MACs of training sampling saves, by the paper's convention."""

import dataclasses
from collections.abc import Sequence

from tfapprox.errors import UserError
from tfapprox.sampling.settings import Sampling


@dataclasses.dataclass(frozen=True)
class LayerCompute:
    """One dense or convolutional layer as the convention sees it.

    Attributes:
      name: as it is called in the model.
      macs: multiply-adds of its forward pass for one example.
      out_channels: units, or filters.
      first: whether it reads the model's input, so that no dX is computed.
      sampling: None when the layer is exact.
      rows: of the layer's input in one example, among all of which dense layers sample
        for dW: the positions of a sequence. Convolutions sample examples.
    """

    name: str
    macs: int
    out_channels: int
    first: bool = False
    sampling: Sampling | None = None
    rows: int = 1


def training_macs(layer: LayerCompute, batch: int, exact: bool = False) -> float:
    """Returns the MACs for one example of forward, dW and dX (no dX for a first layer).

    The forward ratio multiplies all three (mode "forward_only": the forward pass
    alone). Nested backward sampling multiplies dW by max(min_samples, r batch) /
    batch (of a sequence, the batch has a row for each position) and dX by
    max(min_samples, r out) / out. meProp multiplies both by the latter. Sampling itself
    and element-wise operations are not counted.

    References: Adelman and Silberstein, 2018, section 3.3 and section 5.
    """
    sampling = layer.sampling
    forward = weight = inputs = 1.0
    if sampling is not None and not exact:
        forward = sampling.forward_ratio
        if sampling.mode != "forward_only":
            by_example = _backward_share(batch * layer.rows, sampling)
            by_channel = _backward_share(layer.out_channels, sampling)
            weight = forward * (by_channel if sampling.mode == "meprop" else by_example)
            inputs = forward * by_channel
    return layer.macs * (forward + weight + (0.0 if layer.first else inputs))


def compute_reduction(layers: Sequence[LayerCompute], batch: int) -> float:
    """Returns the share of training MACs saved, in [0, 1).

    Args:
      layers: all dense and convolutional layers of the model, exact ones too.
      batch: examples a step.
    """
    exact = sum(training_macs(layer, batch, exact=True) for layer in layers)
    if not exact:
        raise UserError("the model has no dense or convolutional layer to count")
    return 1 - sum(training_macs(layer, batch) for layer in layers) / exact


def _backward_share(size: int, sampling: Sampling) -> float:
    if sampling.backward_ratio == 1:
        return 1.0
    return min(1.0, max(sampling.min_samples, sampling.backward_ratio * size) / size)
