"""Random state of both flavours of Keras."""

import keras as keras_3
import pytest
import tf_keras


@pytest.fixture
def fixed_seed():
    """Weights drawn alike in every test, and none left in memory after it."""
    keras_3.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    yield
    keras_3.backend.clear_session()
    tf_keras.backend.clear_session()
