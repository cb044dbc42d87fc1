"""Trains a compressed model of the table: block by block, or as a whole, without labels."""

import gc
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

from experiments.compression_methods import Settings
from experiments.compression_subjects import Subject
from tfapprox.errors import UserError
from tfapprox.serving.calibration_data import CalibrationData, open_calibration_data
from tfapprox.serving.signature import read_signatures
from tfapprox.training.distill_saved_model import distill_saved_model
from tfapprox.training.distillation_config import DistillationConfig
from tfapprox.training.refine_saved_model import refine_saved_model

TRAININGS: dict[str, Callable] = {
    "refined": refine_saved_model,
    "distilled": distill_saved_model,
}
"""By what the result is called."""

_LARGEST_BATCH = 32
_FEWEST_BATCHES = 6  # of which one is held back


def train(
    kind: str,
    path: pathlib.Path,
    subject: Subject,
    settings: Settings,
    work_dir: pathlib.Path,
    judge: Callable[[pathlib.Path], dict[str, float]],
) -> dict[str, Any]:
    """Returns error and accuracy of a copy whose factors were trained, or why there is none.

    Args:
      kind: in `TRAININGS`.
      path: SavedModel, which stays; the copy's name ends in the kind.
      subject: of which it was made.
      settings: how to train.
      work_dir: keeps the training's state.
      judge: of a model.
    """
    tuned = path.with_name(f"{path.name}-{kind}")
    shutil.rmtree(tuned, ignore_errors=True)
    shutil.copytree(path, tuned)
    steps = settings.refine_steps if kind == "refined" else settings.distill_steps
    batch = min(_LARGEST_BATCH, max(1, subject.calibrating // _FEWEST_BATCHES))
    config = DistillationConfig(steps, settings.learning_rate, batch, settings.seed)
    start = time.process_time()
    try:
        TRAININGS[kind](
            tuned, subject.path, _data(subject, batch), config,
            signature=subject.signature, work_dir=work_dir,
        )  # fmt: skip
    except UserError as error:
        return {"failure": str(error)}
    finally:
        gc.collect()
    return {"cpu_seconds": time.process_time() - start, **judge(tuned)}


def _data(subject: Subject, batch: int) -> CalibrationData:
    signature = read_signatures(str(subject.path))[subject.signature]
    return open_calibration_data(subject.calibration, signature, batch)
