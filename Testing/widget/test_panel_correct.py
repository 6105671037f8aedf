"""The section Correct: the editor set up for the job, islands removed, nothing left in hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment

pytestmark = pytest.mark.slicer


def editor_of(journey: Journey) -> Any:
    return journey.panel.correct.editor.widget


def test_nothing_can_be_corrected_before_there_is_a_result(host: Any) -> None:
    journey = Journey(host)
    for name in ("editInfectionButton", "editLungsButton", "islandButton"):
        button = getattr(journey.ui, name)
        assert not button.enabled
        assert button.toolTip == "Segment a CT first, or choose a result above."
    assert editor_of(journey) is None, "the large widget is made when it is needed"


def test_infection_is_corrected_inside_the_lungs_and_overlaps_them(host: Any) -> None:
    import slicer

    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.editInfectionButton.click()
    editor = editor_of(journey)
    node = editor.mrmlSegmentEditorNode()
    assert node.GetSegmentationNode() is segmentation
    assert node.GetSourceVolumeNode() is journey.volume
    assert node.GetSelectedSegmentID() == "infection"
    assert node.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    assert node.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideAllSegments
    assert editor.activeEffect().name == "Paint"


def test_lungs_are_corrected_everywhere(host: Any) -> None:
    import slicer

    journey = Journey(host)
    journey.run()
    journey.ui.editLungsButton.click()
    node = editor_of(journey).mrmlSegmentEditorNode()
    assert node.GetSelectedSegmentID() == "left_lung"
    assert node.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere


def test_either_is_confined_to_the_infection_on_request(host: Any) -> None:
    import slicer

    journey = Journey(host)
    journey.run()
    journey.ui.editLungsButton.click()
    node = editor_of(journey).mrmlSegmentEditorNode()
    journey.ui.insideInfectionCheckBox.checked = True
    assert node.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
    assert node.GetMaskSegmentID() == "infection"
    assert node.GetSelectedSegmentID() == "left_lung"
    journey.ui.editInfectionButton.click()
    assert node.GetMaskSegmentID() == "infection"
    journey.ui.insideInfectionCheckBox.checked = False
    assert node.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideAllSegments


def test_range_of_hu_confines_painting_and_follows_the_boxes(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    node = editor_of(journey).mrmlSegmentEditorNode()
    assert not node.GetSourceVolumeIntensityMask()
    journey.ui.rangeCheckBox.checked = True
    journey.ui.rangeFromSpinBox.value = -500
    assert node.GetSourceVolumeIntensityMask()
    assert tuple(node.GetSourceVolumeIntensityMaskRange()) == (-500, 150)
    journey.ui.rangeFromSpinBox.value = 400
    assert "is empty" in journey.ui.correctStatusLabel.text
    journey.ui.rangeFromSpinBox.value = -600
    assert journey.ui.correctStatusLabel.text == ""
    assert tuple(node.GetSourceVolumeIntensityMaskRange()) == (-600, 150)


def test_no_tool_is_in_hand_where_the_mask_cannot_be_had(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editLungsButton.click()
    journey.ui.rangeFromSpinBox.value = 400
    journey.ui.rangeCheckBox.checked = True
    journey.ui.editInfectionButton.click()
    assert "is empty" in journey.ui.correctStatusLabel.text
    assert editor_of(journey).activeEffect() is None, "it would paint the lung, anywhere"
    journey.ui.rangeFromSpinBox.value = -400
    journey.ui.editInfectionButton.click()
    assert editor_of(journey).activeEffect().name == "Paint"


def test_lungs_that_are_gone_cannot_be_corrected_and_it_says_so(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    for segment_id in ("left_lung", "right_lung"):
        segmentation.GetSegmentation().RemoveSegment(segment_id)
    journey.ui.editLungsButton.click()
    assert "lung segments are missing" in journey.ui.correctStatusLabel.text
    assert editor_of(journey).activeEffect() is None


def test_islands_below_a_size_are_removed_and_counted(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    voxel_ml = journey.phantom.ct.geometry.voxel_volume_ml
    mask_kji = np.zeros_like(journey.phantom.labelmap_kji, dtype=bool)
    mask_kji[10:16, 20:26, 20:26] = True
    mask_kji[30, 40, 50] = mask_kji[5, 5, 60] = True
    edit_segment(journey, "infection", mask_kji)
    journey.wait_for_figures()
    journey.ui.islandSpinBox.value = round(3 * voxel_ml, 2)
    journey.ui.islandButton.click()
    assert journey.ui.correctStatusLabel.text.startswith(f"2 islands removed, {2 * voxel_ml:.2f} ml in all; 1 left")
    journey.wait_for_figures()
    infection_ml = journey.panel.results.figures.current["regions"]["lungs"]["infection_ml"]
    assert infection_ml == pytest.approx(6**3 * voxel_ml)
    journey.ui.islandButton.click()
    assert "No island of infection is smaller" in journey.ui.correctStatusLabel.text


def test_islands_that_memory_does_not_suffice_for_are_told(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_mask: Any, **_options: Any) -> None:
        raise MemoryError

    journey = Journey(host)
    journey.run()
    monkeypatch.setattr("CovidSegLib.scenes.correct.remove_islands", fail)
    journey.ui.islandButton.click()
    assert journey.ui.correctStatusLabel.text.startswith("Not enough memory.")


def test_tool_is_laid_down_when_another_module_comes_on_show(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    editor = editor_of(journey)
    assert editor.shortcuts
    journey.widget.exit()
    assert editor.activeEffect() is None
    assert not editor.shortcuts
    journey.widget.enter()
    assert editor.shortcuts


def test_tool_is_laid_down_when_another_result_is_chosen(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    journey.parameters.segmentation = None
    assert editor_of(journey).activeEffect() is None
    assert not editor_of(journey).enabled


def test_editor_stays_confined_to_the_infection_when_the_ct_is_segmented_again(host: Any) -> None:
    import slicer

    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.insideInfectionCheckBox.checked = True
    journey.ui.editLungsButton.click()
    node = editor_of(journey).mrmlSegmentEditorNode()
    assert journey.run() is segmentation
    assert node.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
    assert node.GetMaskSegmentID() == "infection"
    assert node.GetSelectedSegmentID() == "left_lung"


def test_editor_survives_a_closed_scene(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    host.close_scene()
    journey.volume = None
    journey.add_ct()
    segmentation = journey.run()
    journey.ui.editInfectionButton.click()
    assert editor_of(journey).segmentationNode() is segmentation


def test_tools_are_offered_only_as_set_up_after_islands_were_removed(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.parameters.islandMl = 100.0
    journey.ui.islandButton.click()
    assert not editor_of(journey).enabled, "its brush would take voxels from the lungs"
    editor_of(journey).press_key(1)
    assert editor_of(journey).activeEffect() is None
    journey.ui.editInfectionButton.click()
    assert editor_of(journey).enabled


def test_tools_are_offered_only_as_set_up_after_a_closed_scene(host: Any) -> None:
    import slicer

    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    host.close_scene()
    assert editor_of(journey).activeEffect() is None
    journey.volume = None
    journey.add_ct()
    segmentation = journey.run()
    node = editor_of(journey).mrmlSegmentEditorNode()
    assert editor_of(journey).segmentationNode() is segmentation, "Slicer's own list chose it"
    assert node.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments
    assert not editor_of(journey).enabled
    journey.ui.editInfectionButton.click()
    assert node.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    assert editor_of(journey).enabled


def test_tools_do_not_stay_on_a_result_that_is_not_chosen_any_more(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    journey.parameters.segmentation = None
    second = journey.run()
    assert second is not first
    journey.ui.editInfectionButton.click()
    journey.parameters.segmentation = first
    editor = editor_of(journey)
    assert editor.segmentationNode() is second
    assert not editor.enabled, "its segments bear the names of those that are chosen"
    editor.press_key(1)
    assert editor.activeEffect() is None
    journey.ui.editInfectionButton.click()
    assert editor.segmentationNode() is first
    assert editor.enabled


def test_tools_go_with_the_result_that_is_removed(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.parameters.segmentation = None
    journey.run()
    journey.ui.editInfectionButton.click()
    host.scene.RemoveNode(journey.segmentation)
    journey.settle()
    assert journey.segmentation is not None, "the other one is chosen"
    assert editor_of(journey).activeEffect() is None
    assert not editor_of(journey).enabled


def test_editor_is_as_it_was_set_up_when_the_panel_comes_back_on_show(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editLungsButton.click()
    journey.widget.exit()
    journey.widget.enter()
    assert editor_of(journey).activeEffect() is None
    assert editor_of(journey).enabled
    node = editor_of(journey).mrmlSegmentEditorNode()
    journey.ui.insideInfectionCheckBox.checked = True
    assert node.GetMaskSegmentID() == "infection"
    assert node.GetSelectedSegmentID() == "left_lung"


def test_another_layout_does_not_bring_back_the_ct_that_was_corrected_before(host: Any) -> None:
    import slicer

    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    journey.widget.exit()
    journey.widget.enter()
    journey.parameters.inputVolume = other = journey.add_ct(seed=2)
    journey.run()
    manager = host.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    assert manager.sliceWidget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID() == other.GetID()


def test_tools_are_put_down_when_a_scene_is_added(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    node = editor_of(journey).mrmlSegmentEditorNode()
    host.scene.StartState(host.scene.ImportState)
    node.SetOverwriteMode(node.OverwriteAllSegments)  # as the added scene has it: there is one such node
    host.scene.EndState(host.scene.ImportState)
    journey.settle()
    assert editor_of(journey).activeEffect() is None
    assert not editor_of(journey).enabled
    journey.ui.editInfectionButton.click()
    assert node.GetOverwriteMode() == node.OverwriteNone


def test_lung_inside_the_infection_is_offered_no_tool_that_takes_away(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editLungsButton.click()
    editor = editor_of(journey)
    editor.setActiveEffectByName("Erase")
    journey.ui.insideInfectionCheckBox.checked = True
    assert not {"Erase", "Scissors", "Islands"} & set(editor.effectNameOrder())
    assert editor.activeEffect() is None
    editor.setActiveEffectByName("Paint")
    node = editor.mrmlSegmentEditorNode()
    node.SetSelectedSegmentID("infection")
    assert {"Erase", "Scissors", "Islands"} <= set(editor.effectNameOrder())
    assert editor.activeEffect().name == "Paint"
    node.SetSelectedSegmentID("right_lung")
    assert "Erase" not in editor.effectNameOrder()
    journey.ui.insideInfectionCheckBox.checked = False
    assert "Erase" in editor.effectNameOrder()


@pytest.mark.parametrize("on_show", [False, True])
def test_brush_that_a_scene_was_saved_with_stays_down_when_it_is_loaded(
    host: Any, tmp_path: Path, on_show: bool
) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    path = host.save_scene(tmp_path / "scene.mrb")
    if not on_show:
        journey.widget.exit()
    host.load_scene(path)
    journey.settle()
    editor = editor_of(journey)
    assert editor.segmentationNode() is journey.segmentation is not None
    assert editor.activeEffect() is None
    assert not editor.observes, "a click in a view would paint"
    assert not editor.mrmlSegmentEditorNode().GetActiveEffectName()


def test_brush_of_a_loaded_scene_stays_down_when_the_editor_is_made(host: Any, tmp_path: Path) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.editInfectionButton.click()
    path = host.save_scene(tmp_path / "scene.mrb")
    host.close_panel(journey.widget)
    again = Journey(host, with_ct=False)
    host.load_scene(path)
    again.settle()
    again.parameters.islandMl = 100.0
    taken_up: list[str] = []
    node = host.scene.GetSingletonNode("CovidSeg", "vtkMRMLSegmentEditorNode")
    assert node.GetActiveEffectName() == "Paint"
    node.AddObserver("ModifiedEvent", lambda *_: taken_up.append(node.GetActiveEffectName()))
    again.ui.islandButton.click()
    assert editor_of(again).activeEffect() is None
    assert "Paint" not in taken_up
