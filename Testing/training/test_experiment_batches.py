from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_experiment import ball_cases, tiny_recipe

from CovidSegTraining.experiment import batches as experiment_batches
from CovidSegTraining.experiment.batches import GPU_SHARE, CropStream, Volumes, prefetched
from CovidSegTraining.experiment.cache import PreparedCase
from CovidSegTraining.experiment.loss import UNKNOWN
from CovidSegTraining.experiment.world import World

CASES = ball_cases()
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def _stream(*, shuffled: bool = True, cases: list[PreparedCase] = CASES) -> CropStream:
    recipe = tiny_recipe(patches__batch=4)
    return CropStream(
        Volumes(cases, device=CPU), recipe.patches, recipe.augmentation, shuffled=shuffled, seeds=(0, 1, 0)
    )


def test_epochs_differ_but_each_repeats_itself() -> None:
    stream = _stream()
    first, again, second = (
        torch.cat([image for image, _ in stream.epoch(n, crops=8, world=World())]) for n in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_processes_share_the_batches_of_one() -> None:
    stream = _stream()
    whole = list(stream.epoch(3, crops=8, world=World()))
    parts = [list(stream.epoch(3, crops=8, world=World(rank, 2))) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 2
    for batch, *shares in zip(whole, *parts, strict=True):
        for n in range(2):
            assert len(shares[0][n]) == len(shares[1][n]) == 2
            torch.testing.assert_close(torch.stack([shares[0][n], shares[1][n]], dim=1).flatten(0, 1), batch[n])


def test_every_case_comes_equally_often() -> None:
    cases = [replace(case, image_kji=np.full_like(case.image_kji, n + 1)) for n, case in enumerate(CASES)]
    plain = replace(_stream(cases=cases), augmentation=None)
    seen = [image.max().item() for images, _ in plain.epoch(0, crops=9, world=World()) for image in images]
    assert sorted(seen) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    last = [len(images) for images, _ in plain.epoch(0, crops=9, world=World())]
    assert last == [4, 4, 1]
    in_order = replace(plain, shuffled=False)
    assert [image.max().item() for images, _ in in_order.epoch(0, crops=3, world=World()) for image in images] == [
        1,
        2,
        3,
    ]


def test_volumes_know_whether_labels_are_unknown() -> None:
    labels = CASES[0].labels_kji.copy()
    labels[0, 0, 0] = UNKNOWN
    volumes = Volumes([CASES[0], replace(CASES[1], labels_kji=labels)], device=CPU)
    assert [volume.complete for volume in volumes] == [True, False] and not volumes.pinned


def test_prefetching_keeps_the_order() -> None:
    for stream in (None, _Recorder()):
        made = list(prefetched(lambda n: (torch.tensor(n),), count=4, stream=stream))
        assert [int(batch[0]) for batch in made] == [0, 1, 2, 3]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What is pinned, on a machine that cannot."""
    tensors: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return tensors


def test_volumes_are_pinned_if_the_gpu_has_no_room(pinned: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes = sum(case.image_kji.nbytes + case.labels_kji.nbytes for case in CASES)
    for free, expected in ((size_bytes / GPU_SHARE, 0), (size_bytes / GPU_SHARE - 1, 2 * len(CASES))):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **options: tensor)
        assert Volumes(CASES, device=GPU).pinned == bool(expected)
        assert len(pinned) == expected


def test_memory_that_torch_keeps_for_later_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(case.image_kji.nbytes + case.labels_kji.nbytes for case in CASES) / GPU_SHARE
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0.4 * needed, needed))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: needed)
    for in_use, room in ((0.4, True), (0.5, False)):
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device, share=in_use: share * needed)
        assert experiment_batches._has_room(GPU, cases=CASES) == room


def test_pinned_volumes_go_to_the_device_when_asked_for_and_do_not_wait(
    pinned: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = Volumes(CASES, device=torch.device("meta"), pinned=True)
    assert [tensor.device.type for tensor in pinned] == ["cpu"] * 6
    moved: list[Any] = []
    to = torch.Tensor.to

    def remembered(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        moved.append(options)
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", remembered)
    volume = volumes[1]
    assert volume.image.device.type == volume.labels.device.type == "meta" and volume.complete
    assert moved == [{"non_blocking": True}] * 2


def test_pinned_volumes_give_the_batches_of_others(pinned: list[torch.Tensor]) -> None:
    stream = _stream()
    other = replace(stream, volumes=Volumes(CASES, device=CPU, pinned=True))
    batches = [list(each.epoch(2, crops=8, world=World())) for each in (stream, other)]
    assert pinned
    for first, second in zip(*batches, strict=True):
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


class _Recorder:
    """A stream that notes what happens in which order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.number = -1

    def begin(self, make: Callable[[], Any]) -> tuple[Any, int]:
        made = make()
        self.number += 1
        self.events.append(f"begun {self.number}")
        return made, self.number

    def hand_over(self, tensors: Any, ready: int) -> None:
        self.events.append(f"waited for {ready}")


def test_next_batch_is_begun_before_this_one_is_used() -> None:
    stream = _Recorder()
    for (number,) in prefetched(lambda n: (torch.tensor(n),), count=3, stream=stream):
        stream.events.append(f"used {int(number)}")
    assert stream.events == [
        *("begun 0", "begun 1", "waited for 0", "used 0"),
        *("begun 2", "waited for 1", "used 1"),
        *("waited for 2", "used 2"),
    ]


def test_all_epochs_are_made_in_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[_Recorder] = []

    def side_stream(device: torch.device) -> _Recorder:
        opened.append(_Recorder())
        return opened[-1]

    monkeypatch.setattr(experiment_batches, "SideStream", side_stream)
    stream = _stream()
    assert stream.volumes.side_stream is None and not opened
    on_gpu = Volumes(CASES, device=CPU)
    on_gpu.device = GPU  # all but the streams is done on the CPU
    there = replace(stream, volumes=on_gpu)
    for epoch in range(3):
        for first, second in zip(*(each.epoch(epoch, crops=8, world=World()) for each in (stream, there)), strict=True):
            assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert len(opened) == 1 and len(opened[0].events) == 3 * 4  # two batches an epoch: begun, waited for


@pytest.mark.gpu
def test_gpu_memory_does_not_grow_with_the_epochs() -> None:
    recipe = tiny_recipe()
    stream = CropStream(
        Volumes(CASES, device=GPU, pinned=False), recipe.patches, recipe.augmentation, shuffled=True, seeds=(0,)
    )
    kept = []
    for _ in range(8):
        for _batch in stream.epoch(0, crops=8, world=World()):
            pass
        torch.cuda.synchronize()
        kept.append(torch.cuda.memory_reserved())
    assert kept[-1] < 2 * kept[1]


@pytest.mark.gpu
def test_gpu_batches_are_those_of_the_cpu_but_for_the_noise() -> None:
    recipe = tiny_recipe(augmentation__noise__probability=0.0, augmentation__elastic__probability=0.0)
    batches = []
    for device, pinned in ((CPU, False), (GPU, False), (GPU, True)):
        volumes = Volumes(CASES, device=device, pinned=pinned)
        stream = CropStream(volumes, recipe.patches, recipe.augmentation, shuffled=True, seeds=(0,))
        batches.append([image.cpu() for image, _ in stream.epoch(0, crops=40, world=World())])
    for on_cpu, *on_gpu in zip(*batches, strict=True):
        for image in on_gpu:
            torch.testing.assert_close(image, on_cpu, atol=1e-3, rtol=1e-3)
