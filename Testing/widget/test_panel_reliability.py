"""What somebody else does to the scene, and when: cancel before the first patch, a CT that is gone, a locked result."""

from __future__ import annotations

import gc
import mmap
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment, module

pytestmark = pytest.mark.slicer


def empty_mask(journey: Journey) -> np.ndarray:
    return np.zeros_like(journey.phantom.labelmap_kji, dtype=bool)


@pytest.mark.parametrize("worker_has_begun", [False, True])
def test_cancel_before_the_first_patch_leaves_the_scene_as_it_was(host: Any, *, worker_has_begun: bool) -> None:
    journey = Journey(host)
    before = host.scene.GetNumberOfNodes()
    if worker_has_begun:
        journey.start()
    else:
        journey.ui.segmentButton.click()
    journey.ui.cancelButton.click()
    journey.wait_for_end()
    assert journey.status == "Cancelled. The scene is as it was."
    assert host.scene.GetNumberOfNodes() == before
    assert journey.ui.segmentButton.enabled


def test_volume_whose_voxels_cannot_be_written_is_segmented_and_measured(host: Any, tmp_path: Path) -> None:
    """The voxels are a file that is mapped for reading: to write a single one would end the program."""
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    journey = Journey(host)
    hu_kji = journey.phantom.ct.hu_kji
    (tmp_path / "voxels").write_bytes(np.ascontiguousarray(hu_kji).tobytes())
    with (tmp_path / "voxels").open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=hu_kji.dtype)
    scalars = numpy_to_vtk(mapped)
    assert vtk_to_numpy(scalars).ctypes.data == mapped.ctypes.data, "no copy"
    journey.volume.GetImageData().GetPointData().SetScalars(scalars)
    journey.run()
    edit_segment(journey, "infection", empty_mask(journey))
    journey.wait_for_figures()
    figures = journey.panel.results.figures.current
    assert figures["poi_percent"] == 0.0
    assert figures["regions"]["lungs"]["volume_ml"] == pytest.approx(journey.phantom.truth.lung_ml)


