"""Several processes that train one network, each on its part of every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """The processes that share each batch: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1


def average_gradients(network: torch.nn.Module, *, world: World) -> None:
    """Replace each gradient by its mean over the processes.

    That is the gradient of the whole batch if the loss is a mean over samples. The cross-entropy is one over the
    voxels with a label, so the two differ a little where the processes' crops have different numbers of them; and
    batch normalisation sees each process's own crops.
    """
    import torch

    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world.size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def share_buffers(network: torch.nn.Module) -> None:
    """Take over the statistics of batch normalisation of the first process, which it saves."""
    import torch

    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, src=0)
