"""COVID-SegNet's blocks against values worked out by hand, and its size against the sum of its layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from CovidSegTraining.experiment.covid_segnet import (
    DILATIONS,
    CovidSegNet,
    FeatureVariation,
    ProgressiveAtrousPyramid,
    Residual,
    unit,
)

SQUASH = 1.0 / math.sqrt(1.0 + 1e-5)
"""What a fresh batch norm multiplies by in evaluation: variance 1 and epsilon."""


def _only_centres(module: nn.Module, *, value: float = 1.0) -> None:
    """Let every convolution see only the voxel itself, and add up its channels with this weight."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.zeros_(layer.weight)
            layer.weight.data[:, :, *(size // 2 for size in layer.kernel_size)] = value
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _line(*values: float) -> torch.Tensor:
    """Return one channel with these voxels along i."""
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


@torch.no_grad()
def test_unit_is_convolution_norm_and_relu_in_this_order() -> None:
    block = unit(1, 1).eval()
    _only_centres(block, value=2.0)
    block[1].bias.fill_(-3.0)
    torch.testing.assert_close(block(_line(1.0, 2.0, 4.0)), _line(0.0, 4 * SQUASH - 3, 8 * SQUASH - 3))


@torch.no_grad()
def test_residual_block_adds_its_input() -> None:
    block = Residual(1, 1).eval()
    _only_centres(block, value=2.0)
    torch.testing.assert_close(block(_line(-1.0, 1.0)), _line(-1.0, 4 * SQUASH**2 + 1))
    assert isinstance(block.shortcut, nn.Identity)


@torch.no_grad()
def test_residual_block_projects_its_input_if_channels_change() -> None:
    block = Residual(1, 2).eval()
    _only_centres(block)
    nn.init.constant_(block.shortcut.weight, 5.0)
    nn.init.constant_(block.shortcut.bias, 0.5)
    # Both units give x and then the sum over two equal channels.
    expected = 2 * SQUASH**2 * 3.0 + 5.0 * 3.0 + 0.5
    torch.testing.assert_close(block(_line(3.0)), torch.full((1, 2, 1, 1, 1), expected))


@torch.no_grad()
def test_feature_variation_weighs_by_a_global_and_a_local_gate_and_adds_the_input() -> None:
    block = FeatureVariation(1).eval()
    _only_centres(block)
    features = [1.0 * SQUASH, 3.0 * SQUASH]
    gate = torch.sigmoid(torch.tensor(sum(features) / 2)).item()
    expected = []
    for x, f in zip((1.0, 3.0), features, strict=True):
        attention = 1.0 / (1.0 + math.exp(-f))
        expected.append(x + SQUASH * (gate * f + attention * f + f))
    torch.testing.assert_close(block(_line(1.0, 3.0)), _line(*expected))


@torch.no_grad()
def test_global_gate_is_one_number_per_sample_and_spatial_attention_one_per_value() -> None:
    block = FeatureVariation(3).eval()
    features = torch.randn(2, 3, 4, 5, 6)
    assert block.global_gate(features).shape == (2, 1, 1, 1, 1)
    assert block.spatial_attention(features).shape == features.shape
    for gate in (block.global_gate(features), block.spatial_attention(features)):
        assert gate.min() > 0.0 and gate.max() < 1.0


@torch.no_grad()
def test_shifting_features_to_another_sample_leaves_the_gate_of_the_first() -> None:
    block = FeatureVariation(2).eval()
    one, other = torch.randn(2, 2, 4, 4, 4).split(1)
    together = block(torch.cat([one, other]))
    torch.testing.assert_close(together[:1], block(one))


@torch.no_grad()
def test_pyramid_shares_inputs_within_its_pairs() -> None:
    pyramid = ProgressiveAtrousPyramid(4).eval()
    _only_centres(pyramid)
    for n, reduce in enumerate(pyramid.reduce):
        reduce[0].weight.fill_(0.25 * 10.0**n)
    # Four channels of 1 give inputs 1, 10, 100, 1000; atrous convolutions see the centre, so keep them.
    a, b, c, d = (10.0**n * SQUASH for n in range(4))
    first_pair = SQUASH * ((SQUASH * a + a + b) + (SQUASH * b + a + b))
    second_pair = SQUASH * ((SQUASH * c + c + d) + (SQUASH * d + c + d))
    # Each pair's 1x1x1 gives its sum on both of its channels; the last one adds up all four.
    expected = SQUASH * 2 * (first_pair + second_pair)
    torch.testing.assert_close(pyramid(torch.ones(1, 4, 1, 1, 1)), torch.full((1, 4, 1, 1, 1), expected))


@torch.no_grad()
@pytest.mark.parametrize("branch", range(4))
def test_branch_of_the_pyramid_reaches_as_far_as_its_dilation(branch: int) -> None:
    pyramid = ProgressiveAtrousPyramid(4).eval()
    image = torch.zeros(1, 1, 1, 1, 33)
    image[..., 16] = 1.0
    atrous = pyramid.atrous[branch][0]
    nn.init.ones_(atrous.weight)
    reached = atrous(image)[0, 0, 0, 0].nonzero().ravel() - 16
    assert reached.tolist() == [-DILATIONS[branch], 0, DILATIONS[branch]]
    assert DILATIONS == (1, 2, 4, 8)


def _unit(channels_in: int, channels_out: int, *, kernel: int = 3) -> int:
    return channels_in * channels_out * kernel**3 + 2 * channels_out


def _residual(channels_in: int, channels_out: int) -> int:
    shortcut = 0 if channels_in == channels_out else (channels_in + 1) * channels_out
    return _unit(channels_in, channels_out) + _unit(channels_out, channels_out) + shortcut


def _feature_variation(c: int) -> int:
    gate = (c + 1) * c + (c + 1)
    attention = 2 * (27 * c + 1) * c
    return _unit(c, c, kernel=1) + gate + attention + _unit(3 * c, c)


def _pyramid(c: int) -> int:
    branches = 4 * (_unit(c, c // 4, kernel=1) + _unit(c // 4, c // 4))
    return branches + 2 * _unit(c // 2, c // 2, kernel=1) + _unit(c, c, kernel=1)


def _network(w: int, *, classes: int) -> int:
    encoder = sum(_residual(a, b) + _feature_variation(b) for a, b in ((1, w), (w, 2 * w), (2 * w, 4 * w)))
    bottom = _residual(4 * w, 8 * w) + _pyramid(8 * w)
    decoder = sum((8 * 2 * c + 1) * c + _residual(2 * c, c) for c in (4 * w, 2 * w, w))
    return encoder + bottom + decoder + (w + 1) * classes


@pytest.mark.parametrize(("width", "classes"), [(2, 2), (64, 4)])
def test_parameter_count_is_the_sum_over_the_layers(width: int, classes: int) -> None:
    with torch.device("meta"):
        network = CovidSegNet(width=width, classes=classes)
    assert sum(p.numel() for p in network.parameters()) == _network(width, classes=classes)
    assert _network(64, classes=4) == 36_959_047
