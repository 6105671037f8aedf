"""Time points of one patient in a scene: found by patient and study date, shown as table and plots."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, add_volume, hu_of, labels_on, nodes_of

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.results.followup import FIGURES, TimePoint  # noqa: E402
from CovidSegLib.scenes.followup import (  # noqa: E402
    find_follow_up,
    parse_date,
    patient_item,
    segmentations_of_patient,
    show_follow_up,
    study_date,
    time_point,
)
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

pytestmark = pytest.mark.slicer

FIRST, WEEK_LATER = date(2020, 3, 30), date(2020, 4, 6)
MATRIX = GRIDS["axial_lps"]


def add_study(context: Any, *, patient: int, day: str | None, volume: Any) -> None:
    """Put a volume under a new study of a patient, as DICOM loading does."""
    hierarchy = context.subject_hierarchy()
    study = hierarchy.CreateStudyItem(patient, "study")
    if day is not None:
        hierarchy.SetItemAttribute(study, "DICOM.StudyDate", day)
    hierarchy.SetItemParent(hierarchy.CreateItem(study, volume), study)


def add_patient(context: Any, name: str) -> int:
    hierarchy = context.subject_hierarchy()
    return int(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), name))


def add_ct(context: Any, *, healed: bool = False) -> Any:
    """Return a CT; healed, its left lung has no infection any more."""
    labels_kji = labels_on(MATRIX)
    if healed:
        half = labels_kji.shape[2] // 2
        part = labels_kji[..., half:]  # i runs to the patient's left
        part[part == Label.INFECTION] = Label.LEFT_LUNG
    return add_volume(context, hu_kji=hu_of(labels_kji), matrix=MATRIX)


def report(*, poi: float | None = 10.0, infection_ml: float = 400.0) -> dict[str, Any]:
    region = {"volume_ml": 2000.0, "infection_ml": infection_ml, "poi_percent": poi}
    regions = dict.fromkeys(("lungs", "left_lung", "right_lung"), region)
    return {"regions": regions, "severity": {"class": None if poi is None else "CT-2"}}


def save_and_load(context: Any) -> None:
    """Close the scene and open it again, without what lies in files of its own."""
    context.scene.SetSaveToXMLString(True)
    context.scene.Commit()
    text = context.scene.GetSceneXMLString()
    context.scene.Clear(0)
    context.scene.SetLoadFromXMLString(True)
    context.scene.SetSceneXMLString(text)
    context.scene.Import()


def cells_of(node: Any) -> list[dict[str, str]]:
    """Return a table of text as rows of column -> text."""
    columns = range(node.GetNumberOfColumns())
    return [
        {node.GetColumnName(column): node.GetCellText(row, column) for column in columns}
        for row in range(node.GetNumberOfRows())
    ]


def numbers_of(node: Any, column: str) -> list[float]:
    return [float(value) for value in vtk_to_numpy(node.GetTable().GetColumnByName(column))]


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20200330", FIRST),
        (" 20200330 ", FIRST),
        ("2020-03-30", FIRST),
        ("2020.03.30", FIRST),
        ("", None),
        (None, None),
        ("20201332", None),
        ("202011", None),
        ("2020111", None),
        ("March 30th", None),
    ],
)
def test_dates_are_read_as_dicom_writes_them(text: str | None, day: date | None) -> None:
    assert parse_date(text) == day


def test_study_date_comes_from_the_study_in_the_subject_hierarchy(context: Any) -> None:
    volume = add_ct(context)
    assert study_date(context, volume_node=volume) is None
    add_study(context, patient=add_patient(context, "p"), day="20200330", volume=volume)
    assert study_date(context, volume_node=volume) == FIRST


def test_study_date_in_the_volume_itself_is_understood(context: Any) -> None:
    volume = add_ct(context)
    volume.SetAttribute("DICOM.StudyDate", "20200406")
    assert study_date(context, volume_node=volume) == WEEK_LATER


def test_date_that_was_cleared_stays_so_whatever_dicom_says_also_in_a_saved_scene(context: Any) -> None:
    volume = add_ct(context)
    add_study(context, patient=add_patient(context, "p"), day="20200330", volume=volume)
    volume.SetAttribute("DICOM.StudyDate", "")
    assert study_date(context, volume_node=volume) is None
    save_and_load(context)
    (loaded,) = context.nodes_of_class("vtkMRMLScalarVolumeNode")
    assert study_date(context, volume_node=loaded) is None


def test_follow_up_is_found_by_the_results_that_it_compares(context: Any, logic: Any) -> None:
    first, second, other = (logic.process(add_ct(context)).segmentationNode for _ in range(3))
    points = [TimePoint("a", report(), FIRST), TimePoint("b", report(), WEEK_LATER)]
    assert find_follow_up(context, segmentation_nodes=[first, second]) is None
    table = show_follow_up(context, points=points, segmentation_nodes=[first, second]).tableNode
    assert find_follow_up(context, segmentation_nodes=[second, other]) is table
    assert find_follow_up(context, segmentation_nodes=[other]) is None
    show_follow_up(context, points=points, table_node=table, segmentation_nodes=[second, other])
    assert find_follow_up(context, segmentation_nodes=[first]) is None
    context.remove_node(second)
    assert find_follow_up(context, segmentation_nodes=[other]) is table
    save_and_load(context)
    by_name = {node.GetName(): node for node in context.nodes_of_class("vtkMRMLSegmentationNode")}
    found = [find_follow_up(context, segmentation_nodes=[node]) is not None for _, node in sorted(by_name.items())]
    assert found == [False, True], "the first and the other one"


def test_follow_up_is_under_its_patient_in_the_subject_hierarchy(context: Any, logic: Any) -> None:
    hierarchy, patient, volume = context.subject_hierarchy(), add_patient(context, "p"), add_ct(context)
    add_study(context, patient=patient, day="20200330", volume=volume)
    node = logic.process(volume).segmentationNode
    outside = logic.process(add_ct(context)).segmentationNode
    for result, parent in ((node, patient), (outside, hierarchy.GetSceneItemID())):
        shown = show_follow_up(context, points=[TimePoint("a", report(), FIRST)], segmentation_nodes=[result])
        chart = shown.plots["poi"].chartNode
        for made in (shown.tableNode, chart):
            assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(made)) == parent


def test_segmentations_of_a_patient_come_by_date_and_without_other_patients(context: Any, logic: Any) -> None:
    one, other = add_patient(context, "one"), add_patient(context, "other")
    volumes = [add_ct(context) for _ in range(5)]
    for volume, patient, day in zip(
        volumes, (one, one, other, one), ("20200406", "20200330", "20200331", None), strict=False
    ):
        add_study(context, patient=patient, day=day, volume=volume)
    later, earlier, _, undated, outside = (logic.process(volume).segmentationNode for volume in volumes)
    assert segmentations_of_patient(context, volume_node=volumes[0]) == [earlier, later, undated]
    assert segmentations_of_patient(context, volume_node=volumes[4]) == [outside]
    assert patient_item(context, volume_node=volumes[0]) == one
    assert patient_item(context, volume_node=volumes[4]) == 0


def test_segmentations_of_others_are_no_time_points(context: Any, logic: Any) -> None:
    volume = add_ct(context)
    node = logic.process(volume).segmentationNode
    context.add_node("vtkMRMLSegmentationNode", name="somebody's")
    assert segmentations_of_patient(context, volume_node=volume) == [node]
    node.GetSegmentation().RemoveSegment("infection")
    assert segmentations_of_patient(context, volume_node=volume) == []


def test_time_point_has_the_figures_of_the_segments_as_they_are(context: Any, logic: Any) -> None:
    volume = add_ct(context)
    add_study(context, patient=add_patient(context, "p"), day="20200330", volume=volume)
    outputs = logic.process(volume)
    point = time_point(logic, segmentation_node=outputs.segmentationNode)
    assert (point.name, point.study_date) == (volume.GetName(), FIRST)
    assert point.report["regions"] == outputs.report["regions"]
    assert time_point(logic, segmentation_node=outputs.segmentationNode, day=WEEK_LATER).study_date == WEEK_LATER
    context.remove_node(volume)
    with pytest.raises(InputError, match="is not in the scene"):
        time_point(logic, segmentation_node=outputs.segmentationNode)


def test_course_of_two_cts_is_as_counted_by_hand(context: Any, logic: Any) -> None:
    patient = add_patient(context, "p")
    volumes = [add_ct(context), add_ct(context, healed=True)]
    for volume, day in zip(volumes, ("20200330", "20200406"), strict=True):
        add_study(context, patient=patient, day=day, volume=volume)
        logic.process(volume)
    nodes = segmentations_of_patient(context, volume_node=volumes[1])
    points = [time_point(logic, segmentation_node=node) for node in nodes]
    result = show_follow_up(context, points=points[::-1])
    labels_kji = labels_on(MATRIX)
    infected = labels_kji == Label.INFECTION
    half = labels_kji.shape[2] // 2
    lung = np.count_nonzero(labels_kji)
    before, after = 100.0 * infected.sum() / lung, 100.0 * infected[..., :half].sum() / lung
    assert 0 < after < before
    first, second = cells_of(result.tableNode)
    assert (first["date"], second["date"]) == ("2020-03-30", "2020-04-06")
    assert first["poi_percent"] == f"{before:.2f}"
    assert second["poi_percent"] == f"{after:.2f}"
    assert second["poi_percent_change_per_week"] == f"{after - before:+.2f}"
    assert second["poi_left_percent"] == "0.00"
    assert second["lung_ml_change_per_week"] == "+0.00"
    assert first["poi_percent_change_per_week"] == "n/a"


def test_undefined_and_undated_reads_not_available(context: Any) -> None:
    (cells,) = cells_of(show_follow_up(context, points=[TimePoint("CT", report(poi=None))]).tableNode)
    for name in ("date", "days", "severity", "poi_percent", "poi_percent_change_per_week"):
        assert cells[name] == "n/a"
    assert cells["infection_ml"] == "400.00"


def test_plots_run_over_days_with_severity_as_a_number(context: Any) -> None:
    points = [
        TimePoint("b", report(poi=30.0, infection_ml=600.0), WEEK_LATER),
        TimePoint("a", report(poi=None), FIRST),
    ]
    result = show_follow_up(context, points=points)
    numbers = result.plots["poi"].tableNode
    assert numbers_of(numbers, "days") == [0.0, 7.0]
    assert numbers_of(numbers, "infection_ml") == [400.0, 600.0]
    np.testing.assert_array_equal(numbers_of(numbers, "severity"), [np.nan, 2.0])
    np.testing.assert_array_equal(numbers_of(numbers, "poi_percent"), [np.nan, 30.0])
    assert set(result.plots) == {"poi", "volumes", "severity"}
    names = {numbers.GetColumnName(index) for index in range(numbers.GetNumberOfColumns())}
    for plot in result.plots.values():
        assert plot.chartNode.GetXAxisTitle() == "days since the first CT"
        for series in plot.seriesNodes:
            assert series.GetXColumnName() == "days"
            assert series.GetYColumnName() in names
            assert series.GetTableNode() is numbers


def test_without_every_date_plots_run_over_the_number_of_the_time_point(context: Any) -> None:
    result = show_follow_up(context, points=[TimePoint("b", report(), FIRST), TimePoint("a", report())])
    assert [row.name for row in result.rows] == ["b", "a"]
    assert result.plots["poi"].chartNode.GetXAxisTitle() == "time point"
    assert result.plots["poi"].seriesNodes[0].GetXColumnName() == "number"
    assert numbers_of(result.plots["poi"].tableNode, "number") == [1.0, 2.0]


def test_columns_say_unit_and_meaning(context: Any) -> None:
    table = show_follow_up(context, points=[TimePoint("CT", report(), FIRST)]).tableNode
    assert table.GetColumnUnitLabel("infection_ml") == "ml"
    assert table.GetColumnUnitLabel("poi_percent_change_per_week") == "% per week"
    for key in FIGURES:
        assert table.GetColumnDescription(key)


def test_second_time_updates_the_same_nodes(context: Any) -> None:
    result = show_follow_up(context, points=[TimePoint("CT", report(), FIRST)])
    shown = nodes_of(context)
    points = [TimePoint("CT", report(), FIRST), TimePoint("CT", report(), WEEK_LATER)]
    again = show_follow_up(context, points=points, table_node=result.tableNode)
    assert nodes_of(context) == shown
    assert again.tableNode is result.tableNode
    assert again.tableNode.GetNumberOfRows() == 2


def test_no_time_point_is_an_error_that_makes_no_node(context: Any) -> None:
    nodes = nodes_of(context)
    with pytest.raises(InputError, match="No time point is chosen"):
        show_follow_up(context, points=[])
    assert nodes_of(context) == nodes


def test_change_that_rounds_to_nothing_has_no_minus(context: Any) -> None:
    later = report(poi=9.9999, infection_ml=399.999)
    shown = show_follow_up(context, points=[TimePoint("a", report(), FIRST), TimePoint("b", later, WEEK_LATER)])
    _, cells = cells_of(shown.tableNode)
    for key in ("poi_percent", "infection_ml"):
        assert cells[f"{key}_change_per_week"] == "+0.00"
