"""Show a result: lung window, colours, surfaces in 3D, and slice views moved to the infection."""

from __future__ import annotations

from typing import Any

from ..geometry import Geometry
from ..labels import SEGMENTS
from ..orient import Orientation
from ..results.axis_profile import most_infected_voxel
from ..results.preview import LEVEL_HU, WINDOW_HU
from ..scene import SceneContext
from .outputs import VOLUME_ROLE
from .segments import find_segments, segment_mask
from .volume import check_volume, from_hu, geometry_of, ijk_to_ras

#: Opacity of a segment's fill in slices, low enough to see the lung below it.
FILL_OPACITY = {"left_lung": 0.15, "right_lung": 0.15, "infection": 0.45}

#: Opacity in 3D, where the infection is to be seen through the lungs.
SURFACE_OPACITY = {"left_lung": 0.25, "right_lung": 0.25, "infection": 1.0}

#: Setting of Slicer's surface converter: a third of the time and half the triangles, and they look alike.
SURFACE_NETS = ("Conversion method", "1")


def show_result(context: SceneContext, *, volume_node: Any, segmentation_node: Any) -> None:
    """Show the CT in the lung window and the segments over it, in slices and in 3D.

    The CT becomes the background of all slice views, and other results are hidden. Segments other than CovidSeg's
    are left as they are.

    Raises:
        InputError: `volume_node` is no CT volume.
    """
    check_volume(volume_node)
    show_lung_window(volume_node)
    show_segments(segmentation_node)
    bring_on_show(context, segmentation_node=segmentation_node, volume_node=volume_node)


def bring_on_show(context: SceneContext, *, segmentation_node: Any, volume_node: Any) -> None:
    """Show a result over its CT, and hide all other results, whose segments could be taken for this CT's.

    Args:
        context: The scene.
        segmentation_node: All of its CovidSeg segments are shown, hidden ones too.
        volume_node: Its CT, which becomes the background of all slice views; None leaves these as they are.
    """
    if volume_node is not None:
        for composite in context.nodes_of_class("vtkMRMLSliceCompositeNode"):
            composite.SetBackgroundVolumeID(volume_node.GetID())
    for node in context.nodes_of_class("vtkMRMLSegmentationNode"):
        display = node.GetDisplayNode()
        if display is None or (node is not segmentation_node and node.GetNodeReferenceID(VOLUME_ROLE) is None):
            continue
        for segment_id in find_segments(node).values():
            display.SetSegmentVisibility(segment_id, node is segmentation_node)


def show_volume(context: SceneContext, *, volume_node: Any) -> None:
    """Show a volume in all slice views and fit them to it, as Slicer does after loading one."""
    application = context.logic("Volumes").GetMRMLApplicationLogic()
    application.GetSelectionNode().SetActiveVolumeID(volume_node.GetID())
    application.PropagateVolumeSelection()


def show_lung_window(volume_node: Any) -> None:
    """Show a CT with window 1500 HU and level -600 HU, even if its voxels are not HU (`remember_hu_scale`)."""
    if volume_node.GetDisplayNode() is None:
        volume_node.CreateDefaultDisplayNodes()
    display = volume_node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    low, high = (from_hu(volume_node, hu=LEVEL_HU + side * WINDOW_HU / 2) for side in (-1, 1))
    display.SetWindowLevelMinMax(low, high)


def show_segments(segmentation_node: Any) -> None:
    """Show CovidSeg's segments: lungs in translucent blue, infection in red, as areas and as surfaces."""
    import slicer

    if segmentation_node.GetDisplayNode() is None:
        segmentation_node.CreateDefaultDisplayNodes()
    display = segmentation_node.GetDisplayNode()
    segmentation = segmentation_node.GetSegmentation()
    found = find_segments(segmentation_node)
    for definition in SEGMENTS:
        if definition.segment_id not in found:
            continue
        node_id = found[definition.segment_id]
        segmentation.GetSegment(node_id).SetColor(*definition.color_rgb)
        display.SetSegmentVisibility(node_id, True)
        display.SetSegmentOpacity2DFill(node_id, FILL_OPACITY[definition.segment_id])
        display.SetSegmentOpacity2DOutline(node_id, 1.0)
        display.SetSegmentOpacity3D(node_id, SURFACE_OPACITY[definition.segment_id])
    # Slicer multiplies the segments' opacities by those of the whole segmentation.
    display.SetOpacity2DFill(1.0)
    display.SetOpacity2DOutline(1.0)
    display.SetOpacity3D(1.0)
    display.SetVisibility(True)
    display.SetVisibility3D(True)
    segmentation.SetConversionParameter(*SURFACE_NETS)
    segmentation_node.CreateClosedSurfaceRepresentation()
    display.SetPreferredDisplayRepresentationName3D(
        slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    )


def most_infected_ras(segmentation_node: Any, *, volume_node: Any) -> tuple[float, float, float] | None:
    """Return an infected point of the slice with most infection; None without infection.

    The slices are those of the CT's grid that lie closest to axial in the world.

    Returns:
        point_ras (mm) in the world, parent transforms included.

    Raises:
        InputError: No CT volume, or no labelmap can be made of the infection.
    """
    check_volume(volume_node)
    node_id = find_segments(segmentation_node).get("infection")
    if node_id is None:
        return None
    infection_kji = segment_mask(segmentation_node, segment_id=node_id, volume_node=volume_node)
    index_ijk = most_infected_voxel(infection_kji, orientation=world_orientation(volume_node))
    return None if index_ijk is None else world_point(volume_node, point_ras=local_point(volume_node, index_ijk))


def world_orientation(volume_node: Any) -> Orientation:
    """Return how a volume's grid lies in the world; a transform that is not linear is left out."""
    import slicer
    import vtk

    transform = volume_node.GetParentTransformNode()
    if transform is None or not transform.IsTransformToWorldLinear():
        return Orientation.of(geometry_of(volume_node)[0])
    to_world = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(to_world)
    matrix = slicer.util.arrayFromVTKMatrix(to_world) @ ijk_to_ras(volume_node)
    size_ijk = volume_node.GetImageData().GetDimensions()
    return Orientation.of(Geometry.from_ijk_to_ras(matrix, size_ijk=size_ijk))


def local_point(volume_node: Any, index_ijk: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return point_ras (mm) of a voxel's centre, parent transforms left out."""
    r, a, s, _ = ijk_to_ras(volume_node) @ (*index_ijk, 1.0)
    return (float(r), float(a), float(s))


def world_point(node: Any, *, point_ras: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return where a point of a node lies in the world (mm), under all its parent transforms."""
    point = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(point_ras, point)
    return (point[0], point[1], point[2])


def jump_to(context: SceneContext, *, ras: tuple[float, float, float]) -> None:
    """Centre every slice view on a point_ras (mm) of the world."""
    for node in context.nodes_of_class("vtkMRMLSliceNode"):
        node.JumpSliceByCentering(*ras)


def scroll_to(context: SceneContext, *, ras: tuple[float, float, float]) -> None:
    """Scroll every slice view to the slice through a point_ras (mm) of the world, without panning it."""
    for node in context.nodes_of_class("vtkMRMLSliceNode"):
        node.JumpSliceByOffsetting(*ras)
