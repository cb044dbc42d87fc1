"""What is timed for a site: its operation at one batch size, and chains of stages."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.geometry import Geometry, Pair
from tfapprox.accounting.site import Site


@dataclasses.dataclass(frozen=True)
class Workload:
    """One use of a kernel at one batch size; what its values are takes no part.

    Attributes:
      kernel: [height, width, in, out].
      dtype: of kernel and activations.
      geometry: None for a matrix product.
      rows: examples in a call; of a matrix product all its rows.
    """

    kernel: tuple[int, int, int, int]
    dtype: str
    geometry: Geometry | None
    rows: int

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Workload":
        geometry = body["geometry"]
        if geometry is not None:
            fields = {key: _as_tuples(value) for key, value in geometry.items()}
            geometry = Geometry(**fields)
        return cls(tuple(body["kernel"]), body["dtype"], geometry, body["rows"])

    @property
    def key(self) -> str:
        """A text that is equal for equal workloads and for no others."""
        return json.dumps(self.to_json(), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class StageForm:
    """All of a stage but the values of its kernel, [height, width, in / groups, out]."""

    kernel: tuple[int, int, int, int]
    groups: int
    axes: tuple[bool, bool]
    reordered: bool = False


@dataclasses.dataclass(frozen=True)
class ChainForm:
    """All of a factorization but its values."""

    stages: tuple[StageForm, ...]
    reordered: bool = False

    @classmethod
    def of(cls, factorization: Factorization) -> "ChainForm":
        stages = tuple(
            StageForm(stage.kernel.shape, stage.groups, stage.axes, stage.input_order is not None)
            for stage in factorization.stages
        )
        return cls(stages, factorization.output_order is not None)

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "ChainForm":
        stages = tuple(
            StageForm(**{key: _as_tuples(value) for key, value in stage.items()})
            for stage in body["stages"]
        )
        return cls(stages, body["reordered"])

    @property
    def key(self) -> str:
        return json.dumps(self.to_json(), sort_keys=True)

    def fill(self, dtype: str, generator: np.random.Generator) -> Factorization:
        """Returns a factorization of this form with random entries."""
        stages = []
        for form in self.stages:
            kernel = generator.standard_normal(form.kernel, np.float32) / np.sqrt(form.kernel[2])
            order = generator.permutation(form.kernel[2] * form.groups) if form.reordered else None
            stages.append(Stage(kernel.astype(dtype), form.groups, form.axes, order))
        outputs = self.stages[-1].kernel[3]
        order = generator.permutation(outputs) if self.reordered else None
        return Factorization(tuple(stages), order)


def workloads(site: Site, batch_size: int) -> dict[Workload, int]:
    """Returns what a call of `batch_size` examples runs for a site, with how often.

    A matrix product runs on all positions of all examples at once, as many times as
    a loop around it asks for (the height of its input size). An einsum counts as
    the matrix product that TensorFlow makes of it.
    """
    counts: dict[Workload, int] = {}
    dtype = site.kernel.dtype.name
    for geometry in site.geometries:
        times = 1
        if site.kind in ("dense", "einsum"):
            times, positions = geometry.input_size
            workload = Workload(site.kernel.shape, dtype, None, batch_size * positions)
        else:
            workload = Workload(site.kernel.shape, dtype, geometry, batch_size)
        counts[workload] = counts.get(workload, 0) + times
    return counts


def input_shape(workload: Workload) -> tuple[int, ...]:
    """Returns the shape of the activations: [rows, in] or [rows, height, width, in]."""
    if workload.geometry is None:
        return (workload.rows, workload.kernel[2])
    size: Pair = workload.geometry.input_size
    return (workload.rows, *size, workload.kernel[2])


def _as_tuples(value: Any) -> Any:
    """Returns lists, also nested ones, as the tuples that JSON made lists of."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_as_tuples(item) for item in value)
    return value
