"""What the training binaries do with their flags."""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging

from experiments.comparison import run_experiment
from experiments.config import config_from_flags, define_flags
from experiments.task import Task
from tfapprox.errors import UserError


def run(task: Task, argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    logging.set_verbosity(logging.INFO)
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: everything is a flag, see --help")
        config = config_from_flags(values)
        save_flags(values, config.model_dir)
        run_experiment(task, config)
    except (UserError, OSError) as error:
        print(f"{task.name}: {error}", file=sys.stderr)
        return 2
    return 0


def save_flags(values: flags.FlagValues, folder: pathlib.Path) -> None:
    """Writes the flags so that --flagfile=MODEL_DIR/flags.txt runs the same again."""
    folder.mkdir(parents=True, exist_ok=True)
    own = values.flags_by_module_dict()[define_flags.__module__]
    text = "".join(f"{flag.serialize()}\n" for flag in own if flag.serialize())
    (folder / "flags.txt").write_text(text)
