"""Plots of a result as nodes: infection along the patient's axis, and the HU of lungs and infection.

A plot is a table node with one column per curve, a plot series per curve, and a chart. They belong to an owner (the
segmentation, or the follow-up's table), which refers to table and chart by roles; a later call updates them in place,
so that repeated calls leave no nodes behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..labels import SEGMENTS
from ..quantify import Quantities
from ..results.axis_profile import AxisProfile
from ..results.hu_histogram import BIN_HU, BIN_MIDDLES_HU
from ..scene import SceneContext
from .display import local_point, world_point
from .outputs import VOLUME_ROLE, ct_of
from .texts import tr as _

#: Prefixes of the roles by which a segmentation refers to its plots.
PROFILE, HISTOGRAM = "CovidSeg.profile", "CovidSeg.histogram"

#: Columns of the profile's table: the point to look at, in RAS of the CT, parent transforms left out.
POINT_COLUMNS = ("r_mm", "a_mm", "s_mm")

#: RGB, 0 to 1; plot views are white.
COLORS = {definition.segment_id: definition.color_rgb for definition in SEGMENTS}
BOTH_LUNGS_RGB = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Curve:
    """A curve of a chart: its name, the table's column of its y values, and its colour (RGB, 0 to 1)."""

    name: str
    column: str
    color_rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Chart:
    """What a chart shows, without any node.

    Attributes:
        name: For its nodes.
        title: Over the chart.
        x_column: The table's column of all curves' x values.
        x_title: Of the axis, with unit.
        y_title: Of the axis, with unit.
        curves: In the order of the legend.
        markers: Whether each point is marked, which suits a few points.
    """

    name: str
    title: str
    x_column: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    markers: bool = False


@dataclass(frozen=True)
class Plot:
    """The nodes of a plot."""

    tableNode: Any
    chartNode: Any
    seriesNodes: tuple[Any, ...]


def show_profile(context: SceneContext, *, segmentation_node: Any, volume_node: Any, profile: AxisProfile) -> Plot:
    """Show the percentage of infection per slice, from apex to base; the table's rows are the slices.

    Args:
        context: The scene.
        segmentation_node: Owns the plot.
        volume_node: The CT.
        profile: Of the segments (`axis_profile`), computed in the CT's `display.world_orientation`.
    """
    owned, chart = {"owner": segmentation_node, "role": PROFILE}, _profile_chart()
    columns = _profile_columns(profile, volume_node=volume_node)
    table_node = show_columns(context, **owned, name=chart.name, columns=columns)
    table_node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    return show_chart(context, **owned, chart=chart, table_node=table_node)


def show_histogram(context: SceneContext, *, segmentation_node: Any, quantities: Quantities) -> Plot:
    """Show how the HU of lungs (infection included) and of infection are distributed; the table's rows are the bins.

    Args:
        context: The scene.
        segmentation_node: Owns the plot.
        quantities: Of the segments, as `CovidSegLogic.quantifySegmentation` gives them.
    """
    owned, chart = {"owner": segmentation_node, "role": HISTOGRAM}, _histogram_chart()
    table_node = show_columns(context, **owned, name=chart.name, columns=_histogram_columns(quantities))
    return show_chart(context, **owned, chart=chart, table_node=table_node)


def update_plots(segmentation_node: Any, *, volume_node: Any, quantities: Quantities, profile: AxisProfile) -> None:
    """Give the plots that a segmentation has, if any, the figures of its segments as they are now.

    Only the tables are written: how a plot looks stays as the user left it.

    Args:
        segmentation_node: Owns the plots.
        volume_node: Its CT.
        quantities: Of the segments, for the histogram.
        profile: Of the segments, as for `show_profile`.
    """
    table_node = _node_if_original(segmentation_node, role=f"{PROFILE}.table")
    if table_node is not None:
        table_node.SetAndObserveTable(_table(_profile_columns(profile, volume_node=volume_node)))
        table_node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    table_node = _node_if_original(segmentation_node, role=f"{HISTOGRAM}.table")
    if table_node is not None:
        table_node.SetAndObserveTable(_table(_histogram_columns(quantities)))


