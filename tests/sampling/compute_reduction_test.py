"""The published check values; layers are spelled out as (name, MACs, outputs, first)."""

import pytest

from tfapprox.errors import UserError
from tfapprox.sampling.compute_reduction import LayerCompute, compute_reduction
from tfapprox.sampling.settings import Sampling


def mlp(sampling):
    sizes = [(784, 500), (500, 500), (500, 10)]
    return [
        LayerCompute(f"dense{i}", fan_in * out, out, i == 0, sampling)
        for i, (fan_in, out) in enumerate(sizes)
    ]


def cnn(sampling):
    return [
        LayerCompute("conv1", 28 * 28 * 25 * 32, 32, True),
        LayerCompute("conv2", 14 * 14 * 25 * 32 * 64, 64, False, sampling),
        LayerCompute("fc1", 3136 * 1024, 1024, False, sampling),
        LayerCompute("fc2", 10240, 10, False, sampling),
    ]


def lstm(sampling):
    gates = [LayerCompute(f"lstm{i}", 1300 * 2600, 2600) for i in range(2)]
    return [*gates, LayerCompute("projection", 650 * 10000, 10000, False, sampling)]


def wide_resnet(sampling):
    layers = [LayerCompute("input", 32 * 32 * 27 * 16, 16, True)]
    channels = 16
    for size, width in ((32, 160), (16, 320), (8, 640)):
        for _ in range(8):
            macs = size * size * 9 * channels * width
            layers.append(LayerCompute("conv", macs, width, False, sampling))
            channels = width
    return [*layers, LayerCompute("classifier", 64000, 100)]


@pytest.mark.parametrize(
    "layers, sampling, batch, percent, digits",
    [
        (mlp, Sampling(forward_ratio=0.4), 50, 60.00, 2),
        (mlp, Sampling(forward_ratio=0.4, backward_ratio=0.05), 50, 79.50, 2),
        (cnn, Sampling(forward_ratio=0.3), 50, 67.86, 2),
        (cnn, Sampling(forward_ratio=0.4, backward_ratio=0.2), 50, 78.84, 2),
        (lstm, Sampling(forward_ratio=0.5), 20, 24.5, 1),
        (wide_resnet, Sampling(forward_ratio=0.5), 128, 49.997, 3),
    ],
)
def test_published_compute_reductions(layers, sampling, batch, percent, digits):
    assert round(100 * compute_reduction(layers(sampling), batch), digits) == percent


def test_meprop_shrinks_both_gradients_by_the_share_of_output_columns():
    layer = LayerCompute(
        "dense", 500 * 500, 500, False, Sampling(mode="meprop", backward_ratio=0.06)
    )
    assert compute_reduction([layer], 50) == pytest.approx(2 * 0.94 / 3)


def test_forward_only_sampling_saves_in_the_forward_pass_alone():
    layer = LayerCompute("d", 100, 10, False, Sampling(mode="forward_only", forward_ratio=0.4))
    assert compute_reduction([layer], 50) == pytest.approx(0.2)


def test_a_model_without_layers_to_count_is_refused():
    with pytest.raises(UserError, match="no dense"):
        compute_reduction([], 32)


def test_a_sequence_gives_the_gradient_of_a_dense_kernel_a_row_for_each_position():
    sampling = Sampling(backward_ratio=0.25)

    def saved(rows):
        return compute_reduction([LayerCompute("dense", 650 * 100, 100, False, sampling, rows)], 20)

    # Of 20 rows at least 10 are kept, of 700 a quarter; of 100 columns a quarter.
    assert saved(1) == pytest.approx(1 - (1 + 0.5 + 0.25) / 3)
    assert saved(35) == pytest.approx(1 - (1 + 0.25 + 0.25) / 3)
