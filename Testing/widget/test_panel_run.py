"""A run in the panel: progress, cancel, errors, and a scene that changes meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment, module

pytestmark = pytest.mark.slicer


def nodes_of(scene: Any) -> list[str]:
    """Return the IDs of all nodes but the panel's parameters."""
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return sorted(node.GetID() for node in nodes if not node.IsA("vtkMRMLScriptedModuleNode"))


def test_run_leaves_segments_figures_and_views_at_the_infection(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    ids = segmentation.GetSegmentation()
    assert [ids.GetNthSegmentID(index) for index in range(3)] == ["left_lung", "right_lung", "infection"]
    assert segmentation.GetName() == f"{journey.volume.GetName()} CovidSeg"
    poi = journey.phantom.truth.poi_percent
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(poi, abs=1e-6)
    assert f"{poi:.1f} % of the lungs" in journey.ui.headlineLabel.text
    assert journey.status.startswith("Done in")
    display = journey.volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (1500, -600)
    offset_mm = host.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceOffset()
    assert offset_mm == pytest.approx(_most_infected_s_mm(journey), abs=0.01)
    assert not journey.ui.resultsSection.collapsed


def _most_infected_s_mm(journey: Journey) -> float:
    infection = journey.phantom.labelmap_kji == 3
    k = int(np.argmax(infection.sum(axis=(1, 2))))
    return float((journey.phantom.ct.geometry.ijk_to_ras @ [0, 0, k, 1])[2])


def test_engine_gets_arrays_the_choice_and_a_thread_of_its_own(host: Any) -> None:
    journey = Journey(host)
    journey.ui.modeSelector.setCurrentIndex(1)
    journey.run()
    journey.run()
    assert [call["mode"] for call in journey.engine.calls] == ["fast", "fast"]
    assert journey.engine.calls[0]["device"] == "auto"
    assert journey.engine.calls[0]["bundle"] is journey.engine.calls[1]["bundle"], "loaded once"
    assert set(journey.engine.threads) == {"CovidSeg worker"}
    assert threading.current_thread().name != "CovidSeg worker"


def test_progress_names_the_patch_and_the_time_left(host: Any) -> None:
    journey = Journey(host, patches=10)
    journey.start()
    texts, values = [], []
    for _patch in range(5):
        before = journey.ui.progressBar.value
        journey.engine.let_pass(1)
        host.wait_until(lambda before=before: journey.ui.progressBar.value > before)
        texts.append(journey.ui.progressBar.text)
        values.append(journey.ui.progressBar.value)
    assert texts[0] == "Patch 1 of 10"
    assert texts[4].startswith("Patch 5 of 10, about ")
    assert texts[4].endswith(" left")
    assert values == sorted(values)
    journey.ui.cancelButton.click()
    journey.wait_for_end()


def test_nothing_else_can_be_started_while_it_runs(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    assert not journey.ui.segmentButton.enabled
    assert journey.ui.segmentButton.toolTip == "A run is under way."
    journey.panel.segment.start()  # as a second click that was already under way
    assert len(journey.engine.calls) == 1
    assert not journey.ui.batchButton.enabled
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.ui.segmentButton.enabled


def test_cancel_in_mid_patch_leaves_the_scene_as_it_was(host: Any) -> None:
    journey = Journey(host)
    before = nodes_of(host.scene)
    journey.start()
    journey.engine.let_pass(2)
    host.wait_until(lambda: "Patch 2" in journey.ui.progressBar.text)
    journey.ui.cancelButton.click()
    assert not journey.ui.cancelButton.enabled
    assert journey.ui.segmentButton.toolTip == "Stopping the run..."
    journey.wait_for_end()
    assert nodes_of(host.scene) == before
    assert journey.status == "Cancelled. The scene is as it was."
    assert journey.ui.cancelButton.isHidden()
    assert journey.segmentation is None
    assert journey.run() is not None, "and it can be started again"


def test_error_says_what_to_do_and_keeps_the_details(host: Any) -> None:
    from CovidSegLib.errors import InputError

    journey = Journey(host)
    before = nodes_of(host.scene)
    journey.engine.error = InputError("phantom-1: no lungs found: is this a chest CT in HU?")
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.status == "phantom-1: no lungs found: is this a chest CT in HU?"
    assert not journey.ui.detailsButton.isHidden()
    journey.ui.detailsButton.click()
    assert "Traceback" in journey.dialogs.details[0]
    assert "helpers_panel.py" in journey.dialogs.details[0]
    assert nodes_of(host.scene) == before


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "Not enough memory"),
        (RuntimeError("a bug"), "Something unexpected went wrong (RuntimeError: a bug). Press Details"),
        (OSError(28, "No space left on device", "/tmp/x"), "No space left on device '/tmp/x'. Check the disk"),
    ],
)
def test_any_error_is_put_into_words(host: Any, error: Exception, text: str) -> None:
    journey = Journey(host)
    journey.engine.error = error
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert text in journey.status
    assert journey.ui.segmentButton.enabled


