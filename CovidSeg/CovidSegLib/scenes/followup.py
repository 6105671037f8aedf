"""Follow-up in a scene: which CTs are of one patient, when they were taken, and a table and plots over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..report import NOT_AVAILABLE
from ..results.followup import FIGURES, FollowUpRow, TimePoint, follow_up
from ..scene import SceneContext
from .outputs import ct_of
from .plots import BOTH_LUNGS_RGB, COLORS, Chart, Curve, Plot, show_chart, show_columns
from .segments import find_segments
from .table import text_table
from .texts import tr as _

if TYPE_CHECKING:
    from ..logic import CovidSegLogic

#: DICOM's, ISO 8601's, and that of DICOM's predecessor ACR-NEMA.
DATE_FORMATS = ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d")

#: Number of digits of a date without separators.
PACKED_LENGTH = 8

#: Prefix of the roles by which the follow-up's table refers to its plots.
FOLLOW_UP = "CovidSeg.followup"

#: Role by which the follow-up's table refers to the segmentations that it compares.
RESULT_ROLE = f"{FOLLOW_UP}.result"

PLOTS = ("poi", "volumes", "severity")

_LEFT_RGB, _RIGHT_RGB, _INFECTION_RGB = (COLORS[name] for name in ("left_lung", "right_lung", "infection"))


@dataclass(frozen=True)
class FollowUp:
    """A follow-up in the scene.

    Attributes:
        rows: The time points with their changes per week.
        tableNode: The rows as a table to read.
        plots: "poi", "volumes" and "severity" over the days since the first CT, or over the number of the
            time point if not all have a date.
    """

    rows: tuple[FollowUpRow, ...]
    tableNode: Any
    plots: dict[str, Plot]


def study_date(context: SceneContext, *, volume_node: Any) -> date | None:
    """Return the day a CT was taken, from its volume node or else its DICOM study; None if it is not known.

    An empty date in the volume node means that the user cleared it, whatever DICOM says.
    """
    import slicer

    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMStudyDateAttributeName()
    hierarchy = context.subject_hierarchy()
    item = hierarchy.GetItemByDataNode(volume_node)
    texts = [volume_node.GetAttribute(name)]
    if texts == [""]:
        return None
    while item and item != hierarchy.GetSceneItemID():
        texts.append(hierarchy.GetItemAttribute(item, name))
        item = hierarchy.GetItemParent(item)
    return next((day for day in map(parse_date, texts) if day is not None), None)


def parse_date(text: str | None) -> date | None:
    """Return the day in a text such as 20200331 or 2020-03-31; None if it is not a date."""
    words = (text or "").strip()
    if words.isdecimal() and len(words) != PACKED_LENGTH:
        return None  # strptime would take 202011, a month, for 1 January
    for date_format in DATE_FORMATS:
        try:
            return datetime.strptime(words, date_format).date()
        except ValueError:
            continue
    return None


def segmentations_of_patient(context: SceneContext, *, volume_node: Any) -> list[Any]:
    """Return the CovidSeg segmentations of a CT's patient, earliest CT first.

    CTs that are under no patient of the subject hierarchy count as one patient's.
    """
    patient = patient_item(context, volume_node=volume_node)
    nodes = [
        node
        for node in context.nodes_of_class("vtkMRMLSegmentationNode")
        if ct_of(node) is not None
        and "infection" in find_segments(node)
        and patient_item(context, volume_node=ct_of(node)) == patient
    ]
    days = [study_date(context, volume_node=ct_of(node)) or date.max for node in nodes]
    return [nodes[index] for index in sorted(range(len(nodes)), key=days.__getitem__)]


def patient_item(context: SceneContext, *, volume_node: Any) -> int:
    """Return the subject-hierarchy item of a CT's patient, 0 if it has none."""
    import slicer

    hierarchy = context.subject_hierarchy()
    item = hierarchy.GetItemByDataNode(volume_node)
    if not item:
        return 0
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelPatient()
    return int(hierarchy.GetItemAncestorAtLevel(item, level))


