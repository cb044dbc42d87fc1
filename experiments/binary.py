"""What the binaries that train with sampled products do with their flags."""

from collections.abc import Sequence

from absl import flags, logging

from experiments.command import run_command, save_flags
from experiments.comparison import run_experiment
from experiments.config import config_from_flags
from experiments.task import Task


def run(task: Task, argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    logging.set_verbosity(logging.INFO)

    def train() -> None:
        config = config_from_flags(values)
        save_flags(values, config.model_dir)
        run_experiment(task, config)

    return run_command(task.name, argv, train)