def test_without_its_ct_a_result_can_be_read_and_copied_but_not_measured(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.plotsButton.click()
    host.scene.RemoveNode(journey.volume)
    journey.panel.results.show_plots()  # as a click before the panel has noticed
    journey.panel.results.show_most_infected()
    journey.settle()
    for name in ("plotsButton", "mostInfectedButton", "reportButton", "editInfectionButton", "islandButton"):
        button = getattr(journey.ui, name)
        assert not button.enabled, name
        assert "The CT of this segmentation is not in the scene" in button.toolTip
    assert journey.ui.copyButton.enabled
    assert f"{journey.phantom.truth.poi_percent:.1f} %" in journey.ui.headlineLabel.text


def test_others_segmentation_that_was_transformed_meanwhile_is_told_and_kept(host: Any) -> None:
    journey = Journey(host)
    mine = journey.choose_own_segmentation()
    journey.start()
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    mine.SetAndObserveTransformNodeID(transform.GetID())
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "'mine' holds other segments and is under another transform" in journey.status
    assert list(mine.GetSegmentation().GetSegmentIDs()) == ["heart"]
    assert mine.GetParentTransformNode() is transform


def test_result_renamed_and_transformed_meanwhile_keeps_its_name_and_lies_on_the_ct(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    journey.start()
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    segmentation.SetName("renamed")
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    journey.engine.let_pass()
    journey.wait_for_end()
    journey.wait_for_figures()
    assert journey.segmentation is segmentation
    assert segmentation.GetName() == "renamed"
    assert segmentation.GetParentTransformNode() is None
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(journey.phantom.truth.poi_percent)


def test_ct_that_was_moved_away_from_its_result_is_told_with_the_next_figures(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    journey.volume.SetAndObserveTransformNodeID(transform.GetID())
    infection_kji = journey.phantom.labelmap_kji == 3
    infection_kji[::2] = False
    edit_segment(journey, "infection", infection_kji)
    journey.wait_for_figures()
    assert "The segmentation is under another transform than its CT" in journey.ui.warningsLabel.text
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert "another transform" not in journey.ui.warningsLabel.text


def test_parts_that_were_split_off_and_copies_are_told_with_the_next_figures(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run().GetSegmentation()
    for segment_id, name in (
        ("island", "COVID-19 infection_2"),
        ("heart", "heart"),
        ("scar", "COVID-19 infection_old"),
        ("renamed island", "opacity_3"),
    ):
        segmentation.AddEmptySegment(segment_id, name)
    segmentation.GetSegment("infection").SetName("opacity")
    import slicer

    copy = slicer.vtkSegment()
    copy.DeepCopy(segmentation.GetSegment("left_lung"))
    copy.SetName("my lung")
    segmentation.AddSegment(copy, "mine")
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert "not counted: 'COVID-19 infection_2', 'opacity_3', 'my lung'. To count" in journey.ui.warningsLabel.text
    for segment_id in ("island", "renamed island", "mine"):
        segmentation.RemoveSegment(segment_id)
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert "not counted" not in journey.ui.warningsLabel.text


def test_locked_result_is_neither_corrected_nor_undone(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    journey.run()
    infection = segmentation.GetSegmentation().GetSegment("infection")
    segmentation.SetSelectable(False)
    for name in ("islandButton", "editInfectionButton", "undoRunButton"):
        getattr(journey.ui, name).click()  # nobody has told the panel of the lock
        assert not getattr(journey.ui, name).enabled
        assert "is locked" in getattr(journey.ui, name).toolTip
    assert segmentation.GetSegmentation().GetSegment("infection") is infection


def test_choice_is_fixed_during_a_run_and_says_why(host: Any) -> None:
    journey = Journey(host)
    usual = journey.ui.modeSelector.toolTip
    journey.start()
    assert not journey.ui.modeSelector.enabled
    assert journey.ui.modeSelector.toolTip == "A run is under way."
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.ui.modeSelector.enabled
    assert journey.ui.modeSelector.toolTip == usual


def test_scene_closed_while_packages_are_fetched_starts_nothing(host: Any) -> None:
    journey = Journey(host)
    journey.panel.place.prepare = host.close_scene
    journey.ui.segmentButton.click()
    assert journey.status == "The scene was closed; nothing was started."
    assert journey.engine.calls == []
    assert not journey.panel.place.runner.busy


def test_ct_removed_while_packages_are_fetched_starts_nothing(host: Any) -> None:
    journey = Journey(host)
    journey.panel.place.prepare = lambda: host.scene.RemoveNode(journey.volume)
    journey.ui.segmentButton.click()
    assert journey.status == "The CT was removed from the scene; nothing was started."
    assert journey.engine.calls == []
    assert not journey.panel.place.runner.busy


def test_run_that_ends_while_a_scene_is_added_is_shown_after_it(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    host.scene.StartState(host.scene.ImportState)
    journey.engine.let_pass()
    # Four patches, the figures, the end.
    host.wait_until(lambda: journey.panel.place.runner._news.qsize() >= 6, what="the engine's answer")
    assert journey.panel.place.runner.busy and journey.segmentation is None
    host.scene.EndState(host.scene.ImportState)
    journey.wait_for_end()
    assert journey.segmentation is not None


def test_closed_scene_takes_what_was_said_of_it_along(host: Any) -> None:
    journey = Journey(host)
    journey.engine.error = MemoryError()
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "Not enough memory" in journey.status
    host.close_scene()
    assert journey.status == ""
    assert journey.ui.detailsButton.isHidden()


def test_ct_that_was_centred_after_its_result_is_told_until_the_segments_follow(host: Any) -> None:
    """Centering in the module Volumes moves the CT itself, without a transform."""
    import slicer
    import vtk

    journey = Journey(host)
    segmentation = journey.run()
    assert "was moved" not in journey.ui.warningsLabel.text
    journey.volume.SetOrigin(*(coordinate + 30.4 for coordinate in journey.volume.GetOrigin()))
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert "The CT was moved since it was segmented" in journey.ui.warningsLabel.text
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "along")
    matrix = vtk.vtkMatrix4x4()
    for row in range(3):
        matrix.SetElement(row, 3, 30.4)
    transform.SetMatrixTransformToParent(matrix)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    segmentation.HardenTransform()
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert "was moved" not in journey.ui.warningsLabel.text
    finer = slicer.vtkSegmentationConverter.SerializeImageGeometry(vtk.vtkMatrix4x4(), [0, 9, 0, 9, 0, 9])
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    segmentation.GetSegmentation().SetConversionParameter(name, finer)
    journey.panel.results.figures.measure()
    journey.wait_for_figures()
    assert "was moved" not in journey.ui.warningsLabel.text, "a grid for editing says nothing of the CT"


def test_other_frame_of_a_sequence_under_a_result_is_told_with_the_next_figures(host: Any) -> None:
    from vtk.util.numpy_support import vtk_to_numpy

    journey = Journey(host)
    truth = journey.engine
    journey.widget.logic._engine = lambda ct, **options: with_voxels(truth(ct, **options), hu_kji=ct.hu_kji)
    journey.run()
    scalars = journey.volume.GetImageData().GetPointData().GetScalars()
    for shift_hu, told in ((10, True), (-10, False)):
        vtk_to_numpy(scalars)[:] += shift_hu
        scalars.Modified()
        journey.volume.GetImageData().Modified()
        journey.panel.results.figures.measure()
        journey.wait_for_figures()
        assert ("The CT has other voxels than those that were segmented" in journey.ui.warningsLabel.text) is told


def test_voxels_are_digested_once_and_not_while_the_window_waits(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    truth = journey.engine
    journey.widget.logic._engine = lambda ct, **options: with_voxels(truth(ct, **options), hu_kji=ct.hu_kji)
    digest, threads = module("scenes.warnings").voxels_digest, []

    def noted(hu_kji: np.ndarray) -> str:
        threads.append(threading.current_thread())
        return str(digest(hu_kji))

    for name in ("scenes.warnings", "panel.measure"):
        monkeypatch.setattr(module(name), "voxels_digest", noted)
    segmentation = journey.run()
    assert len(threads) == 1, "a large CT takes a second"
    assert threads[0] is not threading.main_thread()
    assert segmentation.GetAttribute("CovidSeg.voxels")


def with_voxels(result: Any, *, hu_kji: np.ndarray) -> Any:
    """Return a result that, like the engine's, holds the CT in HU."""
    return SimpleNamespace(**vars(result), report=result.report, hu_kji=hu_kji)


def test_parameters_of_a_closed_scene_are_let_go(host: Any) -> None:
    """Else each closed scene would leave observers of the node behind that read all parameters at every change."""
    journey = Journey(host)
    before = weakref.ref(journey.widget._parameterNode)
    host.close_scene()
    gc.collect()
    assert before() is None
