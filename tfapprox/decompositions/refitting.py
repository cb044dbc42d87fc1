"""Chains of stages of any structure, fitted to calibration data by alternating least squares."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.calibration.weights import Weight, weighted_norm

_SWEEPS = 2
_STEPS = 12  # of conjugate gradients, each stage and sweep
_GAIN = 1e-3  # a step that gains less than this share of the squared error is the last
_RIDGE = 1e-7  # of the mean variance of a last stage's inputs, which may be dependent


def refit(kernel: np.ndarray, built: Factorization, weight: Weight) -> Factorization:
    """Returns the chain with stages of the same shapes and a smaller ||W - W_hat|| in the weight.

    The composed kernel is linear in each stage. A last stage of one tap has a closed form;
    for the others the normal equations are solved by conjugate gradients from where the
    stage is, which never makes the error larger. Orders and groups of channels stay.

    Args:
      kernel: W, [H, W, I, O].
      built: what to start from, e.g. the fit to the kernel alone.
      weight: says what counts.

    References:
      Denton et al. 2014, Section 3.1: undoing a weighting afterwards would destroy the
      structure, so the weighted error is minimised within it.
    """
    stages = [
        dataclasses.replace(stage, kernel=stage.kernel.astype(np.float64)) for stage in built.stages
    ]
    problem = _Problem(kernel.astype(np.float64), weight, built.output_order)
    for _ in range(_SWEEPS):
        for index in reversed(range(len(stages))):
            stages[index] = _best_stage(problem, stages, index)
    fitted = tuple(
        dataclasses.replace(stage, kernel=stage.kernel.astype(kernel.dtype)) for stage in stages
    )
    done = dataclasses.replace(built, stages=fitted)
    before = weighted_norm(weight, problem.target - built.reconstruct())
    return done if weighted_norm(weight, problem.target - done.reconstruct()) < before else built


class _Problem:
    """||W - W_hat||^2 in a weight, for kernels in the order of the last stage's outputs.

    Attributes:
      target: W in the order of the site's outputs, float64 [H, W, I, O].
      moment: [D, D] where the weight is tr(W' M W), or None.
      pulled: the weight's form times W, in the order of the last stage's outputs.
      energy: ||W||^2.
    """

    def __init__(self, kernel: np.ndarray, weight: Weight, order: np.ndarray | None):
        self._weight, self._order = weight, order
        self.target, self.moment = kernel, weight.inputs
        pulled = weight.apply(kernel)
        self.energy = float(np.vdot(kernel, pulled))
        self.pulled = self._by_stage(pulled)

    def apply(self, composed: np.ndarray) -> np.ndarray:
        """Returns the form times a kernel; with a moment, of any number of outputs."""
        if self.moment is not None or self._order is None:
            return self._weight.apply(composed)
        return self._by_stage(self._weight.apply(composed[..., self._order]))

    def _by_stage(self, kernel: np.ndarray) -> np.ndarray:
        if self._order is None:
            return kernel
        sorted_back = np.empty_like(kernel)
        sorted_back[..., self._order] = kernel
        return sorted_back


def _best_stage(problem: _Problem, stages: Sequence[Stage], index: int) -> Stage:
    """Returns the stage that is best for the others, or near it."""
    stage, last = stages[index], index == len(stages) - 1
    if problem.moment is not None and last and index > 0 and stage.kernel.shape[:2] == (1, 1):
        if stage.kernel.shape[2] <= len(problem.moment):
            return _solve_last(problem, stages)
    return _descend(problem, stages, index)


def _solve_last(problem: _Problem, stages: Sequence[Stage]) -> Stage:
    """Returns the last stage [1, 1, R / G, O] that is best, every group by itself.

    With A [D, R] the stages before it and s what it is, the change for a group is
    (A' M A)^-1 A' M (W - A s).
    """
    assert problem.moment is not None
    stage, composed = stages[-1], _composed(stages[:-1])
    assert composed is not None
    missing = problem.pulled - problem.apply(stage.after(composed))
    missing = missing.reshape(len(problem.moment), stage.groups, -1)
    if stage.input_order is not None:
        composed = composed[..., stage.input_order]
    seen = problem.apply(composed).reshape(len(problem.moment), stage.groups, -1)
    composed = composed.reshape(seen.shape)
    changes = []
    for group in range(stage.groups):
        inputs = composed[:, group]
        normal = inputs.T @ seen[:, group]
        size = len(normal)
        normal.flat[:: size + 1] += _RIDGE * np.trace(normal) / size + np.finfo(np.float64).tiny
        changes.append(np.linalg.solve(normal, inputs.T @ missing[:, group]))
    change = np.concatenate(changes, axis=1)
    return dataclasses.replace(stage, kernel=stage.kernel + change)


def _descend(problem: _Problem, stages: Sequence[Stage], index: int) -> Stage:
    """Returns the stage after some steps of conjugate gradients."""
    front, goal, weigh = _cut(problem, stages, index)
    before, stage = _composed(front[:index]), front[index]

    def compose(kernel: np.ndarray) -> np.ndarray:
        put = dataclasses.replace(stage, kernel=kernel)
        composed = put.ungrouped() if before is None else put.after(before)
        for later in front[index + 1 :]:
            composed = later.after(composed)
        return composed

    def pull(gradient: np.ndarray) -> np.ndarray:
        for later in reversed(front[index + 1 :]):
            gradient = _through(later, gradient)
        return _to_kernel(stage, before, gradient)

    kernel = stage.kernel
    composed = compose(kernel)
    missing = goal - weigh(composed)
    error = problem.energy - float(np.vdot(composed, goal + missing))
    residual = pull(missing)
    direction, size = residual, float(np.vdot(residual, residual))
    for _ in range(_STEPS):
        image = compose(direction)
        weighted = weigh(image)
        curvature = float(np.vdot(image, weighted))
        if curvature <= 0:
            break
        step = size / curvature
        kernel = kernel + step * direction
        error -= step * size
        if step * size <= _GAIN * error or error <= 0:
            break
        residual = residual - step * pull(weighted)
        before_size, size = size, float(np.vdot(residual, residual))
        direction = residual + (size / before_size) * direction
    return dataclasses.replace(stage, kernel=kernel)


def _cut(
    problem: _Problem, stages: Sequence[Stage], index: int
) -> tuple[Sequence[Stage], np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Returns the stages up to a waist, and M W V' and A -> M A V V' of what V stands behind it.

    Stages of one tap at the end are a matrix V [R, O]. With R < O it is cheaper to weigh
    A [D, R], the stages before it, than their composition A V. Without a moment or
    a waist, all stages, and the weight's form.
    """
    best = len(stages)
    narrowest = problem.pulled.shape[-1]
    for place in reversed(range(index + 1, len(stages))):
        height, width, fan_in, _ = stages[place].kernel.shape
        if problem.moment is None or (height, width) != (1, 1):
            break
        if fan_in * stages[place].groups < narrowest:
            best, narrowest = place, fan_in * stages[place].groups
    behind = _composed(stages[best:])
    if behind is None:
        return stages, problem.pulled, problem.apply
    mixing = behind[0, 0]
    square = mixing @ mixing.T
    return stages[:best], problem.pulled @ mixing.T, lambda a: problem.apply(a) @ square


def _through(stage: Stage, gradient: np.ndarray) -> np.ndarray:
    """Returns the transpose of `stage.after`, applied to a kernel of what follows."""
    taps_y, taps_x, fan_in, _ = stage.kernel.shape
    split = _split(stage, gradient)
    blocks = stage.kernel.reshape(taps_y * taps_x, fan_in, stage.groups, -1)
    right = blocks.transpose(2, 0, 3, 1).reshape(stage.groups, -1, fan_in)
    height, width, in_channels = gradient.shape[0] // taps_y, gradient.shape[1] // taps_x, -1
    pulled = (split @ right).swapaxes(0, 1)
    pulled = pulled.reshape(height, width, in_channels, fan_in * stage.groups)
    if stage.input_order is None:
        return pulled
    ordered = np.empty_like(pulled)
    ordered[..., stage.input_order] = pulled
    return ordered


def _to_kernel(stage: Stage, before: np.ndarray | None, gradient: np.ndarray) -> np.ndarray:
    """Returns the transpose of composing a stage's kernel with what is before it."""
    taps_y, taps_x, fan_in, out_channels = stage.kernel.shape
    if before is None:
        if stage.input_order is not None:
            gradient = gradient[:, :, stage.input_order]
        blocks = gradient.reshape(taps_y, taps_x, stage.groups, fan_in, stage.groups, -1)
        kept = [blocks[:, :, group, :, group] for group in range(stage.groups)]
        return np.concatenate(kept, axis=-1)
    if stage.input_order is not None:
        before = before[..., stage.input_order]
    left = before.reshape(-1, stage.groups, fan_in).transpose(1, 2, 0)
    blocks = (left @ _split(stage, gradient)).reshape(stage.groups, fan_in, taps_y * taps_x, -1)
    return blocks.transpose(2, 1, 0, 3).reshape(taps_y, taps_x, fan_in, out_channels)


def _split(stage: Stage, gradient: np.ndarray) -> np.ndarray:
    """Returns a kernel [H, W, I, O] as the product that composing made it from.

    Returns:
      [groups, D, taps O / groups], D the taps and inputs of what came before the stage.
    """
    taps_y, taps_x, _, out_channels = stage.kernel.shape
    height, width, in_channels, _ = gradient.shape
    # Each spatial axis has its taps in one stage, so the order of the two is free.
    split = gradient.reshape(
        height // taps_y, taps_y, width // taps_x, taps_x, in_channels, stage.groups, -1
    )
    split = split.transpose(5, 0, 2, 4, 1, 3, 6)
    return split.reshape(stage.groups, -1, taps_y * taps_x * (out_channels // stage.groups))


def _composed(stages: Sequence[Stage]) -> np.ndarray | None:
    """Returns the dense kernel of some stages in a row, None for no stage."""
    if not stages:
        return None
    composed = stages[0].ungrouped()
    for stage in stages[1:]:
        composed = stage.after(composed)
    return composed
