"""Results in a folder are of one set of settings."""

import json

import pytest

from experiments.settings_file import keep_to_settings
from tfapprox.errors import UserError

SETTINGS = {"network": "vgg19", "keeps": (0.5, 0.3), "sampling": {"ratio": 0.4, "scale": None}}


def test_the_first_to_come_sets_them_and_the_same_are_welcome(tmp_path):
    file = tmp_path / "new" / "settings.json"
    for _ in range(2):
        keep_to_settings(file, SETTINGS, "name another folder")
        assert json.loads(file.read_text())["sampling"] == {"ratio": 0.4, "scale": None}
    assert [path.name for path in file.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"network": "vgg16"}, "network=vgg19, not of vgg16"),
        ({"keeps": (0.5,)}, r"keeps=\[0.5, 0.3\], not of \[0.5\]"),
        ({"sampling": {"ratio": 0.5, "scale": None}}, "sampling.ratio=0.4, not of 0.5"),
    ],
)
def test_others_are_refused_and_the_first_that_differs_is_named(tmp_path, change, told):
    file = tmp_path / "settings.json"
    keep_to_settings(file, SETTINGS, "name another folder")
    before = file.read_bytes()
    with pytest.raises(UserError, match=f"{told}: name another folder"):
        keep_to_settings(file, SETTINGS | change, "name another folder")
    assert file.read_bytes() == before


def test_a_setting_that_the_file_does_not_know_yet_is_not_compared(tmp_path):
    file = tmp_path / "settings.json"
    keep_to_settings(file, SETTINGS, "")
    keep_to_settings(file, SETTINGS | {"later": 1}, "")
