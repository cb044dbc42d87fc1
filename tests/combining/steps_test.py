import pytest

from tfapprox.combining.steps import Cluster, Factorize, Prune, Quantize, Tuning, check_order
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget

FACTORIZE = Factorize(CompressionConfig(Budget(keep=0.5)))


def test_steps_come_in_the_order_in_which_none_undoes_another():
    check_order([FACTORIZE, Prune(), Cluster(), Quantize()])
    check_order([Prune(), Quantize("weights")])
    with pytest.raises(UserError, match="factorize after prune: its factors are dense"):
        check_order([Prune(), FACTORIZE])
    with pytest.raises(UserError, match="prune after cluster"):
        check_order([Cluster(), Prune()])
    with pytest.raises(UserError, match="cluster after int8"):
        check_order([Quantize(), Cluster()])


def test_no_step_and_repeated_steps_are_refused():
    with pytest.raises(UserError, match="at least one step"):
        check_order([])
    with pytest.raises(UserError, match="prune comes twice"):
        check_order([Prune(0.3), Prune(0.5)])


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Prune(1.0), "sparsity"),
        (lambda: Cluster(1), "clusters"),
        (lambda: Quantize("int4"), "int4"),
        (lambda: Tuning(epochs=0), "epochs"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, culprit):
    with pytest.raises(UserError, match=culprit):
        make()
