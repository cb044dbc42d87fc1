"""The model that the tests damage, each a copy of its own."""

import shutil

import pytest

from tests.security.hostile import build


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Directory of a SavedModel with one variable and one constant kernel; not to be changed."""
    return build(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def model(good, tmp_path):
    """A copy of it."""
    return shutil.copytree(good, tmp_path / "model")
