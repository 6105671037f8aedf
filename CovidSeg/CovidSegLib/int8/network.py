"""The U-Net in 8-bit integers: codes from the image to the logits.

The network pads with zeros, but zero is another code in every channel. Activations therefore carry a frame of one voxel
that holds those codes: a convolution computes the frame as well, and what it puts there is written over. Batch
normalisation only changes what codes stand for, and is folded into the next convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from ..network import DEPTH
from .activations import ActivationRanges
from .convolution import LARGEST_CODE, Coding, IntegerConvolution

if TYPE_CHECKING:
    import torch

#: The image is stored in so many channels, which add up: 1021 levels of grey instead of 256, 1.5 HU apart. oneDNN takes
#: as long for one channel.
IMAGE_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class IntegerUNet:
    """The U-Net of `network.build_network`, computed in 8-bit integers on the CPU.

    Its weights are coded when it is first called, in about a third of a second, and kept. The network is not changed.

    Attributes:
        network: In evaluation mode; on the CPU when this is first called.
        activations: The ranges of its activations.
    """

    network: torch.nn.Module
    activations: ActivationRanges

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes, k, j, i), float32, of patches (batch, 1, k, j, i) with values of -1 to 1."""
        layers, codes, skips = self._layers, coded_image(patches), []
        for level, steps in enumerate(layers.down):
            if level:
                skips.append(codes)
                codes = _pooled(codes, zero=layers.down[level - 1][-1].zero)
            for step in steps:
                codes = step(codes)
        for expand, steps in zip(layers.expand, layers.up, strict=True):
            codes = _expanded(codes, skips.pop(), expand=expand)
            for step in steps:
                codes = step(codes)
        return layers.head(codes)[:, :, 1:-1, 1:-1, 1:-1]

    @cached_property
    def _layers(self) -> _Layers:
        """The network's layers with coded weights."""
        import torch

        layers: Any = self.network
        down, expand, up, skips = [], [], [], []
        with torch.no_grad():
            coding = image_coding()
            for level in range(DEPTH + 1):
                steps, coding = _double(layers.down[level], f"down.{level}", taken=coding, activations=self.activations)
                down.append(steps)
                skips.append(coding)
            for level in reversed(range(DEPTH)):
                step, coding = _expand(
                    layers.expand[level], f"expand.{level}", taken=coding, activations=self.activations
                )
                expand.append(step)
                both = coding.beside(skips[level])
                steps, coding = _double(layers.up[level], f"up.{level}", taken=both, activations=self.activations)
                up.append(steps)
            head = IntegerConvolution(layers.head.weight, layers.head.bias, taken=coding, given=None)
        return _Layers(down, expand, up, head)


@dataclass(frozen=True)
class _Step:
    """A convolution of framed codes.

    Attributes:
        convolution: Gives codes of 0 to 255; where code 0 stands for the value 0, that is the ReLU's output already.
        zero: (channels,) the codes of the frame.
        ends: The least and the largest code (channels,) of the ReLU's output; None if all codes are possible.
    """

    convolution: IntegerConvolution
    zero: torch.Tensor
    ends: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        codes = self.convolution(codes)
        if self.ends is not None:
            least, largest = (end.view(1, -1, 1, 1, 1) for end in self.ends)
            codes = codes.clamp_(least, largest)
        return _framed(codes, zero=self.zero)


@dataclass(frozen=True)
class _Layers:
    """The layers of the U-Net: on the way down, and on the way up from the deepest level."""

    down: list[list[_Step]]
    expand: list[_Step]
    up: list[list[_Step]]
    head: IntegerConvolution


def _double(
    block: torch.nn.Sequential, name: str, *, taken: Coding, activations: ActivationRanges
) -> tuple[list[_Step], Coding]:
    """Return a level's two convolutions, and what the codes of the second one stand for once they are normalised."""
    import torch

    steps = []
    for first in (0, 3):
        convolution, _relu, norm = cast(Any, block[first : first + 3])
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * gain
        given = Coding.of_relu(activations[f"{name}.{first + 1}"], gain=gain, shift=shift)
        # Expanded for the image alone, whose one channel is stored in several.
        weight = convolution.weight.expand(-1, len(taken.step), -1, -1, -1)
        folded = IntegerConvolution(weight, convolution.bias, taken=taken, given=given)
        taken = given.scaled(gain, shift=shift)
        steps.append(_Step(folded, zero=taken.zero, ends=given.ends_of_relu()))
    return steps, taken


