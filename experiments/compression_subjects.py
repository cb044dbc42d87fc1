"""The models of the compression table: networks trained here, and the user's own."""

import dataclasses
import pathlib

import numpy as np

from experiments.compression_methods import Settings
from experiments.fashion_networks import INPUT, examples, trained
from tfapprox.serving.inputs import Inputs, read_inputs
from tfapprox.serving.signature import default_signature, read_signatures

_HELD_BACK = 0.3  # of the inputs that come with a model of the user's own


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model to compress.

    Attributes:
      name: of the model.
      path: SavedModel directory.
      signature: to run.
      calibration, held_back: inputs.
      labels: classes of those held back, where they are known.
    """

    name: str
    path: pathlib.Path
    signature: str
    calibration: Inputs
    held_back: Inputs
    labels: np.ndarray | None = None

    @property
    def calibrating(self) -> int:
        """How many inputs there are to calibrate and train on."""
        return len(next(iter(self.calibration.values())))


def network_subject(
    name: str, work_dir: pathlib.Path, dataset: str, data_dir: str, settings: Settings
) -> Subject:
    """Returns a network of `fashion_networks`, trained unless it is there already."""
    path = trained(name, work_dir / "networks" / name, dataset, data_dir, seed=settings.seed)
    found = examples(name, dataset, data_dir, settings.calibration, settings.held_back)
    inputs = {INPUT: found.calibration}, {INPUT: found.held_back}
    return Subject(name, path, "serving_default", *inputs, found.labels)


def own_subject(folder: pathlib.Path) -> Subject:
    """Returns a model of the user's own: folder/model and folder/inputs.npz.

    The last third of the inputs is held back.

    Raises:
      UserError: they are not there, or do not fit each other.
    """
    signatures = read_signatures(str(folder / "model"))
    name = default_signature(signatures)
    inputs = read_inputs(str(folder / "inputs.npz"), signatures[name])
    count = len(next(iter(inputs.values())))
    cut = max(1, count - max(1, round(_HELD_BACK * count)))
    calibration = {key: value[:cut] for key, value in inputs.items()}
    held_back = {key: value[cut:] for key, value in inputs.items()}
    return Subject(folder.name, folder / "model", name, calibration, held_back)