def time_point(logic: CovidSegLogic, *, segmentation_node: Any, day: date | None = None) -> TimePoint:
    """Return a segmentation's figures as they are now, with the day of its CT.

    Args:
        logic: Measures the segments.
        segmentation_node: A segmentation made by CovidSeg.
        day: The day of the CT; that of `study_date` if None.

    Raises:
        InputError: The segmentation cannot be measured, for example because its CT is not in the scene.
    """
    quantities = logic.quantifySegmentation(segmentation_node)
    volume_node = ct_of(segmentation_node)
    known_day = day or study_date(logic.context, volume_node=volume_node)
    return TimePoint(volume_node.GetName(), quantities.to_dict(), known_day)


def find_follow_up(context: SceneContext, *, segmentation_nodes: Sequence[Any]) -> Any:
    """Return the table node of a follow-up that compares any of these segmentations; None without one.

    The table refers to what it compares, so that it is found in a loaded scene, too.
    """
    for table in context.nodes_of_class("vtkMRMLTableNode"):
        count = table.GetNumberOfNodeReferences(RESULT_ROLE)
        if any(table.GetNthNodeReference(RESULT_ROLE, index) in segmentation_nodes for index in range(count)):
            return table
    return None


def show_follow_up(
    context: SceneContext,
    *,
    points: Sequence[TimePoint],
    table_node: Any = None,
    segmentation_nodes: Sequence[Any] = (),
) -> FollowUp:
    """Show time points as a table to read, and as plots.

    Args:
        context: The scene.
        points: In any order if all have a date, else in the order in which they are to be shown.
        table_node: `FollowUp.tableNode` of an earlier call, which is updated with its plots; new nodes if None.
        segmentation_nodes: The segmentations compared, by which `find_follow_up` finds the table.

    Raises:
        InputError: There is no time point.
    """
    if not points:
        raise InputError(_("No time point is chosen. Segment at least one CT of the patient, and choose it."))
    rows = follow_up(points)
    table_node = table_node or context.add_node("vtkMRMLTableNode", name=_("CovidSeg follow-up"))
    _show_readable_table(table_node, rows=rows)
    table_node.RemoveNodeReferenceIDs(RESULT_ROLE)
    for node in segmentation_nodes:
        table_node.AddNodeReferenceID(RESULT_ROLE, node.GetID())
    _place_under_patient(context, table_node=table_node)
    columns = _plot_columns(rows)
    numbers = show_columns(context, owner=table_node, role=FOLLOW_UP, name=_("figures"), columns=columns)
    charts = _charts(dated=not np.isnan(columns["days"]).any())
    plots = {
        key: show_chart(context, owner=table_node, role=f"{FOLLOW_UP}.{key}", chart=charts[key], table_node=numbers)
        for key in PLOTS
    }
    return FollowUp(rows, table_node, plots)


def _place_under_patient(context: SceneContext, *, table_node: Any) -> None:
    """Put a follow-up's table under the patient in the subject hierarchy, if there is one; its plots go beside it."""
    result = table_node.GetNodeReference(RESULT_ROLE)
    volume_node = None if result is None else ct_of(result)
    patient = 0 if volume_node is None else patient_item(context, volume_node=volume_node)
    if patient:
        hierarchy = context.subject_hierarchy()
        item = hierarchy.GetItemByDataNode(table_node) or hierarchy.CreateItem(patient, table_node)
        if hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID():  # else the user moved it into a folder
            hierarchy.SetItemParent(item, patient)


