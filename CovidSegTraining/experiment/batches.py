"""The experiment's volumes on their device, and the stream of batches cut from them.

Every random number follows from the seed, the fold, the epoch, the kind of crop (training or validation) and the crop's
number in the epoch. A run that was interrupted, or that several processes share, therefore sees the same crops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from .augmentation import Volume, crop_batch, draw_crop
from .cache import PreparedCase
from .config import Augmentation, Patches
from .loss import UNKNOWN
from .world import World

if TYPE_CHECKING:
    import torch

#: Volumes stay on the GPU if they take no more than this share of its free memory.
GPU_SHARE = 0.25
#: Bytes per voxel: image float32, labels uint8.
_VOXEL_BYTES = 5

_Tensors = TypeVar("_Tensors", bound="tuple[torch.Tensor, ...]")


class Volumes(Sequence[Volume]):
    """Prepared cases as tensors: on the device, or in pinned memory and copied at each access if they do not fit."""

    def __init__(self, cases: Sequence[PreparedCase], *, device: torch.device, pinned: bool | None = None) -> None:
        """Move the cases to where they are kept; with `pinned` None that depends on the room on the device."""
        self.device = device
        self.pinned = not _has_room(device, cases=cases) if pinned is None else pinned
        self._volumes = [self._kept(case) for case in cases]

    def __len__(self) -> int:
        return len(self._volumes)

    def __getitem__(self, number: int) -> Volume:  # type: ignore[override]
        volume = self._volumes[number]
        if not self.pinned:
            return volume
        image, labels = (t.to(self.device, non_blocking=True) for t in (volume.image, volume.labels))
        return Volume(image, labels, volume.complete)

    @cached_property
    def side_stream(self) -> SideStream | None:
        """The GPU's stream in which the next batch is made while the present one is in use; None on a CPU."""
        # One stream for all epochs, because torch reuses memory that a stream has freed in that stream only.
        return SideStream(self.device) if self.device.type == "cuda" else None

    def _kept(self, case: PreparedCase) -> Volume:
        import torch

        tensors = (torch.from_numpy(case.image_kji), torch.from_numpy(case.labels_kji))
        image, labels = (t.pin_memory() if self.pinned else t.to(self.device) for t in tensors)
        return Volume(image, labels, complete=not bool((case.labels_kji == UNKNOWN).any()))


def _has_room(device: torch.device, *, cases: Sequence[PreparedCase]) -> bool:
    """Tell whether all volumes may stay on the device."""
    import torch

    if device.type != "cuda":
        return True
    size_bytes = _VOXEL_BYTES * sum(case.image_kji.size for case in cases)
    # Memory that the previous fold has freed counts as free, too, although torch still reserves it.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return bool(size_bytes <= GPU_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))


@dataclass(frozen=True)
class CropStream:
    """The crops of one kind (training or validation) of a run.

    Attributes:
        volumes: The volumes that crops are cut from, all equally often (but for a remainder of one crop).
        patches: Size of a crop, and crops per batch.
        augmentation: None for plain crops.
        shuffled: Whether each epoch takes the volumes in a new order.
        seeds: Seed, fold and kind of crop.
    """

    volumes: Volumes
    patches: Patches
    augmentation: Augmentation | None
    shuffled: bool
    seeds: tuple[int, ...]

    def epoch(self, epoch: int, *, crops: int, world: World) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield this process's part of each batch of an epoch: images (n, 1, k, j, i) and labels (n, k, j, i).

        Args:
            epoch: Counted from 0.
            crops: Number in the whole epoch, over all processes; the last batch may be smaller than the others.
            world: The processes that share each batch.
        """
        order = np.arange(len(self.volumes))
        if self.shuffled:
            np.random.default_rng([*self.seeds, epoch]).shuffle(order)
        batch = self.patches.batch

        def make_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            numbers = range(number * batch, min((number + 1) * batch, crops))[world.rank :: world.size]
            rngs = (np.random.default_rng([*self.seeds, epoch, crop]) for crop in numbers)
            return crop_batch(
                [self.volumes[order[crop % len(order)]] for crop in numbers],
                draws=[draw_crop(self.augmentation, rng=rng) for rng in rngs],
                size_kji=self.patches.size_kji,
                settings=self.augmentation,
            )

        return prefetched(make_batch, count=math.ceil(crops / batch), stream=self.volumes.side_stream)


class SideQueue(Protocol):
    """A queue of work that runs beside the rest of the program; `SideStream`, or a stand-in for tests."""

    def begin(self, make: Callable[[], _Tensors]) -> tuple[_Tensors, Any]:
        """Start making tensors; return them, perhaps not filled yet, and the event of their being ready."""

    def hand_over(self, tensors: _Tensors, ready: Any) -> None:
        """Make the rest of the program wait until these tensors are ready."""


class SideStream:
    """A CUDA stream beside the current one."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._side, self._current = torch.cuda.Stream(device, priority=-1), torch.cuda.current_stream(device)
        self._side.wait_stream(self._current)

    def begin(self, make: Callable[[], _Tensors]) -> tuple[_Tensors, torch.cuda.Event]:
        """See `SideQueue`."""
        import torch

        with torch.cuda.stream(self._side):
            tensors = make()
            return tensors, self._side.record_event()

    def hand_over(self, tensors: _Tensors, ready: torch.cuda.Event) -> None:
        """See `SideQueue`; their memory is not reused before the current stream is done with them."""
        self._current.wait_event(ready)
        for tensor in tensors:
            tensor.record_stream(self._current)


def prefetched(make: Callable[[int], _Tensors], *, count: int, stream: SideQueue | None) -> Iterator[_Tensors]:
    """Yield make(0), make(1), ..., each begun before the one before it is yielded.

    Args:
        make: Returns a tuple of tensors.
        count: How many to yield, at least one.
        stream: Where they are made; None makes each only when it is asked for.
    """
    if stream is None:
        yield from map(make, range(count))
        return
    following = stream.begin(partial(make, 0))
    for number in range(count):
        tensors, ready = following
        if number + 1 < count:
            following = stream.begin(partial(make, number + 1))
        stream.hand_over(tensors, ready)
        yield tensors
