"""The experiment's networks: size, shape, gradients, what they refuse, and that each can learn a case by heart."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers_training import ball_case
from monai.networks.nets import VNet
from torch import nn

from CovidSegTraining.losses import partial_label_loss
from CovidSegTraining.networks import SIZE_MULTIPLE, build_experiment_network, check_patch
from CovidSegTraining.settings import SettingsError

SMALL: dict[str, dict[str, Any]] = {
    "unet3d": {"width": 2},
    "covid_segnet": {"width": 2},
    "unetplusplus": {"width": 2},
    "vnet": {"width": 2},
    "dynunet": {"width": 2},
}
WITHOUT_DROPOUT: dict[str, dict[str, Any]] = {"vnet": {"dropout": 0.0}}


def _two_convolutions(a: int, b: int, *, bias: int) -> int:
    """Parameters of twice convolution 3x3x3 and a norm with scale and shift."""
    return (27 * a + bias) * b + (27 * b + bias) * b + 2 * 2 * b


def _unet3d() -> int:
    filters = [32, 64, 128, 256, 512]
    down = sum(_two_convolutions(a, b, bias=1) for a, b in zip([1, *filters], filters, strict=False))
    up = sum((8 * 2 * f + 1) * f + _two_convolutions(2 * f, f, bias=1) for f in filters[:-1])
    return down + up + (32 + 1) * 4


def _unetplusplus() -> int:
    f = [32, 32, 64, 128, 256]
    count = _two_convolutions(1, f[0], bias=1) + sum(
        _two_convolutions(f[level - 1], f[level], bias=1) for level in range(1, 5)
    )
    for level in range(4):  # node (level, n) sees n nodes of its level and one of the level below
        above = f[level + 1] if level == 0 else f[level + 1] // 2
        for n in range(1, 5 - level):
            count += (8 * f[level + 1] + 1) * above + _two_convolutions(n * f[level] + above, f[level], bias=1)
    return count + (32 + 1) * 4


def _vnet() -> int:
    def convolutions(channels: int, *, times: int) -> int:
        return times * (125 * channels * channels + 2 * channels)

    count = 125 * 16 + 2 * 16
    for channels, times in ((32, 1), (64, 2), (128, 3), (256, 2)):
        count += 8 * (channels // 2) * channels + 2 * channels + convolutions(channels, times=times)
    for channels_in, channels, times in ((256, 256, 2), (256, 128, 2), (128, 64, 1), (64, 32, 1)):
        count += (8 * channels_in + 1) * (channels // 2) + channels + convolutions(channels, times=times)
    return count + 125 * 32 * 4 + 2 * 4 + (4 + 1) * 4


def _dynunet() -> int:
    filters = [32, 64, 128, 256, 320]
    down = sum(_two_convolutions(a, b, bias=0) for a, b in zip([1, *filters], filters, strict=False))
    up = sum(8 * b * a + _two_convolutions(2 * a, a, bias=0) for a, b in pairwise(filters))
    return down + up + (32 + 1) * 4


@pytest.mark.parametrize(
    ("name", "by_layers", "count"),
    [
        ("unet3d", _unet3d(), 22_581_316),
        ("unetplusplus", _unetplusplus(), 6_979_844),
        ("vnet", _vnet(), 45_605_916),
        ("dynunet", _dynunet(), 16_543_716),
    ],
)
def test_parameter_count_is_the_sum_over_the_layers(name: str, by_layers: int, count: int) -> None:
    with torch.device("meta"):
        network = build_experiment_network(name)
    assert sum(p.numel() for p in network.parameters()) == by_layers == count


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_logits_have_the_shape_of_a_patch_that_is_no_cube(name: str) -> None:
    step = SIZE_MULTIPLE[name]
    shape = (step, 3 * step, 2 * step)
    check_patch(name, shape, key="size")
    network = build_experiment_network(name, classes=3, options=SMALL[name]).eval()
    logits = network(torch.randn(1, 1, *shape))
    assert logits.shape == (1, 3, *shape)
    # Logits, not probabilities: those would add up to 1.
    assert (logits.sum(dim=1) - 1.0).abs().max() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_smallest_patch_of_the_check_trains_and_gradients_reach_every_parameter(name: str) -> None:
    step = SIZE_MULTIPLE[name]
    shape = (step, step, 2 * step)
    check_patch(name, shape, key="size")
    torch.manual_seed(0)
    network = build_experiment_network(name, options=SMALL[name] | WITHOUT_DROPOUT.get(name, {})).train()
    codes = torch.randint(0, 4, (1, *shape), dtype=torch.uint8)
    partial_label_loss(network(torch.randn(1, 1, *shape)), codes).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        if parameter.ndim > 1:  # a bias before a norm has gradient zero
            assert parameter.grad.abs().max() > 0, parameter_name


def test_same_seed_gives_the_same_weights() -> None:
    for name in SMALL:
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(build_experiment_network(name, options=SMALL[name]).state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name


def test_vnet_of_its_usual_width_is_that_of_monai() -> None:
    with torch.device("meta"):
        ours, theirs = build_experiment_network("vnet"), VNet(in_channels=1, out_channels=4)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }
    assert str(ours) == str(theirs)


def test_dropout_of_vnet_holds_everywhere() -> None:
    network = build_experiment_network("vnet", options={"width": 2, "dropout": 0.25})
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout3d)]
    assert len(dropouts) == 8 and set(dropouts) == {0.25}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, r"network\.name must be one of unet3d, covid_segnet, unetplusplus, vnet, dynunet, not 'unet'"),
        ("unet3d", {"depth": 5}, r"unknown key 'network\.options\.depth'; known here are width"),
        ("dynunet", {"width": 0}, r"network\.options\.width must be 1 to 4096, not 0"),
        ("unet3d", {"width": 2**31}, r"network\.options\.width must be 1 to 4096, not 2147483648"),
        ("covid_segnet", {"width": 2.5}, r"network\.options\.width must be a whole number, not 2\.5"),
        ("unetplusplus", {"width": True}, r"network\.options\.width must be a whole number, not True"),
        ("vnet", {"depth": 8}, r"unknown key 'network\.options\.depth'; known here are width, dropout"),
        ("vnet", {"dropout": 1.0}, r"network\.options\.dropout must be from 0 to below 1, not 1"),
    ],
)
def test_unknown_network_or_option_is_refused_with_what_is_known(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        build_experiment_network(name, options=options)


def test_one_class_is_refused() -> None:
    with pytest.raises(SettingsError, match="classes must be at least 2, not 1"):
        build_experiment_network("unet3d", classes=1)


@pytest.mark.parametrize(
    ("name", "patch_kji", "message"),
    [
        ("unet3d", (80, 160, 150), r"^patch_kji must be multiples of 16 for 'unet3d', not \[80, 160, 150\]"),
        ("covid_segnet", (0, 8, 8), "multiples of 8"),
        ("dynunet", (16, 16, 16), "too small for 'dynunet'"),
        ("nothing", (16, 16, 32), "network.name must be one of"),
    ],
)
def test_patch_that_does_not_fit_is_refused(name: str, patch_kji: tuple[int, int, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_patch(name, patch_kji, key="patch_kji")


def test_patch_of_the_paper_fits_every_network() -> None:
    for name in SMALL:
        check_patch(name, (80, 160, 160), key="size")


def _dice_after_learning_by_heart(network: nn.Module, *, at_most_steps: int, learning_rate: float) -> float:
    """Train on one case until the worst class has Dice 0.95 in evaluation; return the last such Dice."""
    case = ball_case(seed=0, shape_kji=(16, 32, 32))
    image = torch.from_numpy((case.hu_kji[None, None] + 500.0) / 750.0).float()
    codes = torch.from_numpy(case.codes_kji[None])
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    worst = 0.0
    for step in range(1, at_most_steps + 1):
        optimizer.zero_grad(set_to_none=True)
        partial_label_loss(network.train()(image), codes).backward()
        optimizer.step()
        if step % 10 == 0 and (worst := _worst_dice(network, image, codes)) >= 0.95:
            break
    return worst


def _worst_dice(network: nn.Module, image: torch.Tensor, codes: torch.Tensor) -> float:
    # So few steps leave the running averages of batch norms far behind.
    torch.optim.swa_utils.update_bn([image], network)
    with torch.inference_mode():
        found = network.eval()(image).argmax(dim=1)
    dice = []
    for label in range(4):
        truth, answer = codes == label, found == label
        dice.append((2 * (truth & answer).sum() / (truth.sum() + answer.sum())).item())
    return min(dice)


def test_narrow_unet3d_learns_one_case_by_heart() -> None:
    torch.manual_seed(0)
    network = build_experiment_network("unet3d", options={"width": 8})
    assert _dice_after_learning_by_heart(network, at_most_steps=60, learning_rate=1e-2) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_network_learns_one_case_by_heart(name: str) -> None:
    torch.manual_seed(0)
    network = build_experiment_network(name, options={"width": 8} | WITHOUT_DROPOUT.get(name, {}))
    assert _dice_after_learning_by_heart(network, at_most_steps=200, learning_rate=5e-3) >= 0.95