def test_shipped_bundle_is_loaded_once_for_the_expected_time_and_the_run(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = module("bundle")
    load, loaded = bundle.load_bundle, []
    monkeypatch.setattr(bundle, "load_bundle", lambda: loaded.append(load()) or loaded[-1])
    journey = Journey(host)
    assert "about" in journey.ui.deviceStatusLabel.text
    journey.run()
    assert [journey.engine.calls[0]["bundle"]] == loaded


def test_change_of_device_is_said_at_once_and_afterwards(host: Any) -> None:
    journey = Journey(host)
    journey.engine.message = "out of memory on cuda: continuing on cuda, summed up on the cpu"
    journey.start()
    journey.engine.let_pass(1)
    host.wait_until(lambda: bool(journey.status))
    assert journey.status == journey.engine.message
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.status.startswith("Done in")
    assert journey.engine.message in journey.status


def test_declined_installation_starts_nothing(host: Any) -> None:
    from CovidSegLib.errors import Cancelled

    journey = Journey(host)

    def decline() -> None:
        raise Cancelled("Nothing was installed. CovidSeg cannot segment without these packages.")

    journey.panel.place.prepare = decline
    journey.ui.segmentButton.click()
    assert "Nothing was installed" in journey.status
    assert not journey.engine.calls


def test_scene_closed_while_running_stops_the_run_and_publishes_nothing(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    host.close_scene()
    assert journey.parameters is not None, "the new scene has parameters of its own"
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.status == "The scene was closed; the run was stopped."
    for class_name in ("vtkMRMLSegmentationNode", "vtkMRMLTableNode", "vtkMRMLScalarVolumeNode"):
        assert host.scene.GetNumberOfNodesByClass(class_name) == 0
    journey.volume = None
    journey.add_ct()
    assert journey.run() is not None


def test_application_closed_while_running_ends_the_threads(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    host.close_panel(journey.widget)
    assert not [thread for thread in threading.enumerate() if thread.name == "CovidSeg worker"]


def test_ct_deleted_meanwhile_is_told(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    host.scene.RemoveNode(journey.volume)
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "The CT was removed from the scene while it was segmented; nothing was changed." in journey.status
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_ct_renamed_and_transformed_meanwhile_gets_its_result(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    journey.volume.SetName("renamed")
    journey.volume.SetAndObserveTransformNodeID(transform.GetID())
    journey.engine.let_pass()
    journey.wait_for_end()
    journey.wait_for_figures()
    assert journey.segmentation.GetName() == "renamed CovidSeg"
    assert journey.segmentation.GetParentTransformNode() is transform
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(journey.phantom.truth.poi_percent)


def test_ct_with_another_grid_meanwhile_is_told(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    journey.volume.SetOrigin(1.0, 2.0, 3.0)
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "got another grid while it was segmented" in journey.status


def test_other_frame_of_a_sequence_in_the_ct_meanwhile_is_told(host: Any) -> None:
    import vtk

    journey = Journey(host)
    journey.start()
    frame = vtk.vtkImageData()
    frame.DeepCopy(journey.volume.GetImageData())
    frame.SetScalarComponentFromDouble(5, 5, 5, 0, 17.0)
    journey.volume.SetAndObserveImageData(frame)
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "voxels of 'phantom-1' changed while it was segmented" in journey.status
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_ct_touched_without_a_change_meanwhile_gets_its_result(host: Any) -> None:
    journey = Journey(host)
    journey.start()
    journey.volume.GetImageData().Modified()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.segmentation is not None, journey.status


def test_output_deleted_meanwhile_is_replaced_by_a_new_one(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    journey.start()
    host.scene.RemoveNode(first)
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "was removed meanwhile; a new one was made" in journey.status
    assert journey.segmentation is not None
    assert host.scene.IsNodePresent(journey.segmentation)


def test_locked_output_is_refused_before_the_work(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    segmentation.SetSelectable(False)
    journey.panel.refresh()
    assert not journey.ui.segmentButton.enabled
    assert "is locked" in journey.ui.segmentButton.toolTip


def test_output_locked_meanwhile_is_told_and_kept(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    infection = segmentation.GetSegmentation().GetSegment("infection")
    journey.start()
    segmentation.SetSelectable(False)
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "is locked" in journey.status
    assert segmentation.GetSegmentation().GetSegment("infection") is infection


def test_others_segments_in_the_output_stay_as_they_are(host: Any) -> None:
    import slicer
    from CovidSegLib.scenes.segments import oriented_image, segment_mask
    from CovidSegLib.scenes.volume import ijk_to_ras

    journey = Journey(host)
    mine = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    heart_kji = np.zeros(journey.phantom.labelmap_kji.shape, dtype=np.uint8)
    heart_kji[15:25, 20:40, 30:50] = 1
    segment = slicer.vtkSegment()
    segment.SetName("heart")
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment.AddRepresentation(name, oriented_image(heart_kji, matrix=ijk_to_ras(journey.volume)))
    assert mine.GetSegmentation().AddSegment(segment, "heart")
    journey.settle()
    journey.parameters.segmentation = mine
    assert journey.run() is mine
    np.testing.assert_array_equal(segment_mask(mine, segment_id="heart", volume_node=journey.volume), heart_kji)
    assert mine.GetSegmentation().GetNumberOfSegments() == 4


def test_volume_that_cannot_be_read_is_told_when_pressed(host: Any) -> None:
    journey = Journey(host)
    scalars = journey.volume.GetImageData().GetPointData().GetScalars()
    scalars.Fill(30000)
    journey.ui.segmentButton.click()
    assert journey.status
    assert "phantom-1" in journey.status
    assert not journey.engine.calls


def test_segments_corrected_meanwhile_are_kept_and_the_result_is_new(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    journey.start()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.engine.let_pass()
    journey.wait_for_end()
    journey.wait_for_figures()
    assert "were corrected meanwhile and kept" in journey.status
    assert journey.segmentation is not first
    journey.parameters.segmentation = first
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_second_click_while_the_user_is_asked_starts_nothing(host: Any) -> None:
    journey = Journey(host)
    journey.panel.place.prepare = lambda: journey.panel.segment.start()  # as a click while a question is open
    journey.start()
    assert len(journey.engine.calls) == 1
    journey.engine.let_pass()
    journey.wait_for_end()


class FailingLogic:
    """A logic whose last step fails; all else is the real one's."""

    def __init__(self, real: Any, *, error: Exception) -> None:
        self._real, self._error = real, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def publish(self, result: Any, **_: Any) -> Any:
        raise self._error


def test_failure_of_the_logic_is_told_with_its_details(host: Any) -> None:
    journey = Journey(host)
    before = nodes_of(host.scene)
    journey.panel.place.logic = FailingLogic(journey.widget.logic, error=RuntimeError("a bug"))
    journey.start()
    journey.engine.let_pass()
    journey.wait_for_end()
    assert "RuntimeError: a bug" in journey.status
    assert not journey.ui.detailsButton.isHidden()
    assert nodes_of(host.scene) == before


def test_missing_package_is_asked_for_installed_and_loaded_before_the_run(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from CovidSegLib import dependencies

    journey = Journey(host)
    journey.panel.place.prepare = journey.panel._ensure_dependencies
    really_installed, loaded = dependencies._installed, []
    host.packages.missing = {"monai"}
    monkeypatch.setattr(
        dependencies, "_installed", lambda name: None if name in host.packages.missing else really_installed(name)
    )
    monkeypatch.setattr(dependencies, "_import", loaded.append)
    journey.dialogs.answers = [False]
    journey.ui.segmentButton.click()
    assert "monai>=1.5,<2: less than 10 MB" in journey.dialogs.asked[0]
    assert "Nothing was installed" in journey.status
    assert host.packages.installed == []
    journey.dialogs.answers = [True]
    journey.start()
    assert host.packages.installed == ["monai>=1.5,<2"]
    assert {"monai", "torch", "monai.inferers"} <= set(loaded)
    journey.engine.let_pass()
    journey.wait_for_end()
    assert journey.status.startswith("Done in")
