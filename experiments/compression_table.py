"""Measures the compression methods against one another, and writes the table of results.

  python -m experiments.compression_table --work_dir=DIR --data_dir=DATA --models=OWN \\
    --output=docs/results/compression.md

Networks that `experiments.fashion_networks` trains, and the user's own SavedModels
(OWN/NAME/model with OWN/NAME/inputs.npz), are compressed by every method to the same
shares of their multiply-adds. Every cell is written to DIR as soon as it is measured; the
same command goes on where it was stopped.
"""

import json
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from experiments.compression_cells import (
    METHODS,
    Laboratory,
    Settings,
    Subject,
    network_subject,
    own_subject,
)
from experiments.fashion_networks import NETWORKS
from tfapprox.errors import UserError

_DEFAULTS = Settings()


def run(
    subjects: Sequence[Subject], settings: Settings, work_dir: pathlib.Path, measure: bool = True
) -> list[dict[str, Any]]:
    """Returns for every subject its cells, objectives and latencies.

    Args:
      subjects, settings: what to compress, and how.
      work_dir: keeps everything.
      measure: without, only what is there already is returned.
    """
    results = []
    for subject in subjects:
        laboratory = Laboratory(subject, settings, work_dir / "cells" / subject.name)
        cells = [] if measure else laboratory.measured()
        for keep in settings.keeps if measure else ():
            for method in settings.methods:
                cells.append(laboratory.cell(method, keep))
                logging.info("%s", json.dumps(cells[-1]))
        results.append(
            {
                "model": subject.name,
                "original": laboratory.judge(subject.path),
                "held_back": len(next(iter(subject.held_back.values()))),
                "calibration": len(next(iter(subject.calibration.values()))),
                "cells": cells,
                "objectives": [laboratory.objectives(k, measure) for k in settings.keeps],
                "latencies": laboratory.latencies(cells if measure else []),
            }
        )
        (work_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(results: Sequence[dict[str, Any]], settings: Settings, machine: str) -> str:
    """Returns the results as a page of Markdown."""
    import tensorflow as tf

    lines = [
        "# Compression: methods against one another",
        "",
        f"Measured by one command (below) on {machine}, TensorFlow {tf.__version__}, float32, seed "
        f"{settings.seed}; ranks are multiples of {settings.rank_multiple} where a site is large "
        "enough. *Error* is the relative error of the outputs on inputs held back from "
        f"calibration and training; *distilled* is after {settings.distill_steps} steps of "
        "`--distill_steps` without labels. Parameters, MACs and bytes on disk are shares of the "
        "original's; milliseconds are medians of calls in turns through the C++ loader, under "
        "whatever else ran on the machine.",
    ]
    for result in results:
        lines += ["", f"## {result['model']}", "", _about(result), ""]
        lines += _rows(result, settings)
    lines += ["", "## ALDS, exact and alternating", "", *_objective_rows(results)]
    command = "python -m experiments.compression_table --work_dir=DIR --data_dir=DATA --models=OWN"
    lines += ["", "```", command, "```"]
    return "\n".join(lines) + "\n"


def _about(result: dict[str, Any]) -> str:
    text = f"{result['calibration']} inputs to calibrate and train on, {result['held_back']} held "
    text += "back"
    accuracy = result["original"].get("accuracy")
    if accuracy is not None:
        text += f"; the original has an accuracy of {accuracy:.1%}"
    latency = result["latencies"].get("original", {})
    times = ", ".join(f"{value:.2f} ms at batch {size}" for size, value in latency.items())
    return f"{text}. The original takes {times}." if times else f"{text}."


def _rows(result: dict[str, Any], settings: Settings) -> list[str]:
    labelled = "accuracy" in result["original"]
    head = ["keep", "method", "error", "distilled"]
    head += ["accuracy, %", "distilled"] if labelled else []
    head += ["params", "MACs", "bytes", *(f"ms, batch {size}" for size in settings.batch_sizes)]
    lines = [_line(head), _line(["---"] * len(head))]
    for cell in result["cells"]:
        start = [f"{cell['keep']:g}", cell["method"]]
        if "failure" in cell:
            reason = cell["failure"].split(";")[0].split(": ")[-1]
            lines.append(_line([*start, reason, *[""] * (len(head) - 3)]))
            continue
        tuned = cell.get("distilled", {})
        row = [*start, _number(cell["error"]), _number(tuned.get("error"))]
        if labelled:
            row += [_percent(cell.get("accuracy")), _percent(tuned.get("accuracy"))]
        row += [f"{cell[kind]:.2f}" for kind in ("params", "macs", "bytes")]
        times = result["latencies"].get(f"{cell['method']}-{cell['keep']:g}", {})
        row += [f"{times[str(s)]:.2f}" if str(s) in times else "" for s in settings.batch_sizes]
        lines.append(_line(row))
    return lines


def _objective_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "The largest relative error (operator norm) of any site, which both minimise, over "
        "schemes 0-3 and 1, 2 or 4 slices.",
        "",
        _line(["model", "keep", "exact", "alternating"]),
        _line(["---"] * 4),
    ]
    for result in results:
        for one in result["objectives"]:
            found = [_number(one.get(name)) for name in ("alds", "alds_alternating")]
            lines.append(_line([result["model"], f"{one['keep']:g}", *found]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("work_dir", "", "Where models and cells go (required).", **own)
    flags.DEFINE_string("output", "", "Markdown page to write; default: print it.", **own)
    flags.DEFINE_list("networks", list(NETWORKS), "Networks to train here, or none.", **own)
    flags.DEFINE_string("dataset", "fashion_mnist", "See experiments.datasets.", **own)
    flags.DEFINE_string("data_dir", "", "Directory with the data set's files.", **own)
    flags.DEFINE_string("models", "", "Directory with NAME/model and NAME/inputs.npz.", **own)
    flags.DEFINE_list("only", [], "Of --models, only these names.", **own)
    flags.DEFINE_list("keeps", [str(k) for k in _DEFAULTS.keeps], "Shares of the MACs.", **own)
    flags.DEFINE_multi_string(
        "method", list(_DEFAULTS.methods), f"Among {'; '.join(METHODS)}.", **own
    )
    flags.DEFINE_multi_string(
        "distilled", list(_DEFAULTS.distilled), "Methods to distil too.", **own
    )
    flags.DEFINE_integer("distill_steps", _DEFAULTS.distill_steps, "Steps.", **own)
    flags.DEFINE_float("learning_rate", _DEFAULTS.learning_rate, "Of distillation.", **own)
    flags.DEFINE_integer("calibration", _DEFAULTS.calibration, "Images to calibrate on.", **own)
    flags.DEFINE_integer("held_back", _DEFAULTS.held_back, "Images to judge by.", **own)
    flags.DEFINE_integer("rank_multiple", _DEFAULTS.rank_multiple, "Of ranks.", **own)
    flags.DEFINE_integer("seed", _DEFAULTS.seed, "Of everything random.", **own)
    flags.DEFINE_bool("page_only", False, "Measure nothing: write what is there.", **own)
    flags.DEFINE_string("machine", "", "What to say of the machine.", **own)


def settings_from_flags(values: flags.FlagValues) -> Settings:
    """Returns the settings that the flags describe.

    Raises:
      UserError: an unknown method, or a share that is no number.
    """
    try:
        keeps = tuple(float(word) for word in values.keeps)
    except ValueError:
        raise UserError(f"--keeps needs numbers, e.g. 0.5,0.3, got {values.keeps}") from None
    return Settings(
        keeps, tuple(values.method), tuple(values.distilled), values.distill_steps,
        values.learning_rate, values.calibration, values.held_back, values.rank_multiple,
        seed=values.seed,
    )  # fmt: skip


def subjects_from_flags(values: flags.FlagValues, settings: Settings) -> list[Subject]:
    """Returns the models that the flags name, trained where they must be."""
    work_dir = pathlib.Path(values.work_dir)
    subjects = [
        network_subject(name, work_dir, values.dataset, values.data_dir, settings)
        for name in values.networks
        if name
    ]
    if values.models:
        folders = sorted(p.parent for p in pathlib.Path(values.models).glob("*/inputs.npz"))
        subjects += [own_subject(f) for f in folders if not values.only or f.name in values.only]
    return subjects


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Measures what the flags describe; returns the exit status."""
    logging.set_verbosity(logging.INFO)
    try:
        if len(argv) > 1 or not values.work_dir:
            raise UserError("give --work_dir; everything is a flag, see --help")
        settings = settings_from_flags(values)
        work_dir = pathlib.Path(values.work_dir)
        subjects = subjects_from_flags(values, settings)
        results = run(subjects, settings, work_dir, not values.page_only)
        machine = values.machine or f"{platform.machine()}, {platform.system()}"
        page = table(results, settings, machine)
    except UserError as error:
        print(f"compression_table: {error}", file=sys.stderr)
        return 2
    if values.output:
        pathlib.Path(values.output).write_text(page)
    else:
        print(page)
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
