"""Makes TensorFlow models cheaper, and shows what it did.

`compress_saved_model` and `compress_model` are the main doors; names are loaded
on first use, so that `import tfapprox` loads no TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfapprox.compression import (
        compress_model,
        compress_saved_model,
        plan_saved_model,
        sweep_saved_model,
    )
    from tfapprox.config import CompressionConfig
    from tfapprox.decompositions.options import CandidateOptions
    from tfapprox.errors import InfeasibleBudgetError, UserError, VerificationError
    from tfapprox.rewriters.approximate_training import approximate_training
    from tfapprox.rewriters.generate_slices import generate_slices
    from tfapprox.rewriters.keras_restore import restore_keras_model
    from tfapprox.rewriters.plan import Plan
    from tfapprox.rewriters.saved_model.restoring import restore_saved_model
    from tfapprox.selection.problem import Budget
    from tfapprox.training.compress_retrain import compress_retrain
    from tfapprox.training.decompose_in_training import fit_with_decomposition

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "CandidateOptions",
    "CompressionConfig",
    "InfeasibleBudgetError",
    "Plan",
    "UserError",
    "VerificationError",
    "approximate_training",
    "compress_model",
    "compress_retrain",
    "compress_saved_model",
    "fit_with_decomposition",
    "generate_slices",
    "plan_saved_model",
    "restore_keras_model",
    "restore_saved_model",
    "sweep_saved_model",
]

_HOMES = {
    "Budget": "tfapprox.selection.problem",
    "CandidateOptions": "tfapprox.decompositions.options",
    "CompressionConfig": "tfapprox.config",
    "InfeasibleBudgetError": "tfapprox.errors",
    "Plan": "tfapprox.rewriters.plan",
    "UserError": "tfapprox.errors",
    "VerificationError": "tfapprox.errors",
    "approximate_training": "tfapprox.rewriters.approximate_training",
    "compress_model": "tfapprox.compression",
    "compress_retrain": "tfapprox.training.compress_retrain",
    "compress_saved_model": "tfapprox.compression",
    "fit_with_decomposition": "tfapprox.training.decompose_in_training",
    "generate_slices": "tfapprox.rewriters.generate_slices",
    "plan_saved_model": "tfapprox.compression",
    "restore_keras_model": "tfapprox.rewriters.keras_restore",
    "restore_saved_model": "tfapprox.rewriters.saved_model.restoring",
    "sweep_saved_model": "tfapprox.compression",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfapprox' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
