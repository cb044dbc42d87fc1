"""A callback that finds the cheapest sampling ratio whose extra gradient noise stays small."""

import dataclasses
from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.training.looking import only_looking, raw
from tfapprox.training.sampling_schedules import sampled_layers, set_ratios


@dataclasses.dataclass(frozen=True)
class VarianceControl:
    """Settings of the control loop.

    Attributes:
      tau: share of the mini-batch's own gradient variance that sampling may add.
      every: steps between measurements.
      step: how far a ratio moves each time; also the grid it moves on.
      floor: least ratio.
    """

    tau: float = 0.025
    every: int = 100
    step: float = 0.1
    floor: float = 0.1

    def __post_init__(self):
        if self.tau <= 0 or self.every < 1 or not 0 < self.step <= 1 or not 0 < self.floor <= 1:
            raise UserError(f"tau, every, step and floor must be positive, got {self}")


class VarianceControlledSampling(keras.callbacks.Callback):
    """Moves each sampled layer's forward ratio so that sampling adds little gradient noise.

    Every F steps, for each sampled layer's kernel gradient g on two batches a, b:
    noise of the mini-batch v = ||g(a) - g(b)||^2 / 2, error of sampling
    e = ||g_sampled(a) - g(a)||^2. The ratio rises by one step when e > tau v, and
    falls by one when e < tau v / 2.

    Args:
      batches: two or more batches (x, y) to measure on, in the order of training.
      control: see `VarianceControl`.

    Raises:
      UserError: fewer than two batches, or no sampled layer.

    References: Wang et al., "Efficient Backpropagation with Variance-Controlled
      Adaptive Sampling" (VCAS), ICLR 2024, algorithm 1. They compare two sampled
      draws; we compare with the exact gradient, which also sees the bias of plain
      top-k sums and equals their measure for unbiased estimates.
    """

    def __init__(self, batches: Any, control: VarianceControl | None = None):
        super().__init__()
        self._batches = list(batches)
        self._control = control or VarianceControl()
        self._step = 0
        self.history: list[dict[str, float]] = []
        if len(self._batches) < 2:
            raise UserError(f"variance control needs two batches, got {len(self._batches)}")
        if not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in self._batches):
            raise UserError("variance control needs batches (x, y), e.g. [(x1, y1), (x2, y2)]")

    def on_train_begin(self, logs: Any = None) -> None:
        if not sampled_layers(self.model):
            raise UserError(f"model {self.model.name!r} has no sampled layer to control")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        if self._step % self._control.every == 0:
            self._adjust()

    def _adjust(self) -> None:
        layers = sampled_layers(self.model)
        first = (self._step // self._control.every) % len(self._batches)
        here, there = self._batches[first], self._batches[first - 1]
        sampled = self._gradients(layers, here)
        settings = [layer.sampling for layer in layers]
        exact_settings = [
            dataclasses.replace(s, forward_ratio=1.0, backward_ratio=1.0, threshold=None)
            for s in settings
        ]
        try:
            for layer, exact in zip(layers, exact_settings, strict=True):
                layer.sampling = exact
            exact, other = self._gradients(layers, here), self._gradients(layers, there)
        finally:
            for layer, setting in zip(layers, settings, strict=True):
                layer.sampling = setting
        ratios, record = {}, {"step": float(self._step)}
        for i, layer in enumerate(layers):
            noise = float(tf.reduce_sum((exact[i] - other[i]) ** 2)) / 2
            error = float(tf.reduce_sum((sampled[i] - exact[i]) ** 2))
            ratios[layer] = self._move(layer.sampling.forward_ratio, error, noise)
            record[layer.name] = ratios[layer]
        set_ratios(self.model, ratios)
        self.history.append(record)

    def _move(self, ratio: float, error: float, noise: float) -> float:
        control = self._control
        if error > control.tau * noise:
            return min(1.0, round(ratio + control.step, 6))
        if error < control.tau * noise / 2:
            return max(control.floor, round(ratio - control.step, 6))
        return ratio

    def _gradients(self, layers: list[Any], batch: Any) -> list[tf.Tensor]:
        """Returns kernel gradients of one batch with the layers' current settings.

        Each time it starts from the same seeds and states, so that dropout drops the same.
        """
        x, y = batch
        kernels = [raw(layer.kernel) for layer in layers]
        with only_looking(self.model), tf.GradientTape() as tape:
            loss = self.model.compute_loss(x, y, self.model(x, training=True))
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, kernels)]
