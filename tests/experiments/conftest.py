"""What a binary run in this process says does not show in the tests after it."""

import pytest
from absl import logging


@pytest.fixture(autouse=True)
def same_verbosity():
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
