"""Where the network is unsure: asked for, laid over the slices, walked through, and back in a saved scene."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.geometry import Geometry
from CovidSegLib.results.segment_masks import SegmentMasks
from CovidSegLib.uncertainty import UncertainRegion
from helpers_panel import Journey, deepest_voxel, edit_segment, module, two_lumps

pytestmark = pytest.mark.slicer

NO_MAP = "This result has no map of uncertainty. Check 'Show where the network is unsure' above, and segment again."
BUTTONS = ("previousRegionButton", "nextRegionButton")


def unsure_journey(host: Any) -> Journey:
    """Return a journey whose result has a map with two lumps."""
    journey = Journey(host)
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    wait_for_regions(journey)
    return journey


class SlowSearch:
    """Looks for regions as the module does, but only once it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._search = module("panel.uncertainty").uncertain_regions
        self.began, self.go_on = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []
        monkeypatch.setattr(module("panel.uncertainty"), "uncertain_regions", self)

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        self.threads.append(threading.current_thread())
        self.began.set()
        assert self.go_on.wait(10)
        return self._search(*arrays, **options)

    def wait_for(self, journey: Journey) -> None:
        """Press Segment, and wait until regions are being looked for."""
        journey.ui.mapUncertaintyCheckBox.checked = True
        journey.start()
        journey.engine.let_pass()
        journey.host.wait_until(self.began.is_set, what="the search")


def wait_for_regions(journey: Journey) -> None:
    journey.host.wait_until(lambda: journey.ui.nextRegionButton.enabled, what="the regions")


def map_of(segmentation: Any) -> Any:
    return segmentation.GetNodeReference("CovidSeg.uncertainty")


def foregrounds(host: Any) -> set[str | None]:
    manager = host.app.layoutManager()
    widgets = [manager.sliceWidget(name) for name in manager.sliceViewNames()]
    return {widget.mrmlSliceCompositeNode().GetForegroundVolumeID() for widget in widgets}


def looked_at(host: Any) -> list[float]:
    """Return where the axial view is centred (RAS, mm)."""
    matrix = host.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetSliceToRAS()
    return [matrix.GetElement(row, 3) for row in range(3)]


def middle_of(journey: Journey, *, label: int) -> list[float]:
    """Return the point (RAS, mm) in a lung that is farthest from its border: the middle of its lump."""
    k, j, i = deepest_voxel(journey.phantom.labelmap_kji == label)
    return list((journey.phantom.ct.geometry.ijk_to_ras @ (i, j, k, 1))[:3])


def test_map_is_not_asked_for_by_default(host: Any) -> None:
    journey = Journey(host)
    assert not journey.ui.mapUncertaintyCheckBox.checked
    segmentation = journey.run()
    assert journey.engine.calls[0]["uncertainty"] is False
    assert map_of(segmentation) is None
    assert foregrounds(host) == {None}
    for name in (*BUTTONS, "uncertaintyMapCheckBox"):
        assert not getattr(journey.ui, name).enabled
        assert getattr(journey.ui, name).toolTip == NO_MAP
    assert journey.ui.regionLabel.isHidden()


def test_without_a_result_the_buttons_say_what_to_do(host: Any) -> None:
    journey = Journey(host)
    for name in BUTTONS:
        assert not getattr(journey.ui, name).enabled
        assert getattr(journey.ui, name).toolTip == "Segment a CT first, or choose a result above."


def test_choice_is_kept_in_the_scene_and_fixed_during_a_run(host: Any) -> None:
    journey = Journey(host)
    journey.ui.mapUncertaintyCheckBox.checked = True
    assert journey.parameters.mapUncertainty is True
    journey.start()
    assert not journey.ui.mapUncertaintyCheckBox.enabled
    journey.ui.cancelButton.click()
    journey.wait_for_end()
    assert journey.ui.mapUncertaintyCheckBox.enabled
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1, "cancelled: the CT alone"


def test_map_lies_over_the_ct_after_the_run_and_is_switched_off_and_on(host: Any) -> None:
    journey = unsure_journey(host)
    node = map_of(journey.segmentation)
    assert journey.engine.calls[0]["uncertainty"] is True
    assert foregrounds(host) == {node.GetID()}
    assert journey.ui.uncertaintyMapCheckBox.checked
    journey.ui.uncertaintyMapCheckBox.click()
    assert foregrounds(host) == {None}
    assert not journey.ui.uncertaintyMapCheckBox.checked
    journey.ui.uncertaintyMapCheckBox.click()
    assert foregrounds(host) == {node.GetID()}


