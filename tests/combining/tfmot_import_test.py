import os
import subprocess
import sys

import pytest

from tfapprox.combining.tfmot_import import load_tfmot
from tfapprox.errors import UserError

PROGRAM = """
import os
from tfapprox.combining.tfmot_import import load_tfmot
tfmot = load_tfmot()
import tensorflow as tf
print(tfmot.__name__, tf.keras.__version__[0], os.environ.get("TF_USE_LEGACY_KERAS"))
"""


def test_loading_tfmot_leaves_the_process_with_the_keras_it_had(tfmot):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, env=environment)
    assert run.stdout.decode().split() == ["tensorflow_model_optimization", "3", "None"]


def test_a_switch_that_was_set_stays_set(tfmot, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    load_tfmot()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "0"


def test_without_tfmot_the_remedy_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(UserError, match=r"pip install 'tfapprox\[tfmot\]'") as caught:
        load_tfmot()
    assert "\n" not in str(caught.value)
