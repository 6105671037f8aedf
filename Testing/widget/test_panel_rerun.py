"""Segmenting again: corrected segments are never replaced unasked, and what was replaced comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment

pytestmark = pytest.mark.slicer

KEEP, REPLACE = 0, 1


def corrected(host: Any) -> tuple[Journey, Any]:
    """Return a journey whose result was corrected: nothing is infected."""
    journey = Journey(host)
    segmentation = journey.run()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    return journey, segmentation


def test_untouched_result_is_replaced_without_a_question(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    assert journey.ui.segmentButton.text == "&Segment again"
    assert journey.run() is first
    assert journey.dialogs.asked == []


def test_corrected_result_is_asked_about_and_kept(host: Any) -> None:
    journey, first = corrected(host)
    journey.dialogs.answers = [KEEP]
    second = journey.run()
    assert "were corrected by hand" in journey.dialogs.asked[0]
    assert second is not first
    assert host.scene.IsNodePresent(first)
    assert journey.panel.results.figures.current["poi_percent"] > 0
    journey.parameters.segmentation = first
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_corrected_result_is_replaced_if_the_user_says_so(host: Any) -> None:
    journey, first = corrected(host)
    journey.dialogs.answers = [REPLACE]
    assert journey.run() is first
    assert journey.panel.results.figures.current["poi_percent"] == pytest.approx(journey.phantom.truth.poi_percent)
    assert "Previous result" in journey.ui.comparisonLabel.text
    assert "0.0 %, 0.0 ml infection" in journey.ui.comparisonLabel.text


def test_no_answer_starts_nothing(host: Any) -> None:
    journey, first = corrected(host)
    journey.dialogs.answers = [None]
    journey.ui.segmentButton.click()
    assert journey.status == "Nothing was changed."
    assert len(journey.engine.calls) == 1
    assert journey.segmentation is first


def test_undo_brings_the_corrected_segments_back(host: Any) -> None:
    journey, _first = corrected(host)
    assert journey.ui.undoRunButton.isHidden()
    journey.dialogs.answers = [REPLACE]
    journey.run()
    assert not journey.ui.undoRunButton.isHidden()
    journey.ui.undoRunButton.click()
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0
    assert journey.ui.undoRunButton.isHidden()
    journey.dialogs.answers = [None]
    journey.ui.segmentButton.click()
    assert len(journey.dialogs.asked) == 2, "they count as corrected again"


def test_undo_asks_first_if_the_new_segments_were_corrected(host: Any) -> None:
    journey, _first = corrected(host)
    journey.dialogs.answers = [REPLACE]
    journey.run()
    half = journey.phantom.labelmap_kji == 3
    half[::2] = False
    edit_segment(journey, "infection", half)
    journey.wait_for_figures()
    corrected_percent = journey.panel.results.figures.current["poi_percent"]
    journey.dialogs.answers = [False]
    journey.ui.undoRunButton.click()
    assert "were corrected after the last run" in journey.dialogs.asked[-1]
    assert journey.panel.results.figures.current["poi_percent"] == corrected_percent > 0
    journey.dialogs.answers = [True]
    journey.ui.undoRunButton.click()
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_undo_is_not_offered_for_a_new_segmentation(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    assert journey.ui.undoRunButton.isHidden()


def test_undo_after_the_segmentation_was_deleted_says_why_not(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    journey.run()
    assert not journey.ui.undoRunButton.isHidden()
    host.scene.RemoveNode(first)
    journey.settle()
    assert not journey.ui.undoRunButton.enabled
    assert "not in the scene any more" in journey.ui.undoRunButton.toolTip


def test_undo_waits_until_what_it_brings_back_is_chosen(host: Any) -> None:
    journey, first = corrected(host)
    journey.dialogs.answers = [REPLACE]
    journey.run()
    journey.parameters.inputVolume = journey.add_ct(seed=2)
    assert not journey.ui.undoRunButton.enabled
    assert "Choose it above" in journey.ui.undoRunButton.toolTip
    journey.panel.segment.undo()
    assert journey.ui.headlineLabel.text == "No results yet", "figures are those of the chosen result"
    journey.parameters.segmentation = first
    journey.ui.undoRunButton.click()
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_undo_without_the_ct_leaves_no_map_of_the_undone_run(host: Any) -> None:
    from CovidSegLib.scenes.uncertainty import find_map

    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.mapUncertaintyCheckBox.checked = True
    assert journey.run() is segmentation
    assert find_map(segmentation) is not None
    host.scene.RemoveNode(journey.volume)
    journey.settle()
    journey.ui.undoRunButton.click()
    assert find_map(segmentation) is None


def test_undo_of_a_first_run_into_somebodys_segmentation_leaves_no_figures(host: Any) -> None:
    journey = Journey(host)
    mine = journey.choose_own_segmentation()
    journey.run()
    journey.ui.undoRunButton.click()
    host.wait_until(lambda: journey.panel.results.figures.problem)
    assert list(mine.GetSegmentation().GetSegmentIDs()) == ["heart"]
    assert mine.GetAttributeNames() == ()
    assert journey.ui.headlineLabel.text == "No results yet"
    assert journey.ui.profileLabel.isHidden()
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0


def test_undo_brings_the_report_back(host: Any) -> None:
    from CovidSegLib.scenes.report import REPORT_ATTRIBUTE

    journey = Journey(host)
    segmentation = journey.run()
    first = segmentation.GetAttribute(REPORT_ATTRIBUTE)
    journey.engine.warnings = ("only in the second report",)
    journey.run()
    assert segmentation.GetAttribute(REPORT_ATTRIBUTE) != first
    journey.ui.undoRunButton.click()
    assert segmentation.GetAttribute(REPORT_ATTRIBUTE) == first


def test_damaged_previous_results_do_not_spoil_a_run(host: Any) -> None:
    from CovidSegLib.scenes.correct import PREVIOUS_ATTRIBUTE

    journey = Journey(host)
    segmentation = journey.run()
    segmentation.SetAttribute(PREVIOUS_ATTRIBUTE, "[{]")
    journey.run()
    assert journey.status.startswith("Done")
    assert "Previous result" in journey.ui.comparisonLabel.text
    assert not journey.ui.undoRunButton.isHidden()


def test_correction_that_was_undone_by_hand_is_none(host: Any) -> None:
    journey, _first = corrected(host)
    edit_segment(journey, "infection", journey.phantom.labelmap_kji == 3)
    journey.wait_for_figures()
    journey.run()
    assert journey.dialogs.asked == []


def test_choosing_a_ct_chooses_its_result_and_back(host: Any) -> None:
    journey = Journey(host)
    other = journey.add_ct(seed=2)
    journey.parameters.inputVolume = other
    second = journey.run()
    journey.parameters.inputVolume = journey.volume
    assert journey.segmentation is None
    assert journey.ui.headlineLabel.text == "No results yet"
    journey.parameters.segmentation = second
    assert journey.parameters.inputVolume is other, "the CT follows the result"


def test_undo_brings_back_how_the_segments_were_shown(host: Any) -> None:
    """A segment that is put back is shown opaque by default: it would hide the CT."""
    journey = Journey(host)
    display = journey.run().GetDisplayNode()
    display.SetSegmentVisibility("left_lung", False)
    journey.run()
    journey.ui.undoRunButton.click()
    fill = {name: display.GetSegmentOpacity2DFill(name) for name in ("left_lung", "right_lung", "infection")}
    assert fill == pytest.approx({"left_lung": 0.15, "right_lung": 0.15, "infection": 0.45})
    assert not display.GetSegmentVisibility("left_lung")
    assert display.GetSegmentOpacity3D("right_lung") == 0.25


def other_ct_in_its_result(host: Any, folder: Path) -> tuple[Journey, Any]:
    """Return a journey whose CT was removed, with its result, which comes from a file; another CT is chosen."""
    journey = Journey(host)
    path = folder / "result.seg.nrrd"
    journey.widget.logic.saveSegmentation(journey.run(), path=path)
    other = journey.add_ct(seed=2)
    other.SetOrigin(*(coordinate + 30.4 for coordinate in other.GetOrigin()))
    host.scene.RemoveNode(journey.segmentation)
    host.scene.RemoveNode(journey.volume)
    node = journey.widget.logic.loadSegmentation(path)
    journey.parameters.inputVolume = journey.volume = other
    journey.parameters.segmentation = node
    journey.settle()
    return journey, node


def test_undo_of_a_run_on_another_ct_does_not_measure_the_old_segments_on_it(host: Any, tmp_path: Path) -> None:
    from CovidSegLib.scenes.outputs import TABLE_ROLE, VOLUME_ROLE, place_of

    journey, node = other_ct_in_its_result(host, tmp_path)
    before = place_of(node)
    journey.dialogs.answers = [REPLACE]
    journey.run()
    assert node.GetNodeReference(VOLUME_ROLE) is journey.volume
    journey.ui.undoRunButton.click()
    host.wait_until(lambda: "is not in the scene. Load it" in journey.ui.staleLabel.text, what="the figures")
    assert place_of(node) == before
    assert node.GetNodeReference(TABLE_ROLE) is None
    assert journey.ui.headlineLabel.text == "No results yet"


def test_undo_without_the_ct_brings_the_tables_figures_back(host: Any) -> None:
    from CovidSegLib.scenes.outputs import TABLE_ROLE, VOLUME_ROLE

    journey, segmentation = corrected(host)
    journey.dialogs.answers = [REPLACE]
    journey.run()
    poi_of = segmentation.GetNodeReference(TABLE_ROLE).GetCellText
    assert float(poi_of(0, 3)) > 0
    host.scene.RemoveNode(journey.volume)
    journey.settle()
    journey.ui.undoRunButton.click()
    assert float(poi_of(0, 3)) == 0.0
    assert segmentation.GetNodeReferenceID(VOLUME_ROLE) is None, "a later CT might get its ID in a saved scene"


def test_result_that_cannot_be_shown_can_be_undone(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_nodes: Any, **_options: Any) -> None:
        raise MemoryError

    journey, first = corrected(host)
    monkeypatch.setattr("CovidSegLib.panel.publish.show_result", fail)
    journey.dialogs.answers = [REPLACE]
    assert journey.run() is first
    assert "The result is in the scene, but could not be shown: Not enough memory." in journey.status
    assert journey.panel.results.figures.current["poi_percent"] > 0
    journey.ui.undoRunButton.click()
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_clone_that_is_corrected_gets_a_table_of_its_own(host: Any) -> None:
    from CovidSegLib.scenes.outputs import TABLE_ROLE

    journey = Journey(host)
    hierarchy = host.context.subject_hierarchy()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, journey.volume)
    original = journey.run()
    clone = host.scene.CreateNodeByClass(original.GetClassName())
    clone.Copy(original)
    journey.parameters.segmentation = host.scene.AddNode(clone)
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    percents = [float(node.GetNodeReference(TABLE_ROLE).GetCellText(0, 3)) for node in (original, clone)]
    assert percents == pytest.approx([journey.phantom.truth.poi_percent, 0.0], abs=0.01)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(clone.GetNodeReference(TABLE_ROLE))) == study


def test_result_of_a_removed_ct_is_not_replaced_unasked_by_that_of_another(host: Any) -> None:
    journey = Journey(host)
    first = journey.run()
    other = journey.add_ct(seed=2)
    other.SetOrigin(*(coordinate + 30.4 for coordinate in other.GetOrigin()))
    host.scene.RemoveNode(journey.volume)
    journey.settle()
    journey.parameters.segmentation = first
    journey.settle()
    assert journey.parameters.inputVolume is other
    journey.dialogs.answers = [KEEP]
    assert journey.run() is not first
    assert journey.dialogs.asked == [
        f"The segments of '{first.GetName()}' were made of another CT. What shall be done with them?"
    ]


def test_undone_result_finds_its_ct_that_was_loaded_again(host: Any) -> None:
    journey, segmentation = corrected(host)
    journey.dialogs.answers = [REPLACE]
    journey.run()
    host.scene.RemoveNode(journey.volume)
    journey.settle()
    again = journey.add_ct()
    journey.parameters.segmentation = segmentation
    journey.wait_for_figures()
    journey.ui.undoRunButton.click()
    journey.settle()
    journey.wait_for_figures()
    assert journey.parameters.inputVolume is again
    assert journey.panel.results.figures.problem == ""
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_undo_that_fails_is_told_and_can_be_tried_again(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_nodes: Any, **_options: Any) -> None:
        raise MemoryError

    journey, segmentation = corrected(host)
    journey.dialogs.answers = [REPLACE]
    journey.run()
    with monkeypatch.context() as broken:
        broken.setattr("CovidSegLib.scenes.outputs._give_look", fail)
        journey.ui.undoRunButton.click()
    assert "Not enough memory" in journey.status
    host.scene.RemoveNode(segmentation.GetDisplayNode())
    journey.dialogs.answers = [True]  # for half of it was undone
    journey.ui.undoRunButton.click()
    journey.wait_for_figures()
    assert list(segmentation.GetSegmentation().GetSegmentIDs()) == ["left_lung", "right_lung", "infection"]
    assert segmentation.GetDisplayNode().GetSegmentOpacity2DFill("infection") == pytest.approx(0.45)
    assert journey.panel.results.figures.current["poi_percent"] == 0.0


def test_undone_result_stays_with_its_ct_that_was_moved_since(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    journey.volume.SetAndObserveTransformNodeID(transform.GetID())
    journey.run()
    assert segmentation.GetParentTransformNode() is transform
    journey.ui.undoRunButton.click()
    assert segmentation.GetParentTransformNode() is transform


def test_undo_without_the_ct_does_without_the_map_of_before(host: Any) -> None:
    from CovidSegLib.scenes.uncertainty import find_map

    journey = Journey(host)
    journey.parameters.mapUncertainty = True
    segmentation = journey.run()
    journey.parameters.mapUncertainty = False
    journey.run()
    host.scene.RemoveNode(journey.volume)
    journey.settle()
    journey.ui.undoRunButton.click()
    assert find_map(segmentation) is None
    assert journey.status == "The segments are as they were before the last run."
