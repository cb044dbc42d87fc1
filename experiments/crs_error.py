"""Plots the error of sampled matrix products (Figures 1a and 1b).

Products of random 100 x 100 matrices are estimated by every variant of column-row
sampling from 5 % to 95 % of the pairs; errors are Frobenius norms over the product of
the factors' norms, averaged over draws, beside the bound of Theorem 1 for
norm-proportional sampling with replacement. Figure 1a has entries of mean and
deviation 1 (both means non-zero), Figure 1b standard normal ones.

  python -m experiments.crs_error --output_dir=DIR --runs=1000

References: Adelman and Silberstein, "Faster Neural Network Training with Approximate
Tensor Operations", 2018, section 3.2 and Figure 1; Drineas et al., 2006, Theorem 1.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from experiments.command import run_command
from tfapprox.errors import UserError
from tfapprox.sampling.column_row import approximate_product
from tfapprox.sampling.expected_error import error_bound
from tfapprox.sampling.variants import VARIANTS, sample_size

RATIOS = tuple(round(0.05 * i, 2) for i in range(1, 20))
# Mean and standard deviation of the entries.
FIGURES = {"figure 1a": (1.0, 1.0), "figure 1b": (0.0, 1.0)}

Curves = dict[str, list[float]]


def average_errors(
    mean: float, deviation: float, size: int, runs: int, seed: int, ratios: Sequence[float] = RATIOS
) -> Curves:
    """Returns "variant" or "variant, scaled" -> mean normalised error at every ratio.

    Args:
      mean, deviation: of the normal entries of both factors.
      size: the factors are [size, size].
    """
    cases = {
        name + (", scaled" if scale else ""): (variant, scale is True)
        for name, variant in VARIANTS.items()
        for scale in variant.scales
        if scale != "auto"
    }
    totals = {name: np.zeros(len(ratios)) for name in cases}
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        a, b = (rng.normal(mean, deviation, (size, size)) for _ in range(2))
        product, norms = a @ b, np.linalg.norm(a) * np.linalg.norm(b)
        for name, (variant, scale) in cases.items():
            for i, ratio in enumerate(ratios):
                k = sample_size(size, ratio)
                estimate = approximate_product(a, b, variant, k, rng, scale)
                totals[name][i] += np.linalg.norm(product - estimate) / norms
    curves = {name: (total / runs).tolist() for name, total in totals.items()}
    curves["bound"] = [error_bound(sample_size(size, ratio)) for ratio in ratios]
    return curves


def plot(title: str, curves: Curves, path: pathlib.Path) -> None:
    """Draws every curve over the ratios."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    for name, values in curves.items():
        style = "k:" if name == "bound" else "-" if "scaled" in name else "--"
        axes.plot([100 * ratio for ratio in RATIOS], values, style, label=name)
    axes.set(xlabel="pairs kept, %", ylabel="error / (||A|| ||B||)", title=title)
    axes.set_ylim(0, min(1.0, 1.1 * max(max(values) for values in curves.values())))
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; only a process that runs this binary has them."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("output_dir", "", "Gets errors.json and curves (required).", **own)
    flags.DEFINE_integer("size", 100, "Rows and columns of the matrices.", lower_bound=2, **own)
    flags.DEFINE_integer(
        "runs", 1000, "Draws averaged over, each of new matrices.", lower_bound=1, **own
    )
    flags.DEFINE_integer("seed", 0, "Of matrices and draws.", **own)
    flags.DEFINE_enum("format", "png", ["png", "svg"], "Of the curves.", **own)


def main(argv: Sequence[str]) -> int:
    values = flags.FLAGS

    def average() -> None:
        if not values.output_dir:
            raise UserError("--output_dir is required: it gets the errors and the curves")
        folder = pathlib.Path(values.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        results = {}
        for title, (mean, deviation) in FIGURES.items():
            results[title] = average_errors(mean, deviation, values.size, values.runs, values.seed)
            name = title.replace(" ", "_")
            plot(title, results[title], folder / f"{name}.{values.format}")
            print(f"{title}: wrote {folder / name}.{values.format}")
        body = {"ratios": RATIOS, "size": values.size, "runs": values.runs, "errors": results}
        (folder / "errors.json").write_text(json.dumps(body, indent=1))

    return run_command("crs_error", argv, average)


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
