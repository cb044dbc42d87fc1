import pytest

from tfapprox.errors import UserError
from tfapprox.sampling.settings import Sampling


@pytest.mark.parametrize(
    "fields, culprit",
    [
        ({"variant": "best"}, "unknown sampling 'best'"),
        ({"forward_ratio": 0}, "forward_ratio"),
        ({"backward_ratio": 1.5}, "backward_ratio"),
        ({"min_samples": 0}, "min_samples"),
        ({"mode": "backwards"}, "mode must be one of"),
        ({"probabilities": "gram"}, "probabilities must be one of"),
        ({"scale": True}, "'topk' takes scale False"),
        ({"variant": "winner_take_all"}, "takes scale True"),
        ({"mode": "meprop", "forward_ratio": 0.5}, "meprop"),
        ({"mode": "forward_only", "backward_ratio": 0.5}, "forward_only"),
        ({"mix": 0.1}, "mix"),
        ({"variant": "nps", "threshold": 0.9}, "threshold"),
        ({"gradient_variant": "best"}, "unknown sampling 'best'"),
        ({"gradient_variant": "nps", "mode": "meprop"}, "takes no gradient_variant"),
    ],
)
def test_bad_settings_are_refused_by_name(fields, culprit):
    with pytest.raises(UserError, match=culprit):
        Sampling(**fields)


def test_settings_survive_json():
    settings = Sampling("bernoulli", 0.3, 0.1, scale="auto", mix=0.1)
    assert Sampling.from_json(settings.to_json()) == settings


def test_gradients_may_be_drawn_in_another_way_and_then_need_seeds():
    settings = Sampling(forward_ratio=0.4, backward_ratio=0.1, threshold=0.9)
    assert settings.gradients is settings
    assert not settings.random
    mixed = Sampling(forward_ratio=0.4, backward_ratio=0.1, gradient_variant="nps")
    assert mixed.gradients == Sampling("nps", 0.4, 0.1, scale=True)
    assert mixed.random
    back = Sampling("nps", 0.4, 0.1, scale=True, mix=0.1, gradient_variant="topk")
    assert back.gradients == Sampling("topk", 0.4, 0.1)


def test_settings_switched_off_are_exact():
    settings = Sampling("bernoulli", 0.4, 0.1, scale=True)
    assert settings.switched_off.exact
    assert settings.switched_off.variant == "bernoulli"
    assert Sampling(threshold=0.9).switched_off.exact
