"""The section Correct: the editor's keys undo what is chosen in the panel, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from CovidSegLib.scenes.segments import mask_of
from helpers_panel import Journey, edit_segment

pytestmark = pytest.mark.slicer


def editor_of(journey: Journey) -> Any:
    return journey.panel.correct.editor.widget


def corrected(journey: Journey) -> Any:
    """Empty the infection of the chosen result, as a stroke of the editor does; return the result."""
    segmentation = journey.segmentation
    journey.ui.editInfectionButton.click()
    editor_of(journey).saveStateForUndo()
    edit_segment(journey, "infection", np.zeros(journey.phantom.labelmap_kji.shape, dtype=bool))
    journey.wait_for_figures()
    assert infected_voxels(segmentation) == 0
    return segmentation


def infected_voxels(segmentation: Any) -> int:
    labelmap = segmentation.GetBinaryLabelmapInternalRepresentation("infection")
    value = segmentation.GetSegmentation().GetSegment("infection").GetLabelValue()
    return int(mask_of(labelmap, value=value).sum())


def test_keys_undo_nothing_in_a_result_that_is_not_chosen(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    first = corrected(journey)
    journey.parameters.segmentation = None
    assert journey.run() is not first
    editor = editor_of(journey)
    assert editor.segmentationNode() is first
    assert not editor.shortcuts
    editor.press_undo_key()
    assert infected_voxels(first) == 0
    journey.parameters.segmentation = first
    assert editor.shortcuts
    editor.press_undo_key()
    assert infected_voxels(first) > 0
    journey.wait_for_figures()
    assert journey.panel.results.figures.current["regions"]["lungs"]["infection_ml"] > 0


def test_keys_undo_nothing_in_a_locked_result(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    segmentation = corrected(journey)
    journey.widget.exit()
    segmentation.SetSelectable(False)
    journey.widget.enter()
    assert not editor_of(journey).shortcuts
    editor_of(journey).press_undo_key()
    assert infected_voxels(segmentation) == 0
    segmentation.SetSelectable(True)
    journey.panel.refresh()
    editor_of(journey).press_undo_key()
    assert infected_voxels(segmentation) > 0


def test_keys_undo_nothing_while_another_module_is_on_show(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    segmentation = corrected(journey)
    journey.widget.exit()
    journey.panel.refresh()
    assert not editor_of(journey).shortcuts
    editor_of(journey).press_undo_key()
    assert infected_voxels(segmentation) == 0


def test_keys_bring_back_removed_islands_whose_result_nobody_corrected(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    before = infected_voxels(segmentation)
    journey.parameters.islandMl = 100.0
    journey.ui.islandButton.click()
    assert infected_voxels(segmentation) < before
    editor_of(journey).press_undo_key()
    assert infected_voxels(segmentation) == before


def test_keys_follow_the_islands_to_the_result_that_they_were_removed_from(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    first = corrected(journey)
    journey.parameters.segmentation = None
    second = journey.run()
    before = infected_voxels(second)
    journey.parameters.islandMl = 100.0
    journey.ui.islandButton.click()
    editor_of(journey).press_undo_key()
    assert infected_voxels(second) == before
    assert infected_voxels(first) == 0


def test_keys_work_in_a_panel_that_is_reloaded_and_not_entered_anew(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    widget = host.reload_panel(journey.widget)
    widget.ui.editInfectionButton.click()
    assert widget.panel.correct.editor.widget.shortcuts
