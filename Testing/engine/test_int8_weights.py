"""Weights in 8 bits: rounding by hand, channels apart, nothing infinite."""

from __future__ import annotations

import torch
from CovidSegLib.int8.weights import SCALE, dequantized, quantized


def test_rounding_by_hand() -> None:
    weight = torch.tensor([[1.27, -0.634, 0.004], [0.0127, 0.0, -0.0127]])
    whole, scale = quantized(weight, channel_axis=0)
    assert whole.tolist() == [[127, -63, 0], [127, 0, -127]]
    torch.testing.assert_close(scale.float(), torch.tensor([[0.01], [0.0001]]), rtol=1e-3, atol=0.0)
    back = dequantized({"w": whole, "w" + SCALE: scale})["w"]
    torch.testing.assert_close(back, torch.tensor([[1.27, -0.63, 0.0], [0.0127, 0.0, -0.0127]]), rtol=2e-3, atol=0.0)


def test_each_channel_of_the_named_axis_has_its_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 5, 2, 2, 2) * torch.tensor([1.0, 100.0, 0.01, 1.0, 10.0]).reshape(1, 5, 1, 1, 1)
    whole, scale = quantized(weight, channel_axis=1)
    assert scale.shape == (1, 5, 1, 1, 1) and scale.dtype == torch.float16
    assert whole.abs().amax(dim=(0, 2, 3, 4)).tolist() == [127] * 5
    largest = weight.abs().amax(dim=(0, 2, 3, 4))
    error = (dequantized({"w": whole, "w" + SCALE: scale})["w"] - weight).abs().amax(dim=(0, 2, 3, 4))
    assert (error <= 0.51 * largest / 127).all()


def test_dead_and_tiny_channels_stay_finite() -> None:
    weight = torch.tensor([[0.0, 0.0], [1e-12, -1e-12], [3e-7, 1e-7]])
    whole, scale = quantized(weight, channel_axis=0)
    assert (scale > 0).all()
    back = dequantized({"w": whole, "w" + SCALE: scale})["w"]
    torch.testing.assert_close(back, weight, rtol=0.0, atol=3e-8)


def test_other_tensors_are_passed_in_float32() -> None:
    found = dequantized({"norm.weight": torch.ones(2, dtype=torch.float16), "norm.running_var": torch.full((2,), 1e5)})
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(found, torch.float32)
    assert found["norm.running_var"].tolist() == [1e5, 1e5]