def ras_of_profile_point(table_node: Any, *, row: int) -> tuple[float, float, float]:
    """Return the point_ras (mm) in the world of a row of the profile, under the CT's present transform.

    Args:
        table_node: The profile's table; that of a loaded scene will do.
        row: Number of the row, from 0, as a click in the plot reports it.

    Raises:
        InputError: There is no such row, or the CT is not in the scene.
    """
    volume_node = ct_of(table_node)
    if volume_node is None:
        raise InputError(_("The CT of this plot is not in the scene any more. Load it again, and segment it."))
    table = table_node.GetTable()
    columns = [table.GetColumnByName(name) for name in POINT_COLUMNS]
    if None in columns or not 0 <= row < table.GetNumberOfRows():
        text = _("'{table}' has no point {row} to jump to. Update the plot.")
        raise InputError(text.format(table=table_node.GetName(), row=row))
    r, a, s = (float(column.GetValue(row)) for column in columns)
    return world_point(volume_node, point_ras=(r, a, s))


def show_columns(context: SceneContext, *, owner: Any, role: str, name: str, columns: Mapping[str, np.ndarray]) -> Any:
    """Return the table node with columns of numbers: a new one, or the one that `owner` refers to by `role`.

    Args:
        context: The scene.
        owner: Node that keeps the reference.
        role: Prefix of the reference's role.
        name: Of a new node, preceded by the owner's name.
        columns: Name -> (n,) numbers, NaN where undefined.
    """
    table = _owned_node(context, owner=owner, role=f"{role}.table", class_name="vtkMRMLTableNode", name=name)
    table.SetAndObserveTable(_table(columns))
    context.place_beside(table, neighbour=owner)
    return table


def show_chart(context: SceneContext, *, owner: Any, role: str, chart: Chart, table_node: Any) -> Plot:
    """Show columns of a table as a chart: new nodes, or those that `owner` refers to by `role`.

    Args:
        context: The scene.
        owner: Node that keeps the reference to the chart.
        role: Prefix of the reference's role.
        chart: What is drawn.
        table_node: Has the columns that the chart names.
    """
    node = _owned_node(context, owner=owner, role=f"{role}.chart", class_name="vtkMRMLPlotChartNode", name=chart.name)
    series = _series_nodes(context, chart_node=node, curves=chart.curves)
    for series_node, curve in zip(series, chart.curves, strict=True):
        _set_up_series(series_node, table_node=table_node, chart=chart, curve=curve)
        context.place_beside(series_node, neighbour=owner)  # Slicer lists series, too, whose names repeat
    node.SetTitle(chart.title)
    node.SetXAxisTitle(chart.x_title)
    node.SetYAxisTitle(chart.y_title)
    context.place_beside(node, neighbour=owner)
    return Plot(table_node, node, series)


def _profile_chart() -> Chart:
    """Return the chart of infection from apex to base, over `_profile_columns`."""
    return Chart(
        name=_("infection along the axis"),
        title=_("Infection from apex to base"),
        x_column="distance_mm",
        x_title=_("distance from the apex (mm)"),
        y_title=_("percentage of infection (%)"),
        curves=(
            Curve(_("both lungs"), "poi_percent", BOTH_LUNGS_RGB),
            Curve(_("left lung"), "poi_left_percent", COLORS["left_lung"]),
            Curve(_("right lung"), "poi_right_percent", COLORS["right_lung"]),
        ),
    )


def _histogram_chart() -> Chart:
    """Return the chart of how HU are distributed, over `_histogram_columns`."""
    return Chart(
        name=_("HU histogram"),
        title=_("Density of lungs and infection"),
        x_column="hu",
        x_title=_("HU"),
        y_title=_("share of its voxels per {width} HU (%)").format(width=BIN_HU),
        curves=(
            Curve(_("lungs, infection included"), "lungs_percent", COLORS["left_lung"]),
            Curve(_("infection"), "infection_percent", COLORS["infection"]),
        ),
    )


