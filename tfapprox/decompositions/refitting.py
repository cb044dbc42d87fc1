"""Chains of stages of any structure, fitted to calibration data by alternating least squares."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.calibration.weights import Weight, weighted_norm

_SWEEPS = 2
_STEPS = 12  # of conjugate gradients, each stage and sweep
_ENOUGH = 1e-10  # of the squared gradient at the start


def refit(kernel: np.ndarray, built: Factorization, weight: Weight) -> Factorization:
    """Returns the chain with stages of the same shapes and a smaller ||W - W_hat|| in the weight.

    The composed kernel is linear in each stage: for one stage after the other the normal
    equations are solved by conjugate gradients from where the stage is, which never makes
    the error larger. Orders and groups of channels stay.

    Args:
      kernel: W, [H, W, I, O].
      built: what to start from, e.g. the fit to the kernel alone.
      weight: says what counts.

    References:
      Denton et al. 2014, Section 3.1: undoing a weighting afterwards would destroy the
      structure, so the weighted error is minimised within it.
    """
    chain = dataclasses.replace(
        built,
        stages=tuple(
            dataclasses.replace(stage, kernel=stage.kernel.astype(np.float64))
            for stage in built.stages
        ),
    )
    target = kernel.astype(np.float64)
    for _ in range(_SWEEPS):
        for index in reversed(range(len(chain.stages))):
            chain = _solve(target, chain, index, weight)
    stages = tuple(
        dataclasses.replace(stage, kernel=stage.kernel.astype(kernel.dtype))
        for stage in chain.stages
    )
    done = dataclasses.replace(chain, stages=stages)
    before = weighted_norm(weight, target - built.reconstruct())
    return done if weighted_norm(weight, target - done.reconstruct()) < before else built


def _solve(target: np.ndarray, chain: Factorization, index: int, weight: Weight) -> Factorization:
    """Returns the chain with one stage that is best for the others, or near it."""

    def put(kernel: np.ndarray) -> Factorization:
        stages = list(chain.stages)
        stages[index] = dataclasses.replace(stages[index], kernel=kernel)
        return dataclasses.replace(chain, stages=tuple(stages))

    pull = _adjoint(chain, index, target.shape)
    kernel = chain.stages[index].kernel
    residual = pull(weight.apply(target - put(kernel).reconstruct()))
    direction, size = residual.copy(), float(np.vdot(residual, residual))
    enough = _ENOUGH * size
    for _ in range(_STEPS):
        if size <= enough or size == 0.0:
            break
        image = put(direction).reconstruct()
        weighted = weight.apply(image)
        curvature = float(np.vdot(image, weighted))
        if curvature <= 0:
            break
        step = size / curvature
        kernel = kernel + step * direction
        residual = residual - step * pull(weighted)
        before, size = size, float(np.vdot(residual, residual))
        direction = residual + (size / before) * direction
    return put(kernel)


def _adjoint(
    chain: Factorization, index: int, shape: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the transpose of the map from one stage's kernel to the composed kernel."""
    stage = chain.stages[index]
    before, after = _composed(chain.stages[:index]), _composed(chain.stages[index + 1 :])
    if before is not None and stage.input_order is not None:
        before = before[..., stage.input_order]
    height, width, fan_in, out_channels = stage.kernel.shape
    fan_out = out_channels // stage.groups

    def pull(gradient: np.ndarray) -> np.ndarray:
        if chain.output_order is not None:
            unordered = np.empty_like(gradient)
            unordered[..., chain.output_order] = gradient
            gradient = unordered
        sizes = []
        for axis in (0, 1):
            front = before.shape[axis] if before is not None else 1
            back = after.shape[axis] if after is not None else 1
            sizes += [front, stage.kernel.shape[axis], back]
        # Each spatial axis has its taps in one stage, so the order of the three is free.
        split = gradient.reshape(*sizes, *shape[2:])
        if after is not None:
            split = np.einsum("pkqxlyio,qybo->pkxlib", split, after, optimize=True)
        else:
            split = split[:, :, 0, :, :, 0]
        if before is not None:
            full = np.einsum("pkxlib,pxia->klab", split, before, optimize=True)
        else:
            full = split[0, :, 0]
            if stage.input_order is not None:
                full = full[:, :, stage.input_order]
        blocks = full.reshape(height, width, stage.groups, fan_in, stage.groups, fan_out)
        kept = [blocks[:, :, group, :, group] for group in range(stage.groups)]
        return np.concatenate(kept, axis=-1)

    return pull


def _composed(stages: tuple[Stage, ...]) -> np.ndarray | None:
    """Returns the dense kernel of some stages in a row, None for no stage."""
    if not stages:
        return None
    composed = stages[0].ungrouped()
    for stage in stages[1:]:
        composed = stage.after(composed)
    return composed
