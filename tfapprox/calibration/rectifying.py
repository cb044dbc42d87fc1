"""Fits of a site to what a ReLU behind it lets through.

Below zero any output will do, so a fit of the rectified responses has more freedom than
one of the outputs themselves. With z a guess of what the outputs might be instead,

  min over A, z of  ||r(y) - r(z)||^2 + lambda ||z - x' A||^2,  r(y) = min(max(s y + t, 0), top),

is solved in turns: z entry by entry in closed form, A by the reduced-rank regression of z.
As lambda rises, z and x' A become one.

References:
  Zhang et al.: Accelerating Very Deep Convolutional Networks for Classification and
  Detection, 2016, Section 3.2 (nonlinear case) and 3.3 (asymmetric reconstruction). We
  depart in the structure of A, which is the plan's whatever it is, in the scale and shift
  of a batch normalization between, and in keeping what did best by the responses.
"""

import dataclasses

import numpy as np

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.calibration.regression import Fit, Regression

_LAMBDAS = tuple(np.geomspace(1e-3, 1.0, 16).tolist())
_LEAST_SCALE = 1e-3  # of the root mean square: below, a channel is taken for silent


@dataclasses.dataclass(frozen=True, eq=False)
class Rectifier:
    """What follows a site's output y, channel by channel: min(max(scale y + shift, 0), top).

    Attributes:
      scale, shift: [O], of bias and normalization.
      top: infinite, or 6 for ReLU6.
    """

    scale: np.ndarray
    shift: np.ndarray
    top: float = np.inf

    def respond(self, outputs: np.ndarray) -> np.ndarray:
        """Returns the responses to outputs [n, O]."""
        return np.clip(outputs * self.scale + self.shift, 0.0, self.top).astype(outputs.dtype)

    def agrees_with(self, other: "Rectifier") -> bool:
        """Says whether the other one does the same."""
        same = np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)
        return same and self.top == other.top


def fit_rectified(
    site: Site,
    regression: Regression,
    targets: np.ndarray,
    fit: Fit,
    rectifier: Rectifier,
    linear: tuple[Factorization, np.ndarray],
) -> tuple[Factorization, np.ndarray]:
    """Returns the fit whose responses are nearest to those of the targets, and its outputs.

    Args:
      site: whose kernel is fitted.
      regression: on the rows that come in.
      targets: y, [n, O].
      fit: see `Fit`.
      rectifier: what follows.
      linear: the fit of the outputs themselves, to start from and to do better than.
    """
    wanted = rectifier.respond(targets)
    scale = _invertible(rectifier.scale).astype(targets.dtype)
    shift = rectifier.shift.astype(targets.dtype)
    scaled = dataclasses.replace(site, kernel=site.kernel * scale)
    best, least = linear, regression.relative_error(rectifier.respond(linear[1]), wanted)
    predicted = linear[1] * scale + shift
    for weight in _LAMBDAS:
        guess = auxiliary(wanted, predicted, weight, rectifier.top)
        built, outputs = regression.fit(scaled, guess - shift, fit)
        predicted = outputs + shift
        outputs = outputs / scale
        error = regression.relative_error(rectifier.respond(outputs), wanted)
        if error < least:
            best, least = (built.with_scaled_outputs(1 / scale), outputs), error
    return best


def auxiliary(
    responses: np.ndarray, predicted: np.ndarray, weight: float, top: float = np.inf
) -> np.ndarray:
    """Returns z, the least of (r - min(max(z, 0), top))^2 + weight (z - p)^2, entry by entry.

    On each of the three pieces it is a parabola; the best of their minima is taken.

    Args:
      responses: r, [n, O].
      predicted: p, [n, O].
      weight: lambda.
      top: where responses end.
    """
    pieces = [np.minimum(predicted, 0)]
    pieces.append(np.clip((responses + weight * predicted) / (1 + weight), 0, top))
    if np.isfinite(top):
        pieces.append(np.maximum(predicted, top))
    losses = [
        np.square(responses - np.clip(z, 0, top)) + weight * np.square(z - predicted)
        for z in pieces
    ]
    return np.choose(np.argmin(losses, axis=0), pieces)


def _invertible(scale: np.ndarray) -> np.ndarray:
    """Returns the scale with entries near zero moved away from it."""
    least = _LEAST_SCALE * float(np.sqrt(np.mean(np.square(scale)))) or 1.0
    return np.where(np.abs(scale) < least, np.where(scale < 0, -least, least), scale)
