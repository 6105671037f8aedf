"""Follow-up: several results of a patient in the order of time, with the change per week known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from CovidSegLib.results.followup import FollowUpRow
from helpers_panel import Journey, edit_segment, module, phantom_of

pytestmark = pytest.mark.slicer

INFECTED, PER_WEEK = "Infected\n(%)", "per week\n(points)"


def two_results(host: Any) -> Journey:
    """Return a journey with two segmented CTs, seeds 1 and 2, the section open."""
    journey = Journey(host)
    journey.run()
    journey.volume.SetName("first CT")
    second = journey.add_ct(seed=2)
    second.SetName("second CT")
    journey.parameters.inputVolume = second
    journey.run()
    journey.ui.followUpSection.collapsed = False
    return journey


def set_date(journey: Journey, row: int, text: str) -> None:
    journey.ui.followUpTable.item(row, 1).setText(text)


def change_rows(journey: Journey) -> list[dict[str, str]]:
    """Return the table of changes, a dictionary per time point."""
    table = journey.ui.changeTable
    columns = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    return [
        {name: table.item(row, column).text() for column, name in enumerate(columns)} for row in range(table.rowCount)
    ]


def names(journey: Journey) -> list[str]:
    table = journey.ui.followUpTable
    return [table.item(row, 0).text() for row in range(table.rowCount)]


def test_one_result_is_too_few_and_says_so(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.followUpSection.collapsed = False
    assert names(journey) == ["phantom-1"]
    assert not journey.ui.compareButton.enabled
    assert journey.ui.compareButton.toolTip == "Check at least two results."


def test_results_are_compared_by_date_with_the_change_per_week(host: Any) -> None:
    journey = two_results(host)
    poi = [phantom_of(seed).truth.poi_percent for seed in (1, 2)]
    set_date(journey, 0, "2020-04-14")
    set_date(journey, 1, "2020-03-31")
    journey.ui.compareButton.click()
    early, late = change_rows(journey)
    assert (early["Date"], late["Date"]) == ("2020-03-31", "2020-04-14"), "by date"
    assert early[PER_WEEK] == "n/a"
    assert float(late[INFECTED]) == pytest.approx(poi[0], abs=0.06)
    assert float(late[PER_WEEK]) == pytest.approx((poi[0] - poi[1]) / 2, abs=0.06)
    shown = host.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNodeID()
    assert host.scene.GetNodeByID(shown).GetYAxisTitle() == "percentage of infection (%)"


def test_without_dates_the_chosen_order_counts(host: Any) -> None:
    journey = two_results(host)
    assert names(journey) == ["first CT", "second CT"]
    journey.ui.followUpTable.selectRow(1)
    assert not journey.ui.laterButton.enabled
    assert journey.ui.laterButton.toolTip == "It is the last."
    journey.ui.followUpTable.selectRow(0)
    assert not journey.ui.earlierButton.enabled
    assert journey.ui.earlierButton.toolTip == "It is the first."
    journey.ui.followUpTable.selectRow(1)
    journey.ui.earlierButton.click()
    assert names(journey) == ["second CT", "first CT"]
    journey.ui.compareButton.click()
    rows = change_rows(journey)
    assert [row["Date"] for row in rows] == ["second CT", "first CT"]
    assert rows[1][PER_WEEK] == "n/a"


def test_wrong_date_is_said_and_not_kept(host: Any) -> None:
    journey = two_results(host)
    set_date(journey, 0, "next week")
    assert "'next week' is not a date" in journey.ui.followUpLabel.text
    assert journey.ui.followUpTable.item(0, 1).text() == ""


def test_unchecked_result_is_left_out(host: Any) -> None:
    journey = two_results(host)
    journey.ui.followUpTable.item(0, 0).setCheckState(host.qt.Qt.Unchecked)
    assert not journey.ui.compareButton.enabled


def test_second_comparison_updates_the_nodes_of_the_first(host: Any) -> None:
    journey = two_results(host)
    journey.ui.compareButton.click()
    count = host.scene.GetNumberOfNodes()
    set_date(journey, 0, "2020-03-31")
    set_date(journey, 1, "2020-04-07")
    journey.ui.compareButton.click()
    assert host.scene.GetNumberOfNodes() == count


def patient_of(host: Any, *volumes: Any) -> int:
    """Put CTs under a new patient, a study each, as DICOM loading does."""
    hierarchy = host.context.subject_hierarchy()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    for volume in volumes:
        study = hierarchy.CreateStudyItem(patient, "study")
        hierarchy.SetItemAttribute(study, "DICOM.StudyDate", "20200331")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(study, volume), study)
    return int(patient)


def follow_ups(host: Any) -> list[Any]:
    """Return the tables to read of all follow-ups in the scene."""
    tables = host.context.nodes_of_class("vtkMRMLTableNode")
    return [node for node in tables if node.GetNodeReference("CovidSeg.followup.table") is not None]


def test_another_patient_gets_a_table_of_their_own(host: Any) -> None:
    journey = two_results(host)
    journey.ui.compareButton.click()
    assert journey.ui.changeTable.visible
    (first,) = follow_ups(host)
    volumes = [journey.add_ct(seed=seed) for seed in (1, 2)]
    patient_of(host, *volumes)
    for volume in volumes:
        journey.parameters.inputVolume = volume
        journey.run()
    assert len(names(journey)) == 2
    assert not journey.ui.changeTable.visible, "the figures of the patient before"
    assert journey.ui.followUpLabel.text == ""
    rows = first.GetTable()
    journey.ui.compareButton.click()
    assert journey.ui.changeTable.visible
    assert len(follow_ups(host)) == 2
    assert first.GetTable() is rows
    journey.parameters.inputVolume = journey.volume
    assert not journey.ui.changeTable.visible
    journey.ui.compareButton.click()
    assert len(follow_ups(host)) == 2, "the first patient's is found again"


def test_table_of_changes_goes_when_a_date_or_a_check_mark_is_changed(host: Any) -> None:
    journey = two_results(host)
    for row, day in enumerate(("2020-03-31", "2020-04-07")):
        set_date(journey, row, day)
    journey.ui.compareButton.click()
    set_date(journey, 1, "2020-04-14")
    assert not journey.ui.changeTable.visible, "the change per week is another one now"
    journey.ui.compareButton.click()
    assert journey.ui.changeTable.visible
    journey.ui.followUpTable.item(0, 0).setCheckState(host.qt.Qt.Unchecked)
    assert not journey.ui.changeTable.visible


def test_date_of_dicom_can_be_cleared_to_compare_in_another_order(host: Any) -> None:
    journey = two_results(host)
    patient_of(host, journey.volume, journey.parameters.inputVolume)
    journey.panel.refresh()
    assert [journey.ui.followUpTable.item(row, 1).text() for row in (0, 1)] == ["2020-03-31", "2020-03-31"]
    journey.ui.followUpTable.selectRow(1)
    journey.ui.earlierButton.click()
    assert "Clear a date to use your own order" in journey.ui.followUpLabel.text
    set_date(journey, 0, "")
    assert journey.ui.followUpTable.item(0, 1).text() == ""
    journey.ui.compareButton.click()
    assert [row["Date"] for row in change_rows(journey)] == ["second CT", "2020-03-31"]


def test_figures_that_cannot_be_measured_any_more_are_not_compared(host: Any) -> None:
    journey = two_results(host)
    for lung in ("left_lung", "right_lung"):
        journey.segmentation.GetSegmentation().RemoveSegment(lung)
    host.wait_until(lambda: "Both lung segments are missing" in journey.ui.staleLabel.text)
    journey.ui.compareButton.click()
    assert "Both lung segments are missing" in journey.ui.followUpLabel.text
    assert not journey.ui.changeTable.visible


def test_comparison_without_memory_is_told(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = two_results(host)

    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(module("panel.followup"), "is_edited", lambda _node: True)
    monkeypatch.setattr(module("panel.followup"), "time_point", fail)
    journey.ui.compareButton.click()
    assert "Not enough memory" in journey.ui.followUpLabel.text


def test_list_follows_the_scene(host: Any) -> None:
    journey = two_results(host)
    host.scene.RemoveNode(journey.segmentation)
    journey.settle()
    assert names(journey) == ["first CT"]


def test_refresh_does_not_disturb_who_is_typing_a_date(host: Any) -> None:
    journey = two_results(host)
    item = journey.ui.followUpTable.item(0, 1)
    journey.panel.refresh()
    assert journey.ui.followUpTable.item(0, 1) is item
    journey.volume.SetName("another name")
    journey.panel.refresh()
    assert names(journey)[0] == "another name"


@pytest.mark.parametrize(("text", "kept"), [("0020-03-31", "0020-03-31"), ("2020-3-5", "2020-03-05"), ("202011", "")])
def test_date_is_kept_as_it_was_understood(host: Any, text: str, kept: str) -> None:
    journey = Journey(host)
    journey.run()
    journey.ui.followUpSection.collapsed = False
    set_date(journey, 0, text)
    assert journey.ui.followUpTable.item(0, 1).text() == kept


def test_table_of_changes_goes_when_a_result_is_corrected_or_segmented_again(host: Any, tmp_path: Path) -> None:
    journey = two_results(host)
    journey.ui.compareButton.click()
    journey.segmentation.GetSegmentation().GetSegment("infection").SetName("lesions")
    host.save_scene(tmp_path / "scene.mrb")
    journey.settle()
    assert not journey.ui.changeTable.isHidden()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.settle()
    assert journey.ui.changeTable.isHidden()
    assert journey.ui.followUpLabel.text == "A result has changed since it was compared; compare again."
    journey.ui.compareButton.click()
    assert change_rows(journey)[1][INFECTED] == "0.0"
    journey.dialogs.answers = [1]
    journey.run()
    journey.settle()
    assert journey.ui.changeTable.isHidden()


def test_change_that_rounds_to_nothing_has_no_minus(host: Any) -> None:
    table, figures = host.qt.QTableWidget(), {"poi_percent": 10.0, "infection_ml": 400.0, "lung_ml": 2000.0}
    row = FollowUpRow("CT", None, 7, figures, "CT-1", {"poi_percent": -0.04})
    module("panel.followup").fill_changes(table, rows=[row])
    assert table.item(0, 2).text() == "+0.0"


def test_results_left_out_in_one_scene_are_not_so_in_the_next(host: Any, tmp_path: Path) -> None:
    journey = two_results(host)
    host.save_scene(tmp_path / "scene.mrb")
    journey.ui.followUpTable.item(0, 0).setCheckState(host.qt.Qt.Unchecked)
    host.load_scene(tmp_path / "scene.mrb")  # its nodes have the same IDs
    journey.settle()
    assert journey.ui.followUpTable.item(0, 0).checkState() == host.qt.Qt.Checked
    assert journey.ui.compareButton.enabled


def test_table_of_changes_goes_with_its_node(host: Any) -> None:
    journey = two_results(host)
    journey.ui.compareButton.click()
    journey.settle()
    assert journey.ui.changeTable.visible
    host.scene.RemoveNode(*follow_ups(host))
    journey.settle()
    assert not journey.ui.changeTable.visible
    assert journey.ui.followUpLabel.text == ""


def test_ct_that_was_just_removed_is_not_compared(host: Any) -> None:
    journey = two_results(host)
    host.scene.RemoveNode(journey.volume)
    journey.ui.compareButton.click()  # before the panel has noticed
    assert names(journey) == ["second CT"]
    assert not journey.ui.changeTable.visible
    assert not follow_ups(host)


def test_follow_up_of_the_patient_is_updated_though_other_results_are_compared_now(host: Any) -> None:
    journey = two_results(host)
    journey.ui.compareButton.click()
    (table,) = follow_ups(host)
    first = table.GetNodeReferenceID("CovidSeg.followup.result")
    table.RemoveNodeReferenceIDs("CovidSeg.followup.result")
    table.AddNodeReferenceID("CovidSeg.followup.result", first)
    third = journey.add_ct(seed=3)
    journey.parameters.inputVolume = third
    journey.run()
    journey.ui.followUpTable.item(0, 0).setCheckState(host.qt.Qt.Unchecked)
    journey.ui.compareButton.click()
    assert len(change_rows(journey)) == 2
    assert follow_ups(host) == [table]
