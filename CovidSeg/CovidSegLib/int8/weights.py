"""Weights in 8 bits: each output channel of a convolution as int8 with its own scale, half the size of float16.

Stored beside each other as `NAME` (int8) and `NAME.scale` (float16, shaped so that their product is the weight).
The network computes with the product, as with any other weights; nothing is faster or slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCALE = ".scale"
LARGEST = 127
SMALLEST_SCALE = 2.0**-24


def dequantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors in float32, those in 8 bits multiplied by their scales."""
    return {
        name: tensor.float() * tensors[name + SCALE].float() if name + SCALE in tensors else tensor.float()
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }


def quantized(weight: torch.Tensor, *, channel_axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight as int8, and the scales by which to multiply it, float16.

    Args:
        weight: Any shape, float.
        channel_axis: Axis of the output channels; each has its own scale.
    """
    import torch

    others = [axis for axis in range(weight.ndim) if axis != channel_axis]
    largest = weight.abs().amax(dim=others, keepdim=True)
    # Never 0 in float16: a channel of weights too small for it has an output too small to matter.
    scale = (largest / LARGEST).clamp(min=SMALLEST_SCALE).half()
    rounded = torch.round(weight / scale.float()).clamp(-LARGEST, LARGEST)
    return rounded.to(torch.int8), scale
