"""The main job end to end: inspect, plan, rewrite, verify, measure, publish, report."""

from tfapprox.compression.keras_model import compress_model
from tfapprox.compression.saved_model import compress_saved_model, plan_saved_model
from tfapprox.compression.sweep import sweep_saved_model

__all__ = ["compress_model", "compress_saved_model", "plan_saved_model", "sweep_saved_model"]
