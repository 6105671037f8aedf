"""How a result is shown, and that the views go to the slice with most infection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_mrml import GRIDS, rotation, vtk_matrix

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
import vtk  # noqa: E402
from CovidSegLib.errors import InputError  # noqa: E402
from CovidSegLib.labels import SEGMENTS, Label  # noqa: E402
from CovidSegLib.scenes.display import (  # noqa: E402
    bring_on_show,
    jump_to,
    most_infected_ras,
    scroll_to,
    show_result,
)
from CovidSegLib.scenes.outputs import replace_segments  # noqa: E402
from CovidSegLib.scenes.segments import make_segments  # noqa: E402
from CovidSegLib.scenes.volume import geometry_of, remember_hu_scale  # noqa: E402

pytestmark = pytest.mark.slicer

SLICES = {"vtkMRMLSliceNodeRed": 2, "vtkMRMLSliceNodeYellow": 0, "vtkMRMLSliceNodeGreen": 1}
"""Slice view -> the world axis it is perpendicular to."""


def add_slice_views(context: Any) -> None:
    """Add axial, sagittal and coronal slice views, as the application has."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(context.scene)
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        node = context.scene.CreateNodeByClass("vtkMRMLSliceNode")
        node.UnRegister(None)
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        context.scene.AddNode(node).SetOrientation(orientation)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        composite.SetLayoutName(name)
        context.scene.AddNode(composite)


def slice_origin(context: Any, name: str) -> list[float]:
    matrix = context.scene.GetNodeByID(name).GetSliceToRAS()
    return [matrix.GetElement(row, 3) for row in range(3)]


def put(node: Any, *, labels_kji: np.ndarray, volume: Any) -> None:
    """Replace CovidSeg's segments by those of a labelmap on the volume's grid."""
    geometry, _ = geometry_of(volume)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    array = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    replace_segments(node, segments=make_segments(labels_kji, geometry=geometry, matrix=array))


