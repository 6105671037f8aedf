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


#: How long the processes wait for each other. The first one may need hours to prepare the cases of a large study;
#: NCCL's default of 10 minutes would end the others meanwhile.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """The processes that share each batch, in torch's words: this process's number (rank), and how many there are."""

    rank: int = 0
    size: int = 1


@contextmanager
def joined_world(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that torchrun has started; without torchrun, this process is alone.

    Args:
        device: auto, cpu or cuda, of which each process takes a GPU of its own; if it is alone, cuda:N or mps as well.

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
    # Not after an error: NCCL would wait here for processes that wait for this one, and the error would never be seen.
    torch.distributed.destroy_process_group()


def average_gradients(network: torch.nn.Module, *, world: World) -> None:
    """Replace each gradient by its mean over the processes.

    That is the gradient of the whole batch as far as the loss is a mean over samples. The cross-entropy is a mean over
    the voxels with a label instead, so the two differ a little if the processes' crops have different numbers of these.
    """
    import torch

    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world.size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def share_buffers(network: torch.nn.Module) -> None:
    """Copy the batch-normalisation statistics of the first process, which saves the checkpoints, to all others."""
    import torch

    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, src=0)


def share_batch_norm(network: torch.nn.Module, *, device: torch.device) -> torch.nn.Module:
    """Return the network with batch normalisation over the crops of all processes, as if one process had them all."""
    import torch

    if device.type == "cuda":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # torch's own synchronised batch normalisation needs GPUs.
    from .world_norm import SharedBatchNorm

    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.BatchNorm3d:
                setattr(module, name, SharedBatchNorm.of(child))
    return network
