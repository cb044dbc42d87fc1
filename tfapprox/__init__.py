"""Makes TensorFlow models cheaper, and shows what it did.

`compress_saved_model` and `compress_model` are the main doors; names are loaded
on first use, so that `import tfapprox` loads no TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfapprox.compression import compress_model, compress_saved_model, plan_saved_model
    from tfapprox.config import CompressionConfig
    from tfapprox.decompositions.options import CandidateOptions
    from tfapprox.errors import InfeasibleBudgetError, UserError, VerificationError
    from tfapprox.rewriters.plan import Plan
    from tfapprox.selection.problem import Budget

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "CandidateOptions",
    "CompressionConfig",
    "InfeasibleBudgetError",
    "Plan",
    "UserError",
    "VerificationError",
    "compress_model",
    "compress_saved_model",
    "plan_saved_model",
]

_HOMES = {
    "Budget": "tfapprox.selection.problem",
    "CandidateOptions": "tfapprox.decompositions.options",
    "CompressionConfig": "tfapprox.config",
    "InfeasibleBudgetError": "tfapprox.errors",
    "Plan": "tfapprox.rewriters.plan",
    "UserError": "tfapprox.errors",
    "VerificationError": "tfapprox.errors",
    "compress_model": "tfapprox.compression",
    "compress_saved_model": "tfapprox.compression",
    "plan_saved_model": "tfapprox.compression",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfapprox' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