def one_slice_infected(case: Any, *, axis: int, index: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return labels with a box of infection, thickest at one slice of an array axis, and that slice's middle voxel.

    The middle is in the order i, j, k.
    """
    labels_kji = np.where(case.labels_kji == Label.INFECTION, Label.LEFT_LUNG, case.labels_kji)
    middle_kji = [size // 2 for size in labels_kji.shape]
    middle_kji[axis] = index
    for offset, half in ((-1, 1), (0, 2), (1, 1)):
        box = [slice(m - half, m + half + 1) for m in middle_kji]
        box[axis] = slice(index + offset, index + offset + 1)
        labels_kji[tuple(box)] = Label.INFECTION
    i, j, k = middle_kji[::-1]
    return labels_kji, (i, j, k)


def test_ct_is_in_the_lung_window_and_behind_all_slice_views(context: Any, logic: Any, case: Any) -> None:
    add_slice_views(context)
    node = logic.process(case.volume).segmentationNode
    show_result(context, volume_node=case.volume, segmentation_node=node)
    display = case.volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (1500.0, -600.0)
    assert not display.GetAutoWindowLevel()
    for name in ("Red", "Yellow", "Green"):
        composite = context.scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}")
        assert composite.GetBackgroundVolumeID() == case.volume.GetID()


def test_lung_window_is_set_in_the_values_of_a_ct_that_is_not_in_hu(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    hu_kji = slicer.util.arrayFromVolume(case.volume).copy()
    slicer.util.arrayFromVolume(case.volume)[:] = hu_kji + 1024
    remember_hu_scale(case.volume, hu_kji=hu_kji)
    show_result(context, volume_node=case.volume, segmentation_node=node)
    display = case.volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == pytest.approx((1500.0, 424.0), abs=0.1)


def test_other_results_are_hidden_and_come_back_when_they_are_chosen(context: Any, logic: Any, case: Any) -> None:
    first, second = logic.process(case.volume).segmentationNode, logic.process(case.volume).segmentationNode
    first.GetSegmentation().AddEmptySegment("heart")
    somebodys = context.add_node("vtkMRMLSegmentationNode", name="somebody's")
    somebodys.CreateDefaultDisplayNodes()
    put(somebodys, labels_kji=case.labels_kji, volume=case.volume)

    def shown(node: Any) -> list[bool]:
        segmentation = node.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
        return [bool(node.GetDisplayNode().GetSegmentVisibility(segment_id)) for segment_id in ids]

    show_result(context, volume_node=case.volume, segmentation_node=second)
    assert shown(second) == [True, True, True]
    assert shown(first) == [False, False, False, True], "the heart stays"
    assert shown(somebodys) == [True, True, True], "no result of CovidSeg"
    bring_on_show(context, segmentation_node=first, volume_node=case.volume)
    assert (shown(first), shown(second)) == ([True] * 4, [False] * 3)


def test_missing_display_nodes_are_made(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    for shown in (case.volume, node):
        context.scene.RemoveNode(shown.GetDisplayNode())
        assert shown.GetDisplayNode() is None
    show_result(context, volume_node=case.volume, segmentation_node=node)
    assert case.volume.GetDisplayNode().GetLevel() == -600.0
    assert node.GetDisplayNode().GetSegmentVisibility("infection")


def test_lungs_are_blue_and_translucent_and_infection_red_in_them(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().GetSegment("infection").SetColor(0.0, 1.0, 0.0)
    show_result(context, volume_node=case.volume, segmentation_node=node)
    colors = {name: node.GetSegmentation().GetSegment(name).GetColor() for name in ("left_lung", "infection")}
    assert colors["left_lung"][2] == max(colors["left_lung"])
    assert colors["infection"][0] > 2 * max(colors["infection"][1:])
    display = node.GetDisplayNode()
    for definition in SEGMENTS:
        fill = display.GetSegmentOpacity2DFill(definition.segment_id) * display.GetOpacity2DFill()
        assert 0 < fill < 0.5
        assert display.GetSegmentOpacity2DOutline(definition.segment_id) == 1.0
    assert display.GetSegmentOpacity3D("left_lung") < 0.5
    assert display.GetSegmentOpacity3D("infection") == 1.0


def test_segments_are_shown_as_surfaces_in_3d(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    show_result(context, volume_node=case.volume, segmentation_node=node)
    surface = vtk.vtkPolyData()
    assert node.GetClosedSurfaceRepresentation("infection", surface)
    assert surface.GetNumberOfPoints() > 0
    assert node.GetDisplayNode().GetPreferredDisplayRepresentationName3D() == "Closed surface"
    assert node.GetDisplayNode().GetVisibility3D()


def test_ct_without_infection_is_shown_without_a_complaint_of_vtk(
    context: Any, logic: Any, case: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    node = logic.process(case.volume).segmentationNode
    put(
        node,
        labels_kji=np.where(case.labels_kji == Label.INFECTION, Label.LEFT_LUNG, case.labels_kji),
        volume=case.volume,
    )
    show_result(context, volume_node=case.volume, segmentation_node=node)
    surface = vtk.vtkPolyData()
    assert node.GetClosedSurfaceRepresentation("infection", surface)
    assert surface.GetNumberOfPoints() == 0
    assert "ERR" not in "".join(capfd.readouterr())


def test_other_peoples_segments_keep_their_look(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    node.GetSegmentation().AddEmptySegment("heart", "heart", [0.1, 0.2, 0.3])
    display = node.GetDisplayNode()
    display.SetSegmentOpacity3D("heart", 0.7)
    display.SetSegmentVisibility("heart", False)
    show_result(context, volume_node=case.volume, segmentation_node=node)
    assert node.GetSegmentation().GetSegment("heart").GetColor() == (0.1, 0.2, 0.3)
    assert display.GetSegmentOpacity3D("heart") == 0.7
    assert not display.GetSegmentVisibility("heart")


def test_without_a_ct_nothing_is_shown(context: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    with pytest.raises(InputError, match="No CT volume"):
        show_result(context, volume_node=None, segmentation_node=node)


AXIAL_AXIS = {"axes_swapped": 2, "axes_rolled": 2}
"""Grids of `GRIDS` whose array axis closest to head-foot is not 0."""


@pytest.mark.parametrize("case", GRIDS, indirect=True)
def test_point_is_in_the_slice_with_most_infection(request: Any, logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    axis = AXIAL_AXIS.get(request.node.callspec.params["case"], 0)
    labels_kji, middle_ijk = one_slice_infected(case, axis=axis, index=4)
    put(node, labels_kji=labels_kji, volume=case.volume)
    expected_ras = (case.matrix @ [*middle_ijk, 1])[:3]
    np.testing.assert_allclose(most_infected_ras(node, volume_node=case.volume), expected_ras, atol=1e-6)


def test_point_honours_the_transform_of_the_ct(context: Any, logic: Any, case: Any) -> None:
    transform = np.eye(4)
    transform[:3, :3] = rotation((10.0, 5.0, -8.0))
    transform[:3, 3] = (30.0, -20.0, 100.0)
    node_above = context.add_node("vtkMRMLLinearTransformNode", name="moved")
    node_above.SetMatrixTransformToParent(vtk_matrix(transform))
    case.volume.SetAndObserveTransformNodeID(node_above.GetID())
    node = logic.process(case.volume).segmentationNode
    labels_kji, middle_ijk = one_slice_infected(case, axis=0, index=4)
    put(node, labels_kji=labels_kji, volume=case.volume)
    expected_ras = (transform @ case.matrix @ [*middle_ijk, 1])[:3]
    np.testing.assert_allclose(most_infected_ras(node, volume_node=case.volume), expected_ras, atol=1e-6)


@pytest.mark.parametrize("case", ["ras_anisotropic"], indirect=True)
def test_slices_are_those_that_are_axial_as_the_ct_stands(context: Any, logic: Any, case: Any) -> None:
    """A CT turned by a quarter about the left-right axis has its coronal slices lying axially."""
    transform = np.eye(4)
    transform[:3, :3] = rotation((90.0, 0.0, 0.0))
    node_above = context.add_node("vtkMRMLLinearTransformNode", name="quarter turn")
    node_above.SetMatrixTransformToParent(vtk_matrix(transform))
    case.volume.SetAndObserveTransformNodeID(node_above.GetID())
    node = logic.process(case.volume).segmentationNode
    labels_kji, middle_ijk = one_slice_infected(case, axis=1, index=5)
    put(node, labels_kji=labels_kji, volume=case.volume)
    expected_ras = (transform @ case.matrix @ [*middle_ijk, 1])[:3]
    np.testing.assert_allclose(most_infected_ras(node, volume_node=case.volume), expected_ras, atol=1e-6)


def test_point_under_a_deforming_transform_is_deformed(context: Any, logic: Any, case: Any) -> None:
    node_above = context.add_node("vtkMRMLTransformNode", name="spline")
    landmarks = [(0, 0, 0), (100, 0, 0), (0, 100, 0), (0, 0, 100), (100, 100, 100)]
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for number, point in enumerate(landmarks):
        source.InsertNextPoint(point)
        target.InsertNextPoint([coordinate + 10.0 * number for coordinate in point])
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node_above.SetAndObserveTransformToParent(spline)
    case.volume.SetAndObserveTransformNodeID(node_above.GetID())
    node = logic.process(case.volume).segmentationNode
    labels_kji, middle_ijk = one_slice_infected(case, axis=0, index=4)
    put(node, labels_kji=labels_kji, volume=case.volume)
    expected_ras = spline.TransformDoublePoint((case.matrix @ [*middle_ijk, 1])[:3])
    np.testing.assert_allclose(most_infected_ras(node, volume_node=case.volume), expected_ras, atol=1e-6)


def test_without_infection_there_is_no_point(logic: Any, case: Any) -> None:
    node = logic.process(case.volume).segmentationNode
    healthy_kji = np.where(case.labels_kji == Label.INFECTION, Label.BACKGROUND, case.labels_kji)
    put(node, labels_kji=healthy_kji, volume=case.volume)
    assert most_infected_ras(node, volume_node=case.volume) is None
    node.GetSegmentation().RemoveSegment("infection")
    assert most_infected_ras(node, volume_node=case.volume) is None


def test_jump_centres_every_slice_view_on_the_point(context: Any) -> None:
    add_slice_views(context)
    jump_to(context, ras=(12.0, -34.0, 56.0))
    for name in SLICES:
        assert slice_origin(context, name) == pytest.approx([12.0, -34.0, 56.0])


def test_scrolling_moves_each_view_along_its_own_axis_only(context: Any) -> None:
    add_slice_views(context)
    jump_to(context, ras=(1.0, 2.0, 3.0))
    scroll_to(context, ras=(12.0, -34.0, 56.0))
    for name, axis in SLICES.items():
        expected = [1.0, 2.0, 3.0]
        expected[axis] = (12.0, -34.0, 56.0)[axis]
        assert slice_origin(context, name) == pytest.approx(expected)


def test_scene_without_slice_views_is_fine(context: Any) -> None:
    jump_to(context, ras=(1.0, 2.0, 3.0))
    scroll_to(context, ras=(1.0, 2.0, 3.0))