def test_regions_are_walked_through_in_a_circle_the_most_important_first(host: Any) -> None:
    journey = unsure_journey(host)
    voxel_ml = journey.phantom.ct.geometry.voxel_volume_ml
    left = f"Region 1 of 2: {5**3 * voxel_ml:.1f} ml, left lung"
    right = f"Region 2 of 2: {3**3 * voxel_ml:.1f} ml, right lung"
    assert journey.ui.regionLabel.text == "2 uncertain regions, the most important first."
    for button, text, label in (
        ("nextRegionButton", left, 1),
        ("nextRegionButton", right, 2),
        ("nextRegionButton", left, 1),
        ("previousRegionButton", right, 2),
        ("previousRegionButton", left, 1),
    ):
        getattr(journey.ui, button).click()
        assert journey.ui.regionLabel.text == text
        assert looked_at(host) == pytest.approx(middle_of(journey, label=label))


def test_first_step_back_goes_to_the_last_region(host: Any) -> None:
    journey = unsure_journey(host)
    journey.ui.previousRegionButton.click()
    assert journey.ui.regionLabel.text.startswith("Region 2 of 2")


def test_region_of_a_moved_ct_is_looked_at_where_it_lies(host: Any) -> None:
    import vtk

    journey = Journey(host)
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    for row, shift_mm in enumerate((10.0, -20.0, 30.0)):
        matrix.SetElement(row, 3, shift_mm)
    transform.SetMatrixTransformToParent(matrix)
    journey.volume.SetAndObserveTransformNodeID(transform.GetID())
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    wait_for_regions(journey)
    journey.ui.nextRegionButton.click()
    expected = np.add(middle_of(journey, label=1), (10.0, -20.0, 30.0))
    assert looked_at(host) == pytest.approx(list(expected))


