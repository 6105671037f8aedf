"""Several processes that train one network, each on its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from CovidSegLib.device import resolve_device
from CovidSegLib.errors import DeviceError

if TYPE_CHECKING:
    import torch


#: How long the processes wait for each other: as long as the first one may need to prepare the cases of a large study.
#: nccl's own limit, 10 minutes, would end the others in the middle of it.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """The processes that share each batch: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1


@contextmanager
def joined_world(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that torchrun has started; without torchrun this process is the whole world.

    Args:
        device: auto, cpu or cuda; of several GPUs each process takes its own. By itself also cuda:N or mps.

    Yields:
        The world, and the device of this process.

    Raises:
        DeviceError: The device is not there, or there are fewer GPUs than processes.
    """
    import torch

    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"device '{device}' cannot be shared by {size} processes: use --device auto, cpu or cuda")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    else:
        device = "cpu"
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    yield World(torch.distributed.get_rank(), size), device
    # Not after an error: nccl would wait here for processes that wait for this one, and nobody would hear of the error.
    torch.distributed.destroy_process_group()


def average_gradients(network: torch.nn.Module, *, world: World) -> None:
    """Replace each gradient by its mean over the processes.

    That is the gradient of the whole batch if the loss is a mean over samples. The cross-entropy is one over the
    voxels with a label, so the two differ a little where the processes' crops have different numbers of them.
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


def share_batch_norm(network: torch.nn.Module, *, device: torch.device) -> torch.nn.Module:
    """Return the network with batch normalisation over the crops of all processes, as one process would have it."""
    import torch

    if device.type == "cuda":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # torch's own is for GPUs only.
    from .world_norm import SharedBatchNorm

    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.BatchNorm3d:
                setattr(module, name, SharedBatchNorm.of(child))
    return network
