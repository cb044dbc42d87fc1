"""What each candidate alone does to a user's score of the whole model."""

import tempfile
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.config import CompressionConfig
from tfapprox.fitting import make_score
from tfapprox.report.report import Scores
from tfapprox.selection.greedy import Score
from tfapprox.serving.calibration_data import CalibrationData


def score_both(evaluate: Callable[[Any], float], before: Any, after: Any) -> Scores:
    """Returns what a user's measure says of two models, under the measure's own name."""
    name = getattr(evaluate, "__name__", "score")
    return Scores(
        float(evaluate(before)),
        float(evaluate(after)),
        name.replace("_", " ") if name.isidentifier() else "score",
    )


def fitted_to(config: CompressionConfig, data: CalibrationData | None) -> str:
    """Returns what candidates are fitted to, in a word that changes with it; "" to nothing."""
    if data is None or not config.calibrates:
        return ""
    return f"{data.digest} {'' if config.correct_bias else 'about zero'}"


def score_saved_models(
    source: Path,
    opened: Any,
    sites: Sequence[Site],
    evaluate: Callable[[str], float] | None,
    scores: str | PathLike[str] | None,
    fitted_to: str = "",
) -> Score | None:
    """Returns a function that writes a SavedModel with one site replaced and evaluates it."""
    from tfapprox.rewriters.saved_model import write_saved_model

    if evaluate is None:
        return None

    def evaluate_with(factorizations: dict[str, Factorization]) -> float:
        if not factorizations:
            return evaluate(str(source))
        with tempfile.TemporaryDirectory(prefix="tfapprox-score-") as folder:
            path = str(Path(folder, "model"))
            write_saved_model(opened, factorizations, path)
            return evaluate(path)

    return make_score(sites, evaluate_with, scores, fitted_to)
