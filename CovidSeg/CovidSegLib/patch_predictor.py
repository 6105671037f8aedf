"""The network on a device, in the precision that is fastest there: patches in, class probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .device import gains_from_bfloat16, gains_from_int8
from .int8.convolution import integers_are_exact
from .int8.network import IntegerUNet
from .network import SIZE_MULTIPLE

if TYPE_CHECKING:
    import torch

#: Size of the patch of noise on which devices are compared: 2 x 2 x 2 voxels remain on the network's deepest level.
PROBE_KJI = (2 * SIZE_MULTIPLE,) * 3
#: Largest difference in a probability; devices that work agree to some 1e-4 in float32.
PROBE_TOLERANCE = 0.01


def precision_on(device: str, *, quantized: bool) -> str:
    """Return the precision in which a network is computed: "bfloat16", "int8" or "float32".

    Args:
        device: A device from `resolve_device`.
        quantized: Whether the ranges of the network's activations are known, which "int8" needs.
    """
    if gains_from_bfloat16(device):
        return "bfloat16"
    return "int8" if quantized and gains_from_int8(device) and integers_are_exact() else "float32"


class PatchPredictor:
    """The network on a device, as the sliding window calls it."""

    def __init__(self, network: torch.nn.Module, *, device: str, integers: IntegerUNet | None = None) -> None:
        """Move the network to the device, in evaluation mode and the memory format that is fastest.

        Args:
            network: Maps (batch, 1, k, j, i) to logits (batch, classes, k, j, i).
            device: A device from `resolve_device`.
            integers: The same network quantized to 8-bit integers, if the bundle has the ranges of its activations.
        """
        import torch

        self.kind = device.partition(":")[0]
        # Not on mps: it copies channels-last patches into plain order, and has misread channels-last weights
        # (https://github.com/pytorch/pytorch/issues/192212).
        self.format = torch.contiguous_format if self.kind == "mps" else torch.channels_last_3d
        self.network = network.to(torch.device(device), memory_format=self.format).eval()  # type: ignore[call-overload]
        self.precision = precision_on(device, quantized=integers is not None)
        self._logits: Callable[[torch.Tensor], torch.Tensor] = self.network
        if integers is not None and self.precision == "int8":
            self._logits = integers

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the softmax (batch, classes, k, j, i), float32, of patches (batch, 1, k, j, i) on the device."""
        import torch

        patches = patches.contiguous(memory_format=self.format)
        with torch.autocast(self.kind, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self._logits(patches)
        return torch.softmax(logits.float(), dim=1)


class WrongResultsError(RuntimeError):
    """A device computes without an error, but its results are wrong."""


def check_results(network: torch.nn.Module, *, device: str) -> None:
    """Check on a small patch that a device computes what the CPU does.

    Under macOS 26.2, Conv3d on mps silently gave wrong results: https://github.com/pytorch/pytorch/issues/197114

    Raises:
        WrongResultsError: It does not.
    """
    expected, found = (_probabilities_of_noise(network, device=name) for name in ("cpu", device))
    if not np.allclose(found, expected, rtol=0.0, atol=PROBE_TOLERANCE):
        raise WrongResultsError(f"{device} computes something else than the CPU")


def _probabilities_of_noise(network: torch.nn.Module, *, device: str) -> np.ndarray:
    """Return the class probabilities of a small patch of noise, always the same."""
    import torch

    noise = torch.rand((1, 1, *PROBE_KJI), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return np.asarray(PatchPredictor(network, device=device)(noise.to(device)).cpu().numpy())
