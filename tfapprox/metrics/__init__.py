"""What error means: norms of kernels and of what an approximation leaves out."""

from tfapprox.metrics.base import Metric, relative_error
from tfapprox.metrics.frobenius import FrobeniusNorm
from tfapprox.metrics.operator import OperatorBound, OperatorNorm
from tfapprox.metrics.weighted import WeightedNorm

__all__ = [
    "METRICS",
    "WEIGHTED_METRICS",
    "FrobeniusNorm",
    "Metric",
    "OperatorBound",
    "OperatorNorm",
    "WeightedNorm",
    "relative_error",
]

WEIGHTED_METRICS: dict[str, Metric] = {
    "covariance": WeightedNorm(),
    "mahalanobis": WeightedNorm(),
    "output": WeightedNorm(),
}
"""Those that need calibration data. Errors in "output" are those in "covariance" times the
sensitivity of the model's outputs to the site."""

METRICS: dict[str, Metric] = {
    "operator": OperatorNorm(),
    "operator_bound": OperatorBound(),
    "frobenius": FrobeniusNorm(),
    **WEIGHTED_METRICS,
}