def test_regions_are_looked_for_on_the_worker_that_measures(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    search = SlowSearch(monkeypatch)
    search.wait_for(journey)
    assert journey.panel.results.figures.measurement is not None, "the figures went first"
    assert journey.ui.nextRegionButton.toolTip == "Looking for uncertain regions..."
    assert journey.ui.regionLabel.text == "Looking for uncertain regions..."
    assert not journey.ui.reportButton.enabled, "saving needs the same worker"
    search.go_on.set()
    wait_for_regions(journey)
    assert journey.ui.reportButton.enabled
    assert search.threads == [journey.panel._measurer._thread], "once, and not on the main thread"


def test_edit_while_regions_are_looked_for_is_measured_afterwards(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    search = SlowSearch(monkeypatch)
    search.wait_for(journey)
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    search.go_on.set()
    journey.wait_for_figures()
    wait_for_regions(journey)
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_other_result_chosen_while_regions_are_looked_for_gets_its_own(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = Journey(host)
    search = SlowSearch(monkeypatch)
    search.wait_for(journey)
    first = journey.segmentation
    journey.parameters.segmentation = None
    assert journey.ui.regionLabel.isHidden()
    search.go_on.set()
    journey.wait_for_figures()
    assert not journey.ui.nextRegionButton.enabled
    journey.parameters.segmentation = first
    wait_for_regions(journey)
    assert len(search.threads) == 2


def test_walk_goes_on_after_a_correction(host: Any) -> None:
    journey = unsure_journey(host)
    journey.ui.nextRegionButton.click()
    edit_segment(journey, "infection", two_lumps(journey.phantom.labelmap_kji) > 70)
    journey.wait_for_figures()
    assert journey.ui.regionLabel.text.startswith("Region 1 of 2")
    journey.ui.nextRegionButton.click()
    assert journey.ui.regionLabel.text.startswith("Region 2 of 2")


def test_map_without_doubt_has_no_regions(host: Any) -> None:
    journey = Journey(host)
    journey.engine.doubt_kji = np.full_like(journey.phantom.labelmap_kji, 10)
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    host.wait_until(lambda: journey.ui.regionLabel.text == "No uncertain region was found.")
    assert not journey.ui.nextRegionButton.enabled
    assert journey.ui.nextRegionButton.toolTip == "No uncertain region was found."
    assert journey.ui.uncertaintyMapCheckBox.enabled


def test_failed_search_is_told_and_the_figures_go_on(
    host: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journey = Journey(host)

    def fail(*_arrays: Any, **_options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(module("panel.uncertainty"), "uncertain_regions", fail)
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    host.wait_until(lambda: "Not enough memory" in journey.ui.regionLabel.text)
    assert "Traceback" in caplog.text
    assert not journey.ui.nextRegionButton.enabled
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_search_without_memory_for_its_copies_is_told(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)

    def fail(_node: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(module("panel.uncertainty"), "map_array", fail)
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    host.wait_until(lambda: "Not enough memory" in journey.ui.regionLabel.text)
    assert "Not enough memory" in journey.ui.nextRegionButton.toolTip


def test_second_run_with_a_map_replaces_it_and_its_regions(host: Any) -> None:
    journey = unsure_journey(host)
    node = map_of(journey.segmentation)
    journey.ui.nextRegionButton.click()
    journey.engine.doubt_kji = np.where(journey.engine.doubt_kji == 60, 60, 0).astype(np.uint8)
    journey.run()
    assert map_of(journey.segmentation) is node
    host.wait_until(lambda: journey.ui.regionLabel.text == "1 uncertain region.")
    journey.ui.nextRegionButton.click()
    assert journey.ui.regionLabel.text.startswith("Region 1 of 1")


def test_undone_run_brings_the_map_back_that_it_removed(host: Any) -> None:
    from CovidSegLib.scenes.uncertainty import map_array

    journey = unsure_journey(host)
    journey.ui.mapUncertaintyCheckBox.checked = False
    journey.run()
    assert map_of(journey.segmentation) is None
    assert foregrounds(host) == {None}
    assert not journey.ui.nextRegionButton.enabled
    journey.ui.undoRunButton.click()
    wait_for_regions(journey)
    np.testing.assert_array_equal(map_array(map_of(journey.segmentation)), journey.engine.doubt_kji)
    assert foregrounds(host) == {map_of(journey.segmentation).GetID()}


def test_undone_run_takes_away_the_map_that_it_made(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.mapUncertaintyCheckBox.checked = True
    journey.run()
    assert map_of(journey.segmentation) is not None
    journey.ui.undoRunButton.click()
    assert map_of(journey.segmentation) is None
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_undone_run_brings_back_the_voxels_of_a_replaced_map(host: Any) -> None:
    from CovidSegLib.scenes.uncertainty import map_array

    journey = unsure_journey(host)
    first_kji = journey.engine.doubt_kji
    journey.engine.doubt_kji = np.zeros_like(first_kji)
    journey.run()
    journey.ui.undoRunButton.click()
    wait_for_regions(journey)
    np.testing.assert_array_equal(map_array(map_of(journey.segmentation)), first_kji)


def test_map_is_never_taken_for_a_ct(host: Any) -> None:
    journey = unsure_journey(host)
    node = map_of(journey.segmentation)
    host.scene.RemoveNode(journey.volume)
    journey.settle()
    assert journey.parameters.inputVolume is None, "not chosen by itself"
    journey.parameters.inputVolume = node
    assert not journey.ui.segmentButton.enabled
    assert "is a map of uncertainty, not a CT. Choose the CT itself." in journey.ui.segmentButton.toolTip


def test_deleted_map_leaves_nothing_to_step_through(host: Any) -> None:
    journey = unsure_journey(host)
    journey.ui.nextRegionButton.click()
    at = looked_at(host)
    host.scene.RemoveNode(map_of(journey.segmentation))
    journey.ui.nextRegionButton.click()
    assert looked_at(host) == at
    journey.settle()
    assert journey.ui.nextRegionButton.toolTip == NO_MAP
    assert not journey.ui.uncertaintyMapCheckBox.checked
    assert journey.ui.regionLabel.isHidden()


def test_saved_scene_comes_back_with_map_overlay_and_regions(host: Any, tmp_path: Path) -> None:
    journey = unsure_journey(host)
    middle = middle_of(journey, label=1)
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_scene()
    assert not journey.ui.nextRegionButton.enabled
    host.load_scene(path)
    journey.settle()
    wait_for_regions(journey)
    assert journey.ui.mapUncertaintyCheckBox.checked
    assert journey.ui.uncertaintyMapCheckBox.checked
    assert foregrounds(host) == {map_of(journey.segmentation).GetID()}
    journey.ui.nextRegionButton.click()
    assert journey.ui.regionLabel.text.startswith("Region 1 of 2")
    assert looked_at(host) == pytest.approx(middle, abs=1e-3)


def test_scene_closed_while_regions_are_looked_for_is_safe(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    search = SlowSearch(monkeypatch)
    search.wait_for(journey)
    host.close_scene()
    search.go_on.set()
    host.wait_until(lambda: not journey.panel._measurer.busy)
    assert journey.ui.nextRegionButton.toolTip == "Segment a CT first, or choose a result above."
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


@pytest.mark.parametrize(
    ("center_i", "text"),
    [
        (5, "right lung"),
        (35, "left lung"),
        (14, "next to the right lung"),
        (26, "next to the left lung"),
        (60, "outside the lungs"),
    ],
)
def test_place_of_a_region_is_told_in_words(host: Any, center_i: int, text: str) -> None:
    """Slabs of lung at i 0 to 9 and 30 to 39, with 1 mm voxels; the reach is 15 mm."""
    Journey(host, with_ct=False)
    uncertainty = module("panel.uncertainty")
    left, right = np.zeros((2, 4, 4, 80), dtype=bool)
    right[..., :10] = left[..., 30:40] = True
    geometry = Geometry.from_ijk_to_ras(np.eye(4), size_ijk=(80, 4, 4))
    masks = SegmentMasks(left, right, np.zeros_like(left), geometry)
    region = UncertainRegion(center_ijk=(center_i, 2, 2), volume_ml=1.0, mean_percent=50.0)
    assert uncertainty.where_text(uncertainty._stop(region, masks=masks)) == text
