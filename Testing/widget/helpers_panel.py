"""What the tests of the panel share: a CT with known truth, engines that a test drives step by step."""

from __future__ import annotations

import dataclasses
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from CovidSegLib.errors import Cancelled
from CovidSegLib.phantom import Phantom, make_phantom
from CovidSegLib.progress import Progress
from CovidSegLib.scenes.samples import add_ct_volume
from CovidSegLib.scenes.selftest import SIZE_IJK, SPACING_IJK_MM, truth_engine


def module(name: str) -> Any:
    """Return a module of CovidSegLib as the panel of this test has it: the host imports them anew each time."""
    return importlib.import_module(f"CovidSegLib.{name}")


@contextmanager
def measuring_held() -> Iterator[None]:
    """Let measurements that begin meanwhile wait for the end of it: those of a small phantom take milliseconds."""
    figures, end = module("panel.figures"), threading.Event()
    measure = figures.measure

    def waiting(*arguments: Any, **options: Any) -> Any:
        end.wait(30.0)
        return measure(*arguments, **options)

    figures.measure = waiting
    try:
        yield
    finally:
        figures.measure = measure
        end.set()


@cache
def phantom_of(seed: int) -> Phantom:
    """Return a coarse phantom with a fifth of its lungs infected; made once, because it takes a second."""
    return make_phantom(seed=seed, size_ijk=SIZE_IJK, spacing_ijk_mm=SPACING_IJK_MM, infection_percent=20.0)


def two_lumps(labelmap_kji: np.ndarray) -> np.ndarray:
    """Return a map (k, j, i) uint8: doubt in a large cube in the left lung, and in a small one in the right."""
    doubt_kji = np.zeros_like(labelmap_kji)
    for label, half, percent in ((1, 2, 80), (2, 1, 60)):
        cube = tuple(slice(n - half, n + half + 1) for n in deepest_voxel(labelmap_kji == label))
        doubt_kji[cube] = percent
    return doubt_kji


def deepest_voxel(mask_kji: np.ndarray) -> tuple[int, int, int]:
    """Return (k, j, i) of a voxel as far from a mask's border as any."""
    from scipy import ndimage

    k, j, i = np.unravel_index(ndimage.distance_transform_edt(mask_kji).argmax(), mask_kji.shape)
    return (int(k), int(j), int(i))


class SteppedEngine:
    """Answers with a phantom's truth, after as many patches as the test lets pass.

    Attributes:
        started: Set when the worker has begun.
        calls: Options of every run.
        threads: Names of the threads it ran on.
        error: Raised instead of an answer.
        message: Told with the first patch, such as a change of device.
        warnings: Given with the answer.
        doubt_kji: The map of uncertainty, given if it is asked for.
    """

    def __init__(self, phantom: Any, *, patches: int = 4) -> None:
        self._truth = truth_engine(phantom)
        self._patches = patches
        self._steps = threading.Semaphore(0)
        self.started = threading.Event()
        self.calls: list[dict[str, Any]] = []
        self.threads: list[str] = []
        self.error: BaseException | None = None
        self.message = ""
        self.warnings: tuple[str, ...] = ()
        self.doubt_kji = two_lumps(phantom.labelmap_kji)

    def let_pass(self, patches: int = 1000) -> None:
        """Let the worker do so many patches."""
        if patches:
            self._steps.release(patches)

    def __call__(
        self, ct: Any, *, progress: Callable[[Progress], Any], cancelled: Callable[[], bool], **options: Any
    ) -> Any:
        self.calls.append(options)
        self.threads.append(threading.current_thread().name)
        progress(Progress("preprocess", 0, 1))
        self.started.set()
        for patch in range(self._patches):
            while not self._steps.acquire(timeout=0.005):
                if cancelled():
                    raise Cancelled
            if cancelled():
                raise Cancelled
            progress(Progress("network", patch, self._patches, self.message if patch == 0 else ""))
        if self.error is not None:
            raise self.error
        progress(Progress("quantify", 0, 1))
        result = self._truth(ct, **options)
        result = dataclasses.replace(result, warnings=(*result.warnings, *self.warnings))
        return dataclasses.replace(result, uncertainty=self.doubt_kji) if options.get("uncertainty") else result


