import io

import numpy as np
from rich.console import Console
from tensorflow import keras

from experiments.progress import TrainingProgress


def shown(terminal):
    """Returns what a training of 4 steps, 2 of them done before, shows."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with TrainingProgress(console, "crs seed 0", total=4, done=2) as progress:
        x = np.ones((2, 1), np.float32)
        model.fit(x, x, batch_size=1, verbose=0, callbacks=[progress.callback()])
        progress.say("epoch 1/1 [no markup]")
    return output.getvalue()


def test_a_terminal_shows_every_step_and_the_lines():
    text = shown(terminal=True)
    assert "crs seed 0" in text
    assert "4/4" in text
    assert "epoch 1/1 [no markup]" in text


def test_without_a_terminal_nothing_is_drawn():
    assert shown(terminal=False) == ""
