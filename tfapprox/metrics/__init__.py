"""What error means: norms of kernels and of what an approximation leaves out."""

from tfapprox.metrics.base import Metric, relative_error
from tfapprox.metrics.frobenius import FrobeniusNorm
from tfapprox.metrics.operator import OperatorBound, OperatorNorm

__all__ = ["METRICS", "FrobeniusNorm", "Metric", "OperatorBound", "OperatorNorm", "relative_error"]

METRICS: dict[str, Metric] = {
    "operator": OperatorNorm(),
    "operator_bound": OperatorBound(),
    "frobenius": FrobeniusNorm(),
}