def _charts(*, dated: bool) -> dict[str, Chart]:
    """Return the charts of `PLOTS`, over the days since the first CT or over the number of the time point."""
    both = _("both lungs")
    poi = (
        Curve(both, "poi_percent", BOTH_LUNGS_RGB),
        Curve(_("left lung"), "poi_left_percent", _LEFT_RGB),
        Curve(_("right lung"), "poi_right_percent", _RIGHT_RGB),
    )
    volumes = (
        Curve(both, "lung_ml", BOTH_LUNGS_RGB),
        Curve(_("left lung"), "left_lung_ml", _LEFT_RGB),
        Curve(_("right lung"), "right_lung_ml", _RIGHT_RGB),
        Curve(_("infection"), "infection_ml", _INFECTION_RGB),
    )
    severity = (Curve(_("severity"), "severity", BOTH_LUNGS_RGB),)
    drawn = {
        "poi": (_("POI"), _("percentage of infection (%)"), poi),
        "volumes": (_("volumes"), _("volume (ml)"), volumes),
        "severity": (_("severity"), _("severity class (CT-0 to CT-4)"), severity),
    }
    x_column, x_title = ("days", _("days since the first CT")) if dated else ("number", _("time point"))
    return {
        key: Chart(name, _("Follow-up"), x_column, x_title, y_title, curves, markers=True)
        for key, (name, y_title, curves) in drawn.items()
    }


def _show_readable_table(table_node: Any, *, rows: Sequence[FollowUpRow]) -> None:
    """Show a row of text per time point; what is undefined reads "n/a"."""
    cells = [_cells(row) for row in rows]
    table_node.SetAndObserveTable(text_table({name: [row[name] for row in cells] for name in cells[0]}))
    table_node.SetUseColumnTitleAsColumnHeader(False)
    table_node.SetUseFirstColumnAsRowHeader(True)
    for key, (unit, meaning) in _meanings().items():
        change = f"{key}_change_per_week"
        table_node.SetColumnUnitLabel(key, unit)
        table_node.SetColumnDescription(key, meaning)
        table_node.SetColumnUnitLabel(change, _("{unit} per week").format(unit=unit))
        table_node.SetColumnDescription(change, _("change of: {figure}").format(figure=meaning))


def _meanings() -> dict[str, tuple[str, str]]:
    """Return unit and meaning of each of `FIGURES`."""
    return {
        "poi_percent": ("%", _("percentage of infection, both lungs")),
        "poi_left_percent": ("%", _("percentage of infection, left lung")),
        "poi_right_percent": ("%", _("percentage of infection, right lung")),
        "lung_ml": ("ml", _("volume of both lungs, infection included")),
        "left_lung_ml": ("ml", _("volume of the left lung")),
        "right_lung_ml": ("ml", _("volume of the right lung")),
        "infection_ml": ("ml", _("volume of the infection")),
    }


def _cells(row: FollowUpRow) -> dict[str, str]:
    return {
        "time_point": row.name,
        "date": NOT_AVAILABLE if row.study_date is None else row.study_date.isoformat(),
        "days": NOT_AVAILABLE if row.days is None else str(row.days),
        "severity": row.severity or NOT_AVAILABLE,
        **{key: _text(row.figures[key], sign="") for key in FIGURES},
        **{f"{key}_change_per_week": _text(row.change_per_week[key], sign="+") for key in FIGURES},
    }


def _text(value: float | None, *, sign: str) -> str:
    return NOT_AVAILABLE if value is None else f"{value:{sign}z.2f}"


def _plot_columns(rows: Sequence[FollowUpRow]) -> dict[str, np.ndarray]:
    """Return the figures as numbers, NaN where undefined; a severity class CT-n is n."""

    def column(values: Sequence[float | None]) -> np.ndarray:
        return np.array([np.nan if value is None else float(value) for value in values])

    return {
        "number": np.arange(1.0, len(rows) + 1.0),
        "days": column([row.days for row in rows]),
        **{key: column([row.figures[key] for row in rows]) for key in FIGURES},
        "severity": column([None if row.severity is None else int(row.severity.removeprefix("CT-")) for row in rows]),
    }
