"""What callbacks remember goes through JSON and arrays unchanged, and only where it fits."""

import json

import keras
import numpy as np
import pytest

from tfapprox.training.callback_state import callback_states, restore_callback_states


def callbacks():
    kinds = keras.callbacks
    return [kinds.History(), kinds.EarlyStopping(), kinds.ReduceLROnPlateau()]


def test_numbers_and_best_weights_come_back():
    before = callbacks()
    before[1].best, before[1].wait, before[1].best_epoch = np.float32(0.1), 3, 5
    before[1].best_weights = [np.arange(6.0).reshape(2, 3), np.float32([7])]
    before[2].best, before[2].wait, before[2].cooldown_counter = 0.5, 2, 4
    states, arrays = callback_states(before)
    after = callbacks()
    restore_callback_states(after, json.loads(json.dumps(states)), arrays)
    assert (after[1].best, after[1].wait, after[1].best_epoch) == (np.float32(0.1), 3, 5)
    for ours, theirs in zip(after[1].best_weights, before[1].best_weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (after[2].best, after[2].wait, after[2].cooldown_counter) == (0.5, 2, 4)


@pytest.mark.parametrize("others", [[], [keras.callbacks.ModelCheckpoint("x.keras")]])
def test_other_callbacks_begin_anew(others):
    before = callbacks()
    before[1].wait = 3
    states, arrays = callback_states(before)
    restore_callback_states(others, states, arrays)
    after = [*callbacks(), *others]
    if others:
        restore_callback_states(after, states, arrays)
        assert after[1].wait == 0