def _profile_columns(profile: AxisProfile, *, volume_node: Any) -> dict[str, np.ndarray]:
    points = [local_point(volume_node, (int(i), int(j), int(k))) for i, j, k in profile.point_ijk]
    point_ras = np.array(points, dtype=float).reshape(-1, 3)
    return {
        "distance_mm": profile.distance_mm,
        "poi_percent": profile.poi_percent("lungs"),
        "poi_left_percent": profile.poi_percent("left_lung"),
        "poi_right_percent": profile.poi_percent("right_lung"),
        "lung_ml": profile.lung_ml["lungs"],
        "infection_ml": profile.infection_ml["lungs"],
        **{name: point_ras[:, axis] for axis, name in enumerate(POINT_COLUMNS)},
    }


def _histogram_columns(quantities: Quantities) -> dict[str, np.ndarray]:
    density, lungs = quantities.density, quantities.lungs
    return {
        "hu": BIN_MIDDLES_HU,
        "lungs_ml": density.lungs_percent / 100.0 * lungs.volume_ml,
        "lungs_percent": density.lungs_percent,
        "infection_ml": density.infection_percent / 100.0 * lungs.infection_ml,
        "infection_percent": density.infection_percent,
    }


def _node_if_original(owner: Any, *, role: str) -> Any:
    """Return the node that `owner` refers to; None without one, or if `owner` is a clone and it is the original's.

    Of the nodes that refer to it, the original is the first in the scene.
    """
    node, scene, class_name = owner.GetNodeReference(role), owner.GetScene(), owner.GetClassName()
    others = (scene.GetNthNodeByClass(index, class_name) for index in range(scene.GetNumberOfNodesByClass(class_name)))
    first = next((other for other in others if other.GetNodeReference(role) is node), owner)
    return node if first is owner else None


def _owned_node(context: SceneContext, *, owner: Any, role: str, class_name: str, name: str) -> Any:
    """Return the node of `owner`'s own, or a new one that it refers to from now on."""
    node = _node_if_original(owner, role=role)
    if node is None:
        node = context.add_node(class_name, name=f"{owner.GetName()} {name}")
        owner.SetNodeReferenceID(role, node.GetID())
    return node


def _table(columns: Mapping[str, np.ndarray]) -> Any:
    """Return a `vtkTable` of float64 columns."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    table = vtk.vtkTable()
    for name, values in columns.items():
        column = numpy_to_vtk(np.ascontiguousarray(values, dtype=np.float64), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    return table


def _series_nodes(context: SceneContext, *, chart_node: Any, curves: Sequence[Curve]) -> tuple[Any, ...]:
    """Return the chart's series nodes, one per curve; missing ones are created."""
    for curve in curves[chart_node.GetNumberOfPlotSeriesNodes() :]:
        node = context.add_node("vtkMRMLPlotSeriesNode", name=curve.name)
        chart_node.AddAndObservePlotSeriesNodeID(node.GetID())
    return tuple(chart_node.GetNthPlotSeriesNode(index) for index in range(len(curves)))


def _set_up_series(node: Any, *, table_node: Any, chart: Chart, curve: Curve) -> None:
    import slicer

    series = slicer.vtkMRMLPlotSeriesNode
    node.SetName(curve.name)  # as the legend shows it, without a number where the name is taken
    node.SetAndObserveTableNodeID(table_node.GetID())
    node.SetPlotType(series.PlotTypeScatter)
    node.SetXColumnName(chart.x_column)
    node.SetYColumnName(curve.column)
    node.SetMarkerStyle(series.MarkerStyleCircle if chart.markers else series.MarkerStyleNone)
    node.SetLineStyle(series.LineStyleSolid)
    node.SetLineWidth(2.0)
    node.SetColor(*curve.color_rgb)
