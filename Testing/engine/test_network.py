"""The paper's U-Net: its size, the order of its layers, its shapes, the same weights for the same seed."""

from __future__ import annotations

import pytest
import torch
from CovidSegLib.errors import ModelError
from CovidSegLib.network import DEPTH, SIZE_MULTIPLE, NetworkConfig, build_network
from helpers_model import threshold_tensors
from torch import nn


def parameter_count(width: int) -> int:
    with torch.device("meta"):
        network = build_network(NetworkConfig(width=width))
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_paper_width_has_the_papers_number_of_parameters() -> None:
    assert parameter_count(32) == 22_581_316


def test_half_width_has_a_quarter_of_them() -> None:
    assert parameter_count(16) == pytest.approx(22_581_316 / 4, rel=0.01)


def test_default_is_the_papers_network() -> None:
    assert NetworkConfig() == NetworkConfig(architecture="unet3d", width=32, classes=4)


def test_every_block_is_convolution_relu_normalization_twice() -> None:
    network = build_network(NetworkConfig(width=2))
    blocks = [*network.down, *network.up]  # type: ignore[misc]
    assert len(blocks) == 2 * DEPTH + 1
    for block in blocks:
        assert [type(layer) for layer in block] == [nn.Conv3d, nn.ReLU, nn.BatchNorm3d] * 2
        for layer in block:
            if isinstance(layer, nn.BatchNorm3d):
                assert (layer.momentum, layer.eps) == (0.01, 1e-3)
            if isinstance(layer, nn.Conv3d):
                assert (layer.kernel_size, layer.padding) == ((3, 3, 3), (1, 1, 1))


def test_filters_double_per_level_and_upsampling_is_learned_without_activation() -> None:
    network = build_network(NetworkConfig(width=2))
    assert [block[3].out_channels for block in network.down] == [2, 4, 8, 16, 32]  # type: ignore[union-attr, index]
    for level, layer in enumerate(network.expand):  # type: ignore[arg-type]
        assert isinstance(layer, nn.ConvTranspose3d)
        assert (layer.out_channels, layer.kernel_size, layer.stride) == (2 * 2**level, (2, 2, 2), (2, 2, 2))


def test_fresh_weights_are_glorot_uniform_with_zero_bias() -> None:
    torch.manual_seed(0)
    layer = build_network(NetworkConfig(width=8)).down[2][0]  # type: ignore[index]
    bound = (6.0 / ((16 + 32) * 27)) ** 0.5
    assert layer.weight.abs().max() <= bound  # type: ignore[operator]
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)  # type: ignore[operator]
    assert not layer.bias.any()  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 32, 48)])
@torch.inference_mode()
def test_logits_have_the_shape_of_the_image(shape: tuple[int, int, int]) -> None:
    network = build_network(NetworkConfig(width=2, classes=3)).eval()
    assert network(torch.zeros(2, 1, *shape)).shape == (2, 3, *shape)


@torch.inference_mode()
def test_size_that_is_no_multiple_of_16_is_refused_by_the_network() -> None:
    assert SIZE_MULTIPLE == 16
    with pytest.raises(RuntimeError):
        build_network(NetworkConfig(width=2)).eval()(torch.zeros(1, 1, 16, 24, 16))


def test_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(build_network(NetworkConfig(width=2)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


@torch.inference_mode()
def test_skip_connection_carries_the_finest_level_to_the_head() -> None:
    network = build_network(NetworkConfig(width=2)).eval()
    network.load_state_dict(threshold_tensors(), strict=False)
    image = torch.linspace(-1, 1, 16**3).reshape(1, 1, 16, 16, 16)
    expected = torch.where(image < -0.2, 1, torch.where(image < 0.3, 3, 0))[:, 0]
    near_a_cut = ((image + 0.2).abs() < 0.01) | ((image - 0.3).abs() < 0.01)
    assert torch.equal(network(image).argmax(dim=1)[~near_a_cut[:, 0]], expected[~near_a_cut[:, 0]])


def test_configuration_survives_its_dictionary() -> None:
    config = NetworkConfig(width=16)
    assert NetworkConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "swin"}, "runs 'unet3d'"),
        ({"width": 0}, "at least one filter"),
        ({"classes": 1}, "two classes"),
        ({"depth": 5}, "unknown key 'depth'"),
    ],
)
def test_unknown_network_is_refused_with_what_is_known(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NetworkConfig.from_dict(values)
