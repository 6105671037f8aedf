"""Batch normalisation over several processes on the CPU, for which torch has none."""

from __future__ import annotations

from typing import Any

import torch


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(context, gradients[0])


class SharedBatchNorm(torch.nn.BatchNorm3d):
    """Batch normalisation with the statistics of all processes' crops, of which each process has equally many."""

    @classmethod
    def of(cls, norm: torch.nn.BatchNorm3d) -> SharedBatchNorm:
        """Return a copy of a norm, with its weights and statistics under the same names."""
        shared = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        shared.load_state_dict(norm.state_dict())
        return shared.to(next(norm.buffers()).device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, c, k, j, i), normalised per channel."""
        if not self.training:
            return super().forward(x)
        values, axes = x.float(), (0, 2, 3, 4)
        # Mean first, variance of the centred values second: E[x^2] - E[x]^2 would lose digits.
        mean = _mean(values.mean(axes))
        centred = values - _along_channels(mean)
        variance = _mean(centred.square().mean(axes))
        self._update_running_statistics(
            mean.detach(), variance.detach(), count=torch.distributed.get_world_size() * x.numel() // x.shape[1]
        )
        normalised = centred * _along_channels((variance + self.eps).rsqrt())
        if self.affine:
            normalised = normalised * _along_channels(self.weight) + _along_channels(self.bias)
        return normalised.to(x.dtype)

    def _update_running_statistics(self, mean: torch.Tensor, variance: torch.Tensor, *, count: int) -> None:
        """Update the running mean and variance; like torch, with the unbiased variance."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / max(count - 1, 1), share)


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over all processes."""
    summed: torch.Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return summed / torch.distributed.get_world_size()


def _along_channels(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(1, -1, 1, 1, 1)
