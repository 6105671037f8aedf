"""The experiment's volumes on their device, and the stream of batches cut from them.

Every random number follows from seed, fold, epoch, kind and place of the crop, so that a run that was interrupted,
or one that several processes share, sees the same crops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from .experiment_augmentation import Volume, crop_batch, draw_crop
from .experiment_cache import PreparedCase
from .experiment_config import Augmentation, Patches
from .experiment_loss import UNKNOWN
from .world import World

if TYPE_CHECKING:
    import torch

#: Volumes stay on the GPU if they take no more than this share of its free memory.
GPU_SHARE = 0.25
#: Bytes per voxel: image float32, labels uint8.
_VOXEL_BYTES = 5

_Tensors = TypeVar("_Tensors", bound="tuple[torch.Tensor, ...]")


class Volumes(Sequence[Volume]):
    """Prepared cases on the device; if a GPU has no room for them, in pinned memory, copied when asked for."""

    def __init__(self, cases: Sequence[PreparedCase], *, device: torch.device, pinned: bool | None = None) -> None:
        """Take the cases over; `pinned` None: pinned if the GPU has no room."""
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
    def beside(self) -> Beside | None:
        """Where crops are made while others are used; None on a CPU."""
        # One for all epochs: memory that was freed in a stream is found again in that stream only.
        return SideStream(self.device) if self.device.type == "cuda" else None

    def _kept(self, case: PreparedCase) -> Volume:
        import torch

        tensors = (torch.from_numpy(case.image_kji), torch.from_numpy(case.labels_kji))
        image, labels = (t.pin_memory() if self.pinned else t.to(self.device) for t in tensors)
        return Volume(image, labels, complete=not bool((case.labels_kji == UNKNOWN).any()))


def _has_room(device: torch.device, *, cases: Sequence[PreparedCase]) -> bool:
    """Tell whether all volumes can stay on the device."""
    import torch

    if device.type != "cuda":
        return True
    size_bytes = _VOXEL_BYTES * sum(case.image_kji.size for case in cases)
    # What the fold before has left behind is free, too, though torch holds it.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return bool(size_bytes <= GPU_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))


@dataclass(frozen=True)
class CropStream:
    """The crops of one kind (training or validation) of a run.

    Attributes:
        volumes: What is cut from.
        patches: Size and number per batch.
        augmentation: None: plain crops.
        shuffled: Whether the cases come in a new order each epoch; each comes as often as any other, or once more.
        seeds: Seed, fold and kind.
    """

    volumes: Volumes
    patches: Patches
    augmentation: Augmentation | None
    shuffled: bool
    seeds: tuple[int, ...]

    def epoch(self, epoch: int, *, crops: int, world: World) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Give images (n, 1, k, j, i) and labels (n, k, j, i) of each batch of an epoch, this process's part of them.

        Args:
            epoch: From 0.
            crops: In the whole epoch; the last batch may be smaller.
            world: Which part.
        """
        order = np.arange(len(self.volumes))
        if self.shuffled:
            np.random.default_rng([*self.seeds, epoch]).shuffle(order)
        batch = self.patches.batch

        def make(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            places = range(number * batch, min((number + 1) * batch, crops))[world.rank :: world.size]
            return crop_batch(
                [self.volumes[order[place % len(order)]] for place in places],
                draws=[
                    draw_crop(self.augmentation, rng=np.random.default_rng([*self.seeds, epoch, place]))
                    for place in places
                ],
                size_kji=self.patches.size_kji,
                settings=self.augmentation,
            )

        return prefetched(make, count=math.ceil(crops / batch), beside=self.volumes.beside)


def prefetched(make: Callable[[int], _Tensors], *, count: int, beside: Beside | None) -> Iterator[_Tensors]:
    """Give make(0), make(1), ..., each made while the one before is used if there is a place beside.

    Args:
        make: Returns a tuple of tensors.
        count: How many.
        beside: None: each is made when it is asked for.
    """
    return map(make, range(count)) if beside is None else one_ahead(make, count=count, beside=beside)


class Beside(Protocol):
    """Where something is made while something else is used."""

    def begin(self, make: Callable[[], _Tensors]) -> tuple[_Tensors, Any]:
        """Start making; return the tensors to be, and what tells that they are made."""

    def hand_over(self, tensors: _Tensors, made: Any) -> None:
        """Let whoever uses the tensors wait until they are made."""


class SideStream:
    """A stream of a GPU beside the one in use."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._beside, self._used = torch.cuda.Stream(device, priority=-1), torch.cuda.current_stream(device)
        self._beside.wait_stream(self._used)

    def begin(self, make: Callable[[], _Tensors]) -> tuple[_Tensors, torch.cuda.Event]:
        """As in `Beside`."""
        import torch

        with torch.cuda.stream(self._beside):
            tensors = make()
            return tensors, self._beside.record_event()

    def hand_over(self, tensors: _Tensors, made: torch.cuda.Event) -> None:
        """As in `Beside`; the memory is not given away before the stream in use is done with it."""
        self._used.wait_event(made)
        for tensor in tensors:
            tensor.record_stream(self._used)


def one_ahead(make: Callable[[int], _Tensors], *, count: int, beside: Beside) -> Iterator[_Tensors]:
    """Give make(0), make(1), ... (at least one), each begun before the one before it is given."""
    following = beside.begin(partial(make, 0))
    for number in range(count):
        tensors, made = following
        if number + 1 < count:
            following = beside.begin(partial(make, number + 1))
        beside.hand_over(tensors, made)
        yield tensors
