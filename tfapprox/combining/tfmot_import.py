"""TensorFlow Model Optimization, loaded only when asked for, and without its side effect."""

import importlib
import os
from types import ModuleType

from tfapprox.errors import UserError

_SWITCH = "TF_USE_LEGACY_KERAS"


def load_tfmot() -> ModuleType:
    """Returns the module tensorflow_model_optimization.

    Importing it sets TF_USE_LEGACY_KERAS=1, which turns a `tf.keras` that nobody has
    used yet, in this process or in one that it starts, into tf_keras. So `tf.keras` is
    settled first, and the variable put back. TFMOT itself takes tf_keras either way.

    Raises:
      UserError: it, or tf_keras, is not installed.
    """
    from tensorflow import keras

    _ = keras.layers  # the flavour is chosen when an attribute is first looked up
    before = os.environ.get(_SWITCH)
    try:
        importlib.import_module("tf_keras")
        return importlib.import_module("tensorflow_model_optimization")
    except ImportError as error:
        raise UserError(
            f"combining needs TFMOT and tf_keras ({error}): pip install 'tfapprox[tfmot]'"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before
