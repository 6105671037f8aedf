"""Runs, cancels and scene closes in random order leave no thread, no node and no memory behind."""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from typing import Any

import pytest
from helpers_panel import Journey

pytestmark = pytest.mark.slicer


def nodes_by_class(scene: Any) -> Counter[str]:
    return Counter(scene.GetNthNode(index).GetClassName() for index in range(scene.GetNumberOfNodes()))


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "CovidSeg worker"]


class Shuffled:
    """Does things to a panel in random order, and knows what must be left afterwards."""

    def __init__(self, host: Any, *, seed: int) -> None:
        self.host = host
        self.random = random.Random(seed)
        self.journey = Journey(host, patches=3)
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        action = self.random.choice((self.run, self.run_again, self.cancel, self.close_scene, self.delete_ct))
        self.done[action.__name__] += 1
        action()

    def run(self) -> None:
        self._ct()
        self.journey.parameters.segmentation = None
        assert self.journey.run() is not None, self.journey.status

    def run_again(self) -> None:
        self._ct()
        assert self.journey.run() is not None, self.journey.status

    def cancel(self) -> None:
        self._ct()
        before = nodes_by_class(self.host.scene)
        self.journey.start()
        self.journey.engine.let_pass(self.random.randrange(4))
        for _ in range(self.random.randrange(20)):
            self.host.process_events()
        self.journey.ui.cancelButton.click()
        self.journey.wait_for_end()
        if not self.journey.status.startswith("Done"):
            assert nodes_by_class(self.host.scene) == before

    def close_scene(self) -> None:
        self._ct()
        if self.random.random() < 0.7:
            self.journey.start()
            self.journey.engine.let_pass(self.random.randrange(4))
        self.host.close_scene()
        self.journey.wait_for_end()
        self._nothing_left()

    def delete_ct(self) -> None:
        self._ct()
        self.journey.start()
        self.host.scene.RemoveNode(self.journey.parameters.inputVolume)
        self.journey.engine.let_pass()
        self.journey.wait_for_end()
        self.journey.settle()

    def _ct(self) -> None:
        """Have a CT chosen, and an engine that waits; ask for a map of uncertainty now and then."""
        if self.journey.parameters.inputVolume is None:
            self.journey.volume = None
            self.journey.add_ct(patches=3)
        else:
            self.journey.engine = type(self.journey.engine)(self.journey.phantom, patches=3)
            self.journey.widget.logic._engine = self.journey.engine
        self.journey.parameters.mapUncertainty = self.random.random() < 0.5

    def _nothing_left(self) -> None:
        left = nodes_by_class(self.host.scene)
        for name in ("vtkMRMLSegmentationNode", "vtkMRMLTableNode", "vtkMRMLScalarVolumeNode", "vtkMRMLPlotChartNode"):
            assert left[name] == 0, left


def soak(host: Any, *, steps: int, seed: int) -> Counter[str]:
    shuffled = Shuffled(host, seed=seed)
    for _ in range(steps):
        shuffled.step()
        assert len(workers()) <= 2, "one for the engine, one that measures"
    shuffled.close_scene()
    host.close_panel(shuffled.journey.widget)
    assert workers() == []
    return shuffled.done


def test_ten_things_in_random_order_leave_nothing_behind(host: Any) -> None:
    soak(host, steps=10, seed=3)


@pytest.mark.slow
def test_hundred_things_in_random_order_leave_nothing_behind(host: Any) -> None:
    """Memory is compared after a warm-up, because VTK and numpy keep pools."""
    import psutil

    process = psutil.Process()
    soak(host, steps=20, seed=1)
    gc.collect()
    before_mb = process.memory_info().rss / 1e6
    done = soak(host, steps=100, seed=2)
    gc.collect()
    grown_mb = process.memory_info().rss / 1e6 - before_mb
    assert set(done) == {"run", "run_again", "cancel", "close_scene", "delete_ct"}
    print(f"{grown_mb:.1f} MB more after {sum(done.values())} things: {dict(done)}")
    assert grown_mb < 60, f"{grown_mb:.0f} MB more after 100 runs"
