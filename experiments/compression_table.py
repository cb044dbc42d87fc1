"""Measures the compression methods against one another, and writes the table of results.

  python -m experiments.compression_table --work_dir=DIR --data_dir=DATA --models=OWN \\
    --output=docs/results/compression.md

Networks that `experiments.fashion_networks` trains, and the user's own SavedModels
(OWN/NAME/model with OWN/NAME/inputs.npz), are compressed by every method to the same
shares of their multiply-adds. Every cell is written to DIR as soon as it is measured; the
same command goes on where it was stopped. With --notiming it leaves out what must be measured
on an idle machine: milliseconds, and methods that choose by them. What was written by hand
between the two marks of the page's findings stays.
"""

import json
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from experiments.compression_cells import Laboratory
from experiments.compression_methods import METHODS, Settings
from experiments.compression_page import findings_of, table
from experiments.compression_subjects import Subject, network_subject, own_subject
from experiments.fashion_networks import NETWORKS
from tfapprox.errors import UserError

_DEFAULTS = Settings()


def run(
    subjects: Sequence[Subject],
    settings: Settings,
    work_dir: pathlib.Path,
    measure: bool = True,
    timing: bool = True,
) -> list[dict[str, Any]]:
    """Returns for every subject its cells, objectives and latencies.

    Args:
      subjects, settings: what to compress, and how.
      work_dir: keeps everything.
      measure: without, only what is there already is returned.
      timing: without, the same holds for milliseconds and what is chosen by them.
    """
    results = []
    for subject in subjects:
        laboratory = Laboratory(subject, settings, work_dir / "cells" / subject.name)
        if measure:
            for keep in settings.keeps:
                for method in laboratory.methods(timing):
                    _told(laboratory.cell(method, keep))
        cells = laboratory.measured()
        results.append(
            {
                "model": subject.name,
                "original": laboratory.judge(subject.path),
                "labelled": subject.labels is not None,
                "held_back": len(next(iter(subject.held_back.values()))),
                "calibration": subject.calibrating,
                "cells": cells,
                "objectives": [laboratory.objectives(k, measure) for k in settings.keeps],
                "latencies": laboratory.latencies(cells if measure and timing else []),
            }
        )
        (work_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def _told(cell: dict[str, Any]) -> None:
    logging.info("%s", json.dumps(cell))


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
        "refined", list(_DEFAULTS.refined), "Methods to refine too, or none.", **own
    )
    flags.DEFINE_multi_string(
        "distilled", list(_DEFAULTS.distilled), "Methods to distil too, or none.", **own
    )
    flags.DEFINE_integer("distill_steps", _DEFAULTS.distill_steps, "Steps.", **own)
    flags.DEFINE_integer("refine_steps", _DEFAULTS.refine_steps, "Of every block.", **own)
    flags.DEFINE_float("learning_rate", _DEFAULTS.learning_rate, "Of both trainings.", **own)
    flags.DEFINE_integer("calibration", _DEFAULTS.calibration, "Images to calibrate on.", **own)
    flags.DEFINE_integer("held_back", _DEFAULTS.held_back, "Images to judge by.", **own)
    flags.DEFINE_integer("rank_multiple", _DEFAULTS.rank_multiple, "Of ranks.", **own)
    flags.DEFINE_integer("seed", _DEFAULTS.seed, "Of everything random.", **own)
    flags.DEFINE_bool("timing", True, "Measure what needs an idle machine, too.", **own)
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
        keeps, tuple(values.method), tuple(filter(None, values.refined)), values.refine_steps,
        tuple(filter(None, values.distilled)), values.distill_steps, values.learning_rate,
        values.calibration, values.held_back, values.rank_multiple, seed=values.seed,
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
        results = run(subjects, settings, work_dir, not values.page_only, values.timing)
        machine = values.machine or f"{platform.machine()}, {platform.system()}"
        output = pathlib.Path(values.output) if values.output else None
        page = table(results, settings, machine, findings_of(output))
    except UserError as error:
        print(f"compression_table: {error}", file=sys.stderr)
        return 2
    if output is not None:
        output.write_text(page)
    else:
        print(page)
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
