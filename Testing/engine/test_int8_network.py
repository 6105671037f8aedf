"""The U-Net in 8-bit integers: the float network's answer, from codes that are exact where they can be."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from CovidSegLib import patch_predictor
from CovidSegLib.int8 import convolution as int8_convolution
from CovidSegLib.int8.activations import ActivationRange, ActivationRanges, coded_layers
from CovidSegLib.int8.convolution import Coding, IntegerConvolution, integers_are_exact, rounded_kernels
from CovidSegLib.int8.network import IntegerUNet, coded_image, image_coding
from CovidSegLib.network import NetworkConfig, build_network
from CovidSegLib.patch_predictor import PatchPredictor, precision_on
from hypothesis import given, settings
from hypothesis import strategies as st

needs_integers = pytest.mark.skipif(
    not integers_are_exact(),
    reason="this CPU, or this torch, has no exact convolution of 8-bit integers",
)


def trained_like(*, width: int = 8, falling: bool = False, shift: float = 0.0) -> torch.nn.Module:
    """Return a network whose normalisation does something.

    Args:
        width: Of the network.
        falling: Whether every second channel is turned round.
        shift: Added to every channel; 3 moves most of them off 0 altogether.
    """
    torch.manual_seed(0)
    network = build_network(NetworkConfig(width=width))
    generator = torch.Generator().manual_seed(1)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 0.4
    with torch.no_grad():
        for _ in range(8):
            network(smooth_noise(generator))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
                if falling:
                    module.weight[::2] *= -1.0
                module.bias += shift * module.weight.sign()
        for _ in range(8):
            network(smooth_noise(generator))
    return network.eval().requires_grad_(False)


def smooth_noise(generator: torch.Generator, *, shape: tuple[int, int, int] = (32, 48, 16)) -> torch.Tensor:
    """Return an image (1, 1, k, j, i) with structure of several sizes, from -1 to 1."""
    noise = sum(
        torch.nn.functional.interpolate(
            torch.rand((1, 1, *(max(2, n // size) for n in shape)), generator=generator), size=shape, mode="trilinear"
        )
        for size in (1, 4, 16)
    )
    assert isinstance(noise, torch.Tensor)
    return (noise - noise.min()) / (noise.max() - noise.min()) * 2.0 - 1.0


def measured(network: torch.nn.Module, image: torch.Tensor) -> ActivationRanges:
    """Return the values between which the activations of an image lie."""
    found, hooks = {}, []
    for name in coded_layers(network):

        def record(_layer: object, _taken: object, given: torch.Tensor, name: str = name) -> None:
            found[name] = ActivationRange(given.amin(dim=(0, 2, 3, 4)), given.amax(dim=(0, 2, 3, 4)))

        hooks.append(network.get_submodule(name).register_forward_hook(record))
    network(image)
    for hook in hooks:
        hook.remove()
    return found


@needs_integers
@pytest.mark.parametrize("shift", [-3.0, 0.0, 1.0])
@pytest.mark.parametrize("falling", [False, True])
def test_integers_give_the_float_networks_probabilities_up_to_the_border(falling: bool, shift: float) -> None:
    network = trained_like(falling=falling, shift=shift)
    image = smooth_noise(torch.Generator().manual_seed(2))
    integers = IntegerUNet(network, measured(network, image))
    expected, found = (torch.softmax(answer(image), dim=1) for answer in (network, integers))
    assert found.shape == expected.shape and found.dtype == torch.float32
    error = (found - expected).abs().amax(dim=1)[0]
    spread = expected.std(dim=(2, 3, 4)).max()
    inner = error[2:-2, 2:-2, 2:-2]
    assert inner.mean() < 0.15 * spread
    rim = torch.ones_like(error, dtype=torch.bool)
    rim[1:-1, 1:-1, 1:-1] = False
    assert error[rim].mean() < max(2.0 * inner.mean(), 0.1 * spread), "zero padding is not the code 0"


@needs_integers
@pytest.mark.parametrize("width", [1, 2, 3, 16])
def test_any_width_and_any_patch_runs(width: int) -> None:
    torch.manual_seed(0)
    network, image = build_network(NetworkConfig(width=width)).eval(), torch.rand((1, 1, 16, 32, 48)) * 2 - 1
    with torch.inference_mode():
        integers = IntegerUNet(network, measured(network, image))
        assert (integers(image) - network(image)).abs().mean() < 0.2 * network(image).std()


@needs_integers
def test_patches_of_a_batch_do_not_mix() -> None:
    network, image = trained_like(width=2), smooth_noise(torch.Generator().manual_seed(5))
    integers = IntegerUNet(network, measured(network, image))
    assert torch.equal(integers(torch.cat([image, -image])), torch.cat([integers(image), integers(-image)]))


@needs_integers
def test_weights_are_coded_once_and_kept() -> None:
    network, image = trained_like(width=2), smooth_noise(torch.Generator().manual_seed(6))
    integers = IntegerUNet(network, measured(network, image))
    first = integers(image)
    with torch.no_grad():
        network.head.bias += 1.0
    assert torch.equal(integers(image), first)


@needs_integers
def test_channels_that_never_change_do_no_harm() -> None:
    network, image = trained_like(), smooth_noise(torch.Generator().manual_seed(3))
    network.down[0][2].weight[:2] = 0.0
    network.down[0][2].bias[0] = 0.0
    network.down[1][0].weight[:2] = 0.0  # always 1 and, behind the ReLU, always 0
    network.down[1][0].bias[:2] = torch.tensor([1.0, -1.0])
    found = IntegerUNet(network, measured(network, image))(image)
    assert torch.isfinite(found).all()
    assert (found - network(image)).abs().mean() < 0.1 * network(image).std()


@needs_integers
def test_convolution_is_exact_where_codes_can_be() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (5, 3, 3, 3, 3), generator=generator).float()
    weight[:, 0, 0, 0, 0] = 127.0  # so that the scale is 1
    codes = torch.randint(0, 256, (1, 3, 6, 7, 8), generator=generator, dtype=torch.uint8)
    taken = Coding(step=torch.tensor([0.5, 0.5, 0.5]), offset=torch.tensor([-3.0, 0.0, 7.0]))
    values = codes * taken.step.view(1, 3, 1, 1, 1) + taken.offset.view(1, 3, 1, 1, 1)
    bias = torch.arange(5.0)
    inside = (slice(None), slice(None), *[slice(1, -1)] * 3)  # the frame takes the place of padding
    expected = torch.nn.functional.conv3d(values.double(), weight.double(), bias.double(), padding=1)[inside]
    codes = codes.contiguous(memory_format=torch.channels_last_3d)
    found = IntegerConvolution(weight, bias, taken=taken, given=None)(codes)[inside]
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=0.05)
    given = Coding(step=torch.full((5,), 200.0), offset=torch.full((5,), -20_000.0))
    coded = IntegerConvolution(weight, bias, taken=taken, given=given)(codes)[inside]
    wanted = ((expected + 20_000.0) / 200.0).round().clamp(0, 255)
    assert coded.dtype == torch.uint8
    assert (coded.double() - wanted).abs().max() <= 1 and (coded.double() == wanted).double().mean() > 0.99
    assert 0 in wanted and 255 in wanted, "both ends are tested"


@given(hnp.arrays(np.float32, (2, 3, 2, 3, 3), elements=st.floats(-127, 127, width=32)))
def test_rounding_keeps_each_kernels_sum_and_moves_no_weight_by_a_unit(weight: np.ndarray) -> None:
    kernels = torch.from_numpy(weight)
    rounded = rounded_kernels(kernels).double()
    assert (rounded.sum(dim=(2, 3, 4)) - kernels.double().sum(dim=(2, 3, 4))).abs().max() <= 0.5 + 1e-3
    assert (rounded - kernels).abs().max() <= 1.0


def test_rounding_leaves_whole_numbers_alone() -> None:
    weight = torch.randint(-127, 128, (4, 4, 3, 3, 3)).float()
    assert torch.equal(rounded_kernels(weight).float(), weight)


@settings(max_examples=50)
@given(hnp.arrays(np.float32, (1, 1, 2, 3, 4), elements=st.floats(-1.5, 1.5, width=32)))
def test_image_is_coded_to_within_a_hounsfield_unit_with_zeros_around_it(image: np.ndarray) -> None:
    codes, coding = coded_image(torch.from_numpy(image)), image_coding()
    values = (codes * coding.step.view(1, -1, 1, 1, 1) + coding.offset.view(1, -1, 1, 1, 1)).sum(dim=1)[0]
    half_a_window_hu = 750.0
    assert codes.dtype == torch.uint8 and codes.is_contiguous(memory_format=torch.channels_last_3d)
    inner = values[1:-1, 1:-1, 1:-1].numpy()
    assert np.abs(inner - image[0, 0].clip(-1, 1)).max() * half_a_window_hu < 0.8
    values[1:-1, 1:-1, 1:-1] = 0.0
    assert values.abs().max() * half_a_window_hu < 0.8


def test_codings_cover_zero_and_say_which_code_it_is() -> None:
    activation = ActivationRange(torch.tensor([-1.0, 2.0, -5.1, 0.0]), torch.tensor([4.1, 5.1, -2.0, 0.0]))
    coding = Coding.covering(activation)
    assert coding.zero.tolist() == [50, 0, 255, 0]
    assert (coding.step * coding.zero + coding.offset).tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    assert (coding.step * 255 + coding.offset).tolist() == pytest.approx([4.1, 5.1, 0.0, 0.0], abs=1e-6)
    assert coding.offset.tolist() == pytest.approx([-1.0, 0.0, -5.1, 0.0])
    assert (coding.step > 0.0).all(), "weights are divided by it"


@pytest.mark.parametrize(
    ("gain", "shift", "zero", "padding", "ends"),
    [
        (2.0, -2.0, 0, 100, (0, 255)),  # 0 to 2.55 becomes -2 to 3.1
        (-2.0, 2.0, 255, 155, (0, 255)),  # and 2 to -3.1
        (2.0, -20.0, 0, 255, (0, 255)),  # -20 to -14.9: the codes reach up to 0, which is padded with
        (-2.0, 20.0, 255, 0, (0, 255)),
        (2.0, 10.2, 170, 0, (170, 255)),  # 10.2 to 15.3: the codes reach down to 0, and the ReLU ends in their middle
        (-2.0, -10.2, 85, 255, (0, 85)),
        (0.0, 3.0, 0, 0, (0, 255)),  # always 3
    ],
)
def test_coding_of_a_relu_covers_what_is_padded_with(
    gain: float, shift: float, zero: int, padding: int, ends: tuple[int, int]
) -> None:
    activation = ActivationRange(torch.zeros(1), torch.tensor([2.55]))
    coding = Coding.of_relu(activation, gain=torch.tensor([gain]), shift=torch.tensor([shift]))
    normalised = coding.scaled(torch.tensor([gain]), shift=torch.tensor([shift]))
    found = coding.ends_of_relu() or (torch.tensor([0]), torch.tensor([255]))
    assert (coding.zero.item(), normalised.zero.item()) == (zero, padding)
    assert tuple(int(end) for end in found) == ends
    assert gain == 0.0 or normalised.step.item() > 0.0, "of two codes the larger one has the higher value"


def test_codes_of_a_relu_fall_where_the_gain_is_negative() -> None:
    gain, shift = torch.tensor([-2.0]), torch.tensor([2.0])
    coding = Coding.of_relu(ActivationRange(torch.zeros(1), torch.tensor([2.55])), gain=gain, shift=shift)
    in_the_end, codes = coding.scaled(gain, shift=shift), torch.tensor([0, 155, 255])
    # The table in the docstring of `of_relu`.
    assert (coding.step * codes + coding.offset).tolist() == pytest.approx([2.55, 1.0, 0.0], abs=1e-6)
    assert (in_the_end.step * codes + in_the_end.offset).tolist() == pytest.approx([-3.1, 0.0, 2.0], abs=1e-6)


def test_machine_that_adds_in_16_bits_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(self: IntegerConvolution, codes: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 16, *codes.shape[2:]), 32767.0)

    monkeypatch.setattr(IntegerConvolution, "__init__", lambda self, *_, **__: None)
    monkeypatch.setattr(IntegerConvolution, "__call__", saturating)
    assert not int8_convolution.integers_are_exact.__wrapped__()


@pytest.mark.parametrize("operators", [object(), SimpleNamespace(qconv_prepack=lambda weight: weight)])
def test_torch_without_these_operators_or_with_others_has_none(
    monkeypatch: pytest.MonkeyPatch, operators: object
) -> None:
    monkeypatch.setattr(torch.ops, "onednn", operators)
    assert not int8_convolution.integers_are_exact.__wrapped__()


@pytest.mark.parametrize(
    ("bfloat16", "int8", "exact", "quantized", "expected"),
    [
        (True, True, True, True, "bfloat16"),
        (False, True, True, True, "int8"),
        (False, True, False, True, "float32"),
        (False, True, True, False, "float32"),
        (False, False, True, True, "float32"),
    ],
)
def test_precision_is_the_fastest_that_is_right(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, int8: bool, exact: bool, quantized: bool, expected: str
) -> None:
    monkeypatch.setattr(patch_predictor, "gains_from_bfloat16", lambda _device: bfloat16)
    monkeypatch.setattr(patch_predictor, "gains_from_int8", lambda _device: int8)
    monkeypatch.setattr(patch_predictor, "integers_are_exact", lambda: exact)
    assert precision_on("cpu", quantized=quantized) == expected


@needs_integers
def test_patch_is_computed_in_integers_where_the_processor_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = trained_like(), smooth_noise(torch.Generator().manual_seed(4))
    integers = IntegerUNet(network, measured(network, image))
    exact = PatchPredictor(network, device="cpu")(image)
    monkeypatch.setattr(patch_predictor, "gains_from_bfloat16", lambda _device: False)
    monkeypatch.setattr(patch_predictor, "gains_from_int8", lambda _device: True)
    predictor = PatchPredictor(network, device="cpu", integers=integers)
    found = predictor(image)
    assert predictor.precision == "int8" and not torch.equal(found, exact)
    assert found.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert (found - exact).abs().mean() < 0.02