class Journey:
    """A panel with a CT in the scene and an engine at hand; what a user does, in words."""

    def __init__(self, host: Any, *, patches: int = 4, with_ct: bool = True) -> None:
        self.host = host
        # Asking torch takes seconds; the line that shows the answer has a test of its own.
        module("panel.device").torch_is_loaded = lambda: True
        module("panel.device").ask_torch = lambda device: ("cpu", "CPU (a test), 2 threads")
        self.widget = host.open_panel()
        self.panel = self.widget.panel
        self.ui = self.widget.ui
        self.panel.place.prepare = lambda: None
        self.panel.results.figures._timer.setInterval(20)  # a user pauses longer between two strokes
        self.panel.place.runner._lend_s = self.panel._measurer._lend_s = 0.0
        self.dialogs = PreparedDialogs()
        self.panel.place.dialogs = self.dialogs
        self.phantom: Any = None
        self.volume: Any = None
        self.engine: Any = None
        if with_ct:
            self.add_ct(patches=patches)

    def add_ct(self, *, seed: int = 1, patches: int = 4) -> Any:
        """Put a phantom into the scene; the engine answers with its truth from now on."""
        self.phantom = phantom_of(seed)
        volume = add_ct_volume(self.host.context, ct=self.phantom.ct, name=self.phantom.ct.name)
        self.engine = SteppedEngine(self.phantom, patches=patches)
        self.widget.logic._engine = self.engine
        self.volume = self.volume or volume
        self.settle()
        return volume

    @property
    def parameters(self) -> Any:
        return self.panel.place.parameters

    @property
    def segmentation(self) -> Any:
        return self.parameters.segmentation

    @property
    def status(self) -> str:
        return str(self.ui.statusLabel.text)

    def choose_own_segmentation(self) -> Any:
        """Choose a segmentation of the user's as output, which holds a heart."""
        mine = self.host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
        mine.GetSegmentation().AddEmptySegment("heart")
        self.settle()
        self.parameters.segmentation = mine
        return mine

    def start(self) -> None:
        """Press Segment, and wait until the worker has begun."""
        self.engine.started.clear()
        self.ui.segmentButton.click()
        self.host.wait_until(self.engine.started.is_set, what="the worker")

    def run(self) -> Any:
        """Press Segment, and wait for the result; return the segmentation node."""
        self.start()
        self.engine.let_pass()
        self.wait_for_end()
        self.wait_for_figures()
        return self.segmentation

    def wait_for_end(self) -> None:
        """Wait until nothing runs."""
        self.host.wait_until(lambda: not self.panel.place.runner.busy, what="the end of the run")

    def wait_for_figures(self) -> None:
        """Wait until the figures are those of the segments."""
        self.host.wait_until(
            lambda: not self.panel.results.figures.stale and not self.panel._measurer.busy, what="the figures"
        )

    def settle(self) -> None:
        """Let the panel notice what changed in the scene."""
        self.host.wait_until(lambda: not self.panel._timer.active, what="the panel to look again")
        self.host.process_events()


class PreparedDialogs:
    """Answers that a test prepares, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.details: list[str] = []
        self.answers: list[Any] = []

    def _answer(self, text: str) -> Any:
        self.asked.append(text)
        assert self.answers, f"nobody prepared an answer to: {text}"
        return self.answers.pop(0)

    def confirm(self, text: str) -> bool:
        return bool(self._answer(text))

    def choose(self, text: str, *, choices: tuple[str, ...]) -> int | None:
        return self._answer(text)  # type: ignore[no-any-return]

    def show_details(self, text: str, *, details: str) -> None:
        self.asked.append(text)
        self.details.append(details)

    def file_to_save(self, title: str, *, suggestion: str, kinds: str) -> str:
        return str(self._answer(title))

    def folder(self, title: str) -> str:
        return str(self._answer(title))


def edit_segment(journey: Journey, segment_id: str, mask_kji: np.ndarray) -> None:
    """Replace a segment's voxels through Slicer's own logic, as the Segment Editor does."""
    from CovidSegLib.scenes.segments import oriented_image
    from CovidSegLib.scenes.volume import ijk_to_ras

    logic = journey.host.context.logic("Segmentations")
    image = oriented_image(mask_kji.astype(np.uint8), matrix=ijk_to_ras(journey.parameters.inputVolume))
    assert logic.SetBinaryLabelmapToSegment(image, journey.segmentation, segment_id, logic.MODE_REPLACE)


def table_texts(table: Any) -> dict[str, dict[str, str]]:
    """Return a table widget as row name -> column name -> text."""
    columns = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    return {
        table.verticalHeaderItem(row).text(): {
            name: table.item(row, column).text() for column, name in enumerate(columns)
        }
        for row in range(table.rowCount)
    }
