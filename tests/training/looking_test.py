import numpy as np
import pytest
from tensorflow import keras

from tfapprox.training.looking import only_looking, raw, recurrent_states


@pytest.mark.parametrize("failing", [False, True])
def test_statistics_seeds_and_recurrent_states_come_back(failing):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 3), batch_size=2),
            keras.layers.Dropout(0.5),
            keras.layers.LSTM(5, stateful=True),
            keras.layers.BatchNormalization(),
        ]
    )
    x = np.ones((2, 4, 3), np.float32)
    model(x, training=True)
    watched = [v for v in model.variables if not v.trainable] + recurrent_states(model)
    assert len(watched) >= 5
    before = [raw(v).numpy() for v in watched]
    try:
        with only_looking(model):
            model(x, training=True)
            assert any(
                np.any(raw(v).numpy() != old) for v, old in zip(watched, before, strict=True)
            )
            if failing:
                raise RuntimeError
    except RuntimeError:
        assert failing
    for variable, old in zip(watched, before, strict=True):
        np.testing.assert_array_equal(raw(variable).numpy(), old)