def _expand(
    layer: torch.nn.ConvTranspose3d, name: str, *, taken: Coding, activations: ActivationRanges
) -> tuple[_Step, Coding]:
    """Return a transposed convolution, 2 x 2 x 2 with stride 2, as one of 1 x 1 x 1; and the coding of what it gives.

    It gives the channels of the eight voxels that each voxel becomes, one voxel after the other: (0, 0, 0),
    (0, 0, 1), (0, 1, 0) and so on to (1, 1, 1) in (k, j, i).
    """
    given = Coding.covering(activations[name])
    weight = layer.weight.permute(2, 3, 4, 1, 0).reshape(-1, layer.in_channels, 1, 1, 1)
    assert layer.bias is not None
    folded = IntegerConvolution(weight, layer.bias.repeat(8), taken=taken, given=given.repeated(8))
    return _Step(folded, zero=given.zero), given


def image_coding() -> Coding:
    """Return the coding of the image's channels, whose values add up to the image."""
    import torch

    step = torch.full((IMAGE_CHANNELS,), 2.0 / (IMAGE_CHANNELS * LARGEST_CODE))
    return Coding(step, torch.full_like(step, -1.0 / IMAGE_CHANNELS))


def coded_image(patches: torch.Tensor) -> torch.Tensor:
    """Return the framed codes (batch, IMAGE_CHANNELS, k + 2, j + 2, i + 2) of patches (batch, 1, k, j, i), -1 to 1."""
    import torch

    framed = torch.nn.functional.pad(patches, (1, 1) * 3)
    level = torch.round((framed.clamp(-1.0, 1.0) + 1.0) * (IMAGE_CHANNELS * LARGEST_CODE / 2)).to(torch.int16)
    # floor((n + 0) / 4) + ... + floor((n + 3) / 4) = n: the channels differ by one code at most.
    parts = [((level + channel) // IMAGE_CHANNELS).to(torch.uint8) for channel in range(IMAGE_CHANNELS)]
    return torch.stack(parts, dim=-1)[:, 0].permute(0, 4, 1, 2, 3)


def _framed(codes: torch.Tensor, *, zero: torch.Tensor) -> torch.Tensor:
    """Return codes (batch, channels, k, j, i) with those of zero (channels,) written into their outermost voxels."""
    for axis in (2, 3, 4):
        for end in (0, -1):
            codes.select(axis, end)[:] = zero.view(1, -1, 1, 1)
    return codes


def _new_codes(batch: int, channels: int, *, shape_kji: tuple[int, ...]) -> torch.Tensor:
    """Return room for framed codes (batch, channels, k + 2, j + 2, i + 2)."""
    import torch

    shape = (batch, channels, *(size + 2 for size in shape_kji))
    return torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last_3d)


def _pooled(codes: torch.Tensor, *, zero: torch.Tensor) -> torch.Tensor:
    """Return framed codes pooled by two: of each channel's codes the one with the highest value."""
    import torch

    # torch's own pooling does not take bytes.
    inner = codes[:, :, 1:-1, 1:-1, 1:-1]
    for axis in (2, 3, 4):
        halves = inner.unflatten(axis, (-1, 2))
        inner = torch.maximum(halves.select(axis + 1, 0), halves.select(axis + 1, 1))
    pooled = _new_codes(*codes.shape[:2], shape_kji=inner.shape[2:])
    pooled[:, :, 1:-1, 1:-1, 1:-1] = inner
    return _framed(pooled, zero=zero)


def _expanded(codes: torch.Tensor, skip: torch.Tensor, *, expand: _Step) -> torch.Tensor:
    """Return the framed codes of a level: those of the level below at twice the size, and beside them its own.

    Args:
        codes: Framed codes of the level below, (batch, channels below, k + 2, j + 2, i + 2).
        skip: The level's own, (batch, channels, 2 k + 2, 2 j + 2, 2 i + 2).
        expand: Gives the channels of eight voxels for each voxel.
    """
    eight = expand.convolution(codes)[:, :, 1:-1, 1:-1, 1:-1]  # (batch, 8 * channels, k, j, i)
    batch, channels, *framed_kji = skip.shape
    both = _new_codes(batch, 2 * channels, shape_kji=tuple(size - 2 for size in framed_kji))
    both[:, channels:] = skip
    inner = both[:, :channels, 1:-1, 1:-1, 1:-1]  # (batch, channels, 2 k, 2 j, 2 i)
    for part, (dk, dj, di) in zip(eight.split(channels, dim=1), product((0, 1), repeat=3), strict=True):
        inner[:, :, dk::2, dj::2, di::2] = part
    _framed(both[:, :channels], zero=expand.zero)
    return both
