"""Convolutions of 8-bit integers, for CPUs that multiply these several times faster than floats.

Every value of an activation is stored as a byte, its code, with a step (the scale of quantization) and an offset per
channel: value = step * code + offset. A convolution of codes is then one of integers, into whose weights and bias the
steps and offsets of its input and output are folded.
Codes end at 0 and 255, and so a byte whose code 0 stands for the value 0 is a ReLU's output already.

The convolutions are oneDNN's, called by the operators that torch's own compiler uses for quantized networks.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", section 2; METHOD section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from .activations import ActivationRange

if TYPE_CHECKING:
    import torch

LARGEST_CODE = 255
LARGEST_WEIGHT = 127
#: Of a channel that never changes, and of a filter of zeros, so that nothing is divided by zero.
SMALLEST_STEP = 1e-12


@dataclass(frozen=True)
class Coding:
    """How the values of an activation are coded: value = step * code + offset, channel by channel.

    Attributes:
        step: (channels,) float32.
        offset: (channels,) float32, the value of code 0.
    """

    step: torch.Tensor
    offset: torch.Tensor

    @classmethod
    def covering(cls, activation: ActivationRange) -> Coding:
        """Return the coding whose 256 codes cover the values of an activation, and 0."""
        lowest = activation.lowest.clamp(max=0.0)
        return cls(_steps(lowest, activation.highest), lowest)

    @classmethod
    def of_relu(cls, activation: ActivationRange, *, gain: torch.Tensor, shift: torch.Tensor) -> Coding:
        """Return the coding of a ReLU's output that is going to be multiplied by `gain` and shifted by `shift`.

        It covers the output, and the value that becomes 0 in the end, because that is padded with. Where the gain is
        negative, codes fall: code 0 stands for the highest value, so that of two codes the larger one always has the
        higher value in the end. An output of 0 to 2.55 with a gain of -2 and a shift of 2, for instance:

            code        0    155   255
            output      2.55 1.00  0.00
            in the end -3.10 0.00  2.00

        Args:
            activation: The output.
            gain: (channels,).
            shift: (channels,).
        """
        import torch

        becomes_zero = torch.where(gain == 0.0, 0.0, -shift / gain)
        # Less than half a code away, it is rounded to the code of 0.
        is_covered = becomes_zero > -_steps(torch.zeros_like(becomes_zero), activation.highest) / 2.0
        lowest = torch.where(is_covered, 0.0, becomes_zero)
        highest = torch.maximum(activation.highest, becomes_zero)
        step = _steps(lowest, highest)
        falls = gain < 0.0
        # The offset is the value of code 0: the lowest where codes rise, the highest where they fall.
        return cls(torch.where(falls, -step, step), torch.where(falls, lowest + step * LARGEST_CODE, lowest))

    def ends_of_relu(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the least and the largest code (channels,) that stand for 0 or above; None if all do.

        Where codes rise, these are the code of 0 and the larger ones; where they fall, the smaller ones.
        """
        import torch

        falls = self.step < 0.0
        least = torch.where(falls, 0, self.zero)
        largest = torch.where(falls, self.zero, LARGEST_CODE)
        all_do = bool((least == 0).all() and (largest == LARGEST_CODE).all())
        return None if all_do else (least.to(torch.uint8), largest.to(torch.uint8))

    def scaled(self, gain: torch.Tensor, *, shift: torch.Tensor) -> Coding:
        """Return what the same codes stand for when values are multiplied by `gain` and `shift` is added."""
        return Coding(self.step * gain, self.offset * gain + shift)

    def beside(self, other: Coding) -> Coding:
        """Return the coding of this activation's channels followed by another's."""
        import torch

        return Coding(torch.cat([self.step, other.step]), torch.cat([self.offset, other.offset]))

    def repeated(self, times: int) -> Coding:
        """Return the coding of the channels repeated, all of them one after the other."""
        return Coding(self.step.repeat(times), self.offset.repeat(times))

    @property
    def zero(self) -> torch.Tensor:
        """(channels,) uint8, the codes next to the value 0."""
        import torch

        return torch.round((-self.offset / self.step).nan_to_num()).clamp(0, LARGEST_CODE).to(torch.uint8)


