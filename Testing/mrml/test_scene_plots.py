"""Plots of a result: figures as counted by hand, nodes updated in place, clicks that find their slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, nodes_of, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.labels import Label  # noqa: E402
from CovidSegLib.results.axis_profile import axis_profile  # noqa: E402
from CovidSegLib.results.hu_histogram import BIN_EDGES_HU  # noqa: E402
from CovidSegLib.scenes.display import world_orientation  # noqa: E402
from CovidSegLib.scenes.plots import (  # noqa: E402
    Plot,
    ras_of_profile_point,
    show_histogram,
    show_profile,
    update_plots,
)
from CovidSegLib.scenes.segments import oriented_image, read_masks  # noqa: E402

pytestmark = pytest.mark.slicer


def columns_of(table_node: Any) -> dict[str, np.ndarray]:
    """Return a table of numbers as name -> column."""
    from vtk.util.numpy_support import vtk_to_numpy

    table = table_node.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
    return {column.GetName(): vtk_to_numpy(column).copy() for column in columns}


def profile_of(context: Any, *, case: Any, node: Any) -> Plot:
    masks = read_masks(node, volume_node=case.volume)
    profile = axis_profile(masks, orientation=world_orientation(case.volume))
    return show_profile(context, segmentation_node=node, volume_node=case.volume, profile=profile)


def histogram_of(context: Any, *, logic: Any, node: Any) -> Plot:
    return show_histogram(context, segmentation_node=node, quantities=logic.quantifySegmentation(node))


def test_masks_read_are_whole_lungs_and_infection(logic: Any, case: Any) -> None:
    masks = read_masks(logic.process(case.volume).segmentationNode, volume_node=case.volume)
    assert masks.geometry.shape_kji == case.labels_kji.shape
    np.testing.assert_array_equal(masks.infection_kji, case.labels_kji == Label.INFECTION)
    np.testing.assert_array_equal(masks.left_kji | masks.right_kji, case.labels_kji > 0)


def test_segment_that_is_gone_reads_as_an_empty_mask(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().RemoveSegment("left_lung")
    masks = read_masks(node, volume_node=case.volume)
    assert not masks.left_kji.any()
    assert masks.right_kji.any()


@pytest.mark.parametrize("case", ["axial_lps", "slices_head_first"], indirect=True)
def test_profile_is_infection_by_lung_in_each_slice_apex_first(context: Any, logic: Any, case: Any) -> None:
    columns = columns_of(profile_of(context, case=case, node=logic.process(case.volume).segmentationNode).tableNode)
    lungs = (case.labels_kji > 0).sum(axis=(1, 2))
    infection = (case.labels_kji == Label.INFECTION).sum(axis=(1, 2))
    head_last = case.matrix[2, 2] > 0
    slices = np.flatnonzero(lungs)[:: -1 if head_last else 1]
    np.testing.assert_allclose(columns["poi_percent"], 100.0 * infection[slices] / lungs[slices])
    np.testing.assert_allclose(columns["distance_mm"], 3.0 * np.arange(len(slices)))
    assert 0 < np.count_nonzero(infection[slices]) < len(slices)


def test_series_draw_the_columns_of_the_table(context: Any, logic: Any, case: Any) -> None:
    plot = profile_of(context, case=case, node=logic.process(case.volume).segmentationNode)
    names = set(columns_of(plot.tableNode))
    assert plot.chartNode.GetNumberOfPlotSeriesNodes() == len(plot.seriesNodes) == 3
    assert plot.chartNode.GetXAxisTitle() == "distance from the apex (mm)"
    for series in plot.seriesNodes:
        assert series.GetTableNode() is plot.tableNode
        assert series.GetPlotType() == slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter
        assert series.GetXColumnName() == "distance_mm"
        assert series.GetYColumnName() in names
    assert [series.GetName() for series in plot.seriesNodes] == ["both lungs", "left lung", "right lung"]


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_point_of_the_profile_leads_to_its_slice(context: Any, logic: Any, case: Any) -> None:
    plot = profile_of(context, case=case, node=logic.process(case.volume).segmentationNode)
    columns = columns_of(plot.tableNode)
    heights_mm = []
    for row, infection_ml in enumerate(columns["infection_ml"]):
        ras = ras_of_profile_point(plot.tableNode, row=row)
        i, j, k = np.rint(np.linalg.solve(case.matrix, [*ras, 1]))[:3].astype(int)
        assert (case.labels_kji[k, j, i] == Label.INFECTION) == (infection_ml > 0)
        assert case.labels_kji[k, j, i] > 0
        heights_mm.append(ras[2])
    assert heights_mm[0] > heights_mm[-1]


def test_point_of_the_profile_follows_the_ct_when_it_is_moved_later(context: Any, logic: Any, case: Any) -> None:
    plot = profile_of(context, case=case, node=logic.process(case.volume).segmentationNode)
    before = np.array(ras_of_profile_point(plot.tableNode, row=2))
    shift = np.eye(4)
    shift[:3, 3] = (10.0, 20.0, -30.0)
    transform = context.add_node("vtkMRMLLinearTransformNode", name="shift")
    transform.SetMatrixTransformToParent(vtk_matrix(shift))
    case.volume.SetAndObserveTransformNodeID(transform.GetID())
    np.testing.assert_allclose(ras_of_profile_point(plot.tableNode, row=2), before + shift[:3, 3])


@pytest.mark.parametrize("row", [-1, 10_000])
def test_point_that_is_not_there_is_an_error(context: Any, logic: Any, case: Any, row: int) -> None:
    plot = profile_of(context, case=case, node=logic.process(case.volume).segmentationNode)
    with pytest.raises(InputError, match="has no point"):
        ras_of_profile_point(plot.tableNode, row=row)


def test_point_without_the_ct_is_an_error(context: Any, logic: Any, case: Any) -> None:
    plot = profile_of(context, case=case, node=logic.process(case.volume).segmentationNode)
    context.remove_node(case.volume)
    with pytest.raises(InputError, match="not in the scene any more"):
        ras_of_profile_point(plot.tableNode, row=0)


def test_histogram_counts_every_voxel_of_lungs_and_infection(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    columns = columns_of(histogram_of(context, logic=logic, node=node).tableNode)
    hu_kji = logic.volumeFromNode(case.volume).hu_kji
    voxel_ml = abs(np.linalg.det(case.matrix[:3, :3])) / 1000.0
    for name, mask_kji in (("lungs", case.labels_kji > 0), ("infection", case.labels_kji == Label.INFECTION)):
        counts, _ = np.histogram(hu_kji[mask_kji], bins=BIN_EDGES_HU)
        assert counts.sum() == np.count_nonzero(mask_kji)
        np.testing.assert_allclose(columns[f"{name}_ml"], counts * voxel_ml)
        assert columns[f"{name}_percent"].sum() == pytest.approx(100.0)


def test_histogram_without_infection_is_zero_not_undefined(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    segmentations = context.logic("Segmentations")
    nothing = oriented_image(np.zeros(case.labels_kji.shape, dtype=np.uint8), matrix=case.matrix)
    segmentations.SetBinaryLabelmapToSegment(nothing, node, "infection", segmentations.MODE_REPLACE)
    columns = columns_of(histogram_of(context, logic=logic, node=node).tableNode)
    assert not columns["infection_percent"].any()
    assert columns["lungs_percent"].sum() == pytest.approx(100.0)


def test_second_time_updates_the_same_nodes(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    first = profile_of(context, case=case, node=node)
    histogram_of(context, logic=logic, node=node)
    nodes = nodes_of(context)
    node.GetSegmentation().RemoveSegment("left_lung")
    second = profile_of(context, case=case, node=node)
    histogram_of(context, logic=logic, node=node)
    assert nodes_of(context) == nodes
    assert second.tableNode is first.tableNode
    assert np.isnan(columns_of(second.tableNode)["poi_left_percent"]).all()


def test_plot_is_beside_its_segmentation_in_the_subject_hierarchy(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    hierarchy = context.subject_hierarchy()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    plot = profile_of(context, case=case, node=node)
    for shown in (plot.tableNode, plot.chartNode, *plot.seriesNodes):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(shown)) == study


def test_legend_names_stay_the_same_where_several_plots_use_them(context: Any, logic: Any, case: Any) -> None:
    plots = [profile_of(context, case=case, node=logic.process(case.volume).segmentationNode) for _ in range(2)]
    assert plots[0].chartNode is not plots[1].chartNode
    for plot in plots:
        assert [series.GetName() for series in plot.seriesNodes] == ["both lungs", "left lung", "right lung"]


def test_nothing_segmented_gives_a_plot_without_points(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().RemoveAllSegments()
    plot = profile_of(context, case=case, node=node)
    assert plot.tableNode.GetNumberOfRows() == 0
    with pytest.raises(InputError, match="has no point 0"):
        ras_of_profile_point(plot.tableNode, row=0)


def test_clone_of_a_segmentation_gets_plots_of_its_own_and_leaves_those_of_the_original(
    context: Any, logic: Any, case: Any
) -> None:
    original = logic.process(case.volume).segmentationNode
    firsts = [profile_of(context, case=case, node=original), histogram_of(context, logic=logic, node=original)]
    clone = context.scene.CreateNodeByClass(original.GetClassName())
    clone.Copy(original)
    clone = context.scene.AddNode(clone)
    clone.GetSegmentation().RemoveSegment("left_lung")
    before = [columns_of(plot.tableNode) for plot in firsts]
    update(clone, case=case, logic=logic)
    for plot, columns in zip(firsts, before, strict=True):
        np.testing.assert_equal(columns_of(plot.tableNode), columns)
    own = [profile_of(context, case=case, node=clone), histogram_of(context, logic=logic, node=clone)]
    count = len(nodes_of(context))
    for plot, first in zip(own, firsts, strict=True):
        assert not {plot.tableNode, plot.chartNode, *plot.seriesNodes} & {
            first.tableNode,
            first.chartNode,
            *first.seriesNodes,
        }
    assert np.isnan(columns_of(own[0].tableNode)["poi_left_percent"]).all()
    again = profile_of(context, case=case, node=clone)
    assert again.tableNode is own[0].tableNode
    original.GetSegmentation().RemoveSegment("infection")
    assert profile_of(context, case=case, node=original).tableNode is firsts[0].tableNode
    assert len(nodes_of(context)) == count


def update(node: Any, *, case: Any, logic: Any) -> None:
    """Bring a segmentation's plots up to date, as after an edit."""
    profile = axis_profile(read_masks(node, volume_node=case.volume), orientation=world_orientation(case.volume))
    update_plots(node, volume_node=case.volume, quantities=logic.quantifySegmentation(node), profile=profile)
