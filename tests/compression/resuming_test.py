"""A kept plan is followed again for the same model, data and settings only."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tfapprox.compression.job import Job
from tfapprox.compression.resuming import keep_plan, kept_plan, origins
from tfapprox.config import CompressionConfig
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Budget
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.signature import Signature, TensorSpec
from tfapprox.training.distillation_config import DistillationConfig

SIGNATURE = Signature({"x": TensorSpec("x:0", "float32", (None, 2))}, {})
X = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.fixture(name="job")
def _job(tmp_path):
    config = CompressionConfig(Budget("macs", keep=0.5))
    data = open_calibration_data({"x": X}, SIGNATURE)
    return Job(
        Path("model"), Path("small"), config, ("serve",), None, None, None, False, (), None,
        None, None, data, distillation=DistillationConfig(5), work_dir=tmp_path / "work",
    )  # fmt: skip


def keep(job):
    origin = origins(job.config, job.calibration_data, distillation=job.distillation)
    keep_plan(job, Plan((), {**job.config.to_json(), **origin}))


def test_the_same_job_goes_on_with_its_plan(job):
    assert kept_plan(job) is None
    keep(job)
    assert kept_plan(job) == kept_plan(dataclasses.replace(job, destination=Path("other")))
    assert kept_plan(job) is not None
    assert kept_plan(dataclasses.replace(job, work_dir=None)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"source": Path("other")},
        {"config": CompressionConfig(Budget("macs", keep=0.4))},
        {"calibration_data": open_calibration_data({"x": X + 1}, SIGNATURE)},
        {"distillation": DistillationConfig(6)},
        {"calibration_data": None, "distillation": None},
    ],
)
def test_another_model_config_data_or_training_gets_a_plan_of_its_own(job, changes):
    keep(job)
    assert kept_plan(dataclasses.replace(job, **changes)) is None


def test_a_digest_tells_data_apart_but_not_their_batches():
    def digest(source):
        return open_calibration_data(source, SIGNATURE).digest

    assert digest([X[:1], X[1:]]) == digest({"x": X})
    assert len({digest({"x": x}) for x in (X, X[:3], X[::-1], -X)}) == 4