def _steps(lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """Return the steps by which 256 codes lead from values to others."""
    return ((highest.clamp(min=0.0) - lowest) / LARGEST_CODE).clamp(min=SMALLEST_STEP)


class IntegerConvolution:
    """A convolution that takes codes and gives codes, or values if `given` is None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, taken: Coding, given: Coding | None) -> None:
        """Fold the codings into weight and bias, and round the weight to 8 bits.

        Args:
            weight: (out, in, k, j, i); the sizes k, j, i are odd.
            bias: (out,).
            taken: Coding of the `in` channels.
            given: Coding of the `out` channels; None if these are to be float32 values.
        """
        import torch

        as_weight = (-1, 1, 1, 1, 1)
        of_codes = weight * taken.step.view(1, -1, 1, 1, 1)
        of_bias = bias + (weight.sum(dim=(2, 3, 4)) * taken.offset).sum(dim=1)
        if given is not None:
            of_codes = of_codes / given.step.view(as_weight)
            of_bias = (of_bias - given.offset) / given.step
        scale = (of_codes.abs().amax(dim=(1, 2, 3, 4)) / LARGEST_WEIGHT).clamp(min=SMALLEST_STEP)
        rounded = rounded_kernels(of_codes / scale.view(as_weight))
        self._type = torch.float32 if given is None else torch.uint8
        self._shape = {
            "stride": [1] * 3,
            "padding": [n // 2 for n in weight.shape[2:]],
            "dilation": [1] * 3,
            "groups": 1,
        }
        self._scales = {"w_scale": scale.float(), "w_zero_point": torch.zeros_like(scale, dtype=torch.int32)}
        self._bias = of_bias.float()
        # As far as oneDNN knows, codes are the values.
        self._weight = torch.ops.onednn.qconv_prepack(
            rounded, w_scales=scale.float(), x_scale=1.0, x_zp=0, **self._shape
        )

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Return (batch, out, k, j, i) of (batch, in, k, j, i) uint8, channels last."""
        import torch

        return torch.ops.onednn.qconv_pointwise(  # type: ignore[no-any-return]
            codes,
            x_scale=1.0,
            x_zero_point=0,
            qw=self._weight,
            **self._scales,
            bias=self._bias,
            **self._shape,
            output_scale=1.0,
            output_zero_point=0,
            output_dtype=self._type,
            attr="none",
            scalars=[],
            algorithm="",
        )


def rounded_kernels(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight (out, in, k, j, i) as int8, rounded so that the sum of each kernel (k, j, i) is kept.

    Neighbouring voxels are alike, and codes never negative. What rounding changes in a kernel's weights would add up,
    and the network would find some per cent more or less infection everywhere.
    """
    import torch

    nearest = torch.round(weight)
    lost = (weight - nearest).flatten(start_dim=2)
    missing = torch.round(lost.sum(dim=2, keepdim=True))
    # As many weights as units are missing are rounded the other way: those next to the middle between two integers.
    order, size = lost.argsort(dim=2), lost.shape[2]
    rank = torch.empty_like(order).scatter_(2, order, torch.arange(size).expand_as(order))
    up, down = rank >= size - missing, rank < -missing
    rounded = nearest + (up.int() - down.int()).view_as(weight)
    return rounded.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT).to(torch.int8)


@cache
def integers_are_exact() -> bool:
    """Tell whether torch has convolutions of integers on this machine, and these give the true sums.

    Some CPUs add in 16 bits and stop at their end. The largest codes and weights show it.
    """
    try:
        return all(_is_exact(size, coded=coded) for size in (1, 3) for coded in (False, True))
    except (AttributeError, TypeError, RuntimeError):
        return False  # torch promises neither that the operators are there, nor what they take


def _is_exact(size: int, *, coded: bool) -> bool:
    """Tell whether kernels of this size give the true sums: as values or, rounded to a step, as codes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (1, 16, 4, 4, 4), generator=generator) * LARGEST_CODE
    weight = torch.randint(0, 2, (16, 16, size, size, size), generator=generator) * LARGEST_WEIGHT
    expected = torch.nn.functional.conv3d(codes.double(), weight.double(), padding=size // 2)
    as_they_are = Coding(torch.ones(16), torch.zeros(16))
    step = float(expected.max()) / LARGEST_CODE if coded else 1.0
    given = Coding(torch.full((16,), step), torch.zeros(16)) if coded else None
    convolution = IntegerConvolution(weight.float(), torch.zeros(16), taken=as_they_are, given=given)
    found = convolution(codes.to(torch.uint8).contiguous(memory_format=torch.channels_last_3d))
    return bool(torch.allclose(found.double() * step, expected, rtol=1e-5, atol=0.51 * step))
