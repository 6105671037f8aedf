"""The map of uncertainty in a scene: a volume that the segmentation refers to, shown over the CT in slice views."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from ..scene import SceneContext
from ..uncertainty import DOUBTFUL_FROM_PERCENT
from .outputs import VOLUME_ROLE, unshared_node
from .texts import tr as _

#: Role by which a segmentation node refers to its map.
UNCERTAINTY_ROLE = "CovidSeg.uncertainty"

#: Attribute that tells a map from a CT.
MAP_ATTRIBUTE = "CovidSeg.uncertaintyPercent"

#: Roles by which a slice view refers to the map in its foreground, and to the volume that the map covers.
OVERLAY_ROLE, COVERED_ROLE = "CovidSeg.overlay", "CovidSeg.covered"

#: Attribute of a slice view with a map in its foreground: the opacity of what the map covers.
COVERED_OPACITY = "CovidSeg.coveredOpacity"

OVERLAY_OPACITY = 0.4

#: Slicer's own yellow table, so that CovidSeg adds no colour node; segments are blue and red. Slice views ignore
#: partial transparency in a colour table, so the display's threshold hides what is to be invisible.
COLORS_ID = "vtkMRMLColorTableNodeYellow"

#: Brightest yellow: two classes are equally likely, the others excluded.
FULL_COLOR_PERCENT = 50.0


def find_map(segmentation_node: Any) -> Any:
    """Return the volume node with the map of a segmentation, None without one."""
    return None if segmentation_node is None else segmentation_node.GetNodeReference(UNCERTAINTY_ROLE)


def is_map(volume_node: Any) -> bool:
    """Tell whether a volume is a map of uncertainty and no CT."""
    return volume_node is not None and volume_node.GetAttribute(MAP_ATTRIBUTE) is not None


def map_image(uncertainty_kji: np.ndarray) -> Any:
    """Return a copy of a (k, j, i) uint8 map as `vtkImageData`."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(*uncertainty_kji.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ravel(uncertainty_kji), deep=True))
    return image


def map_array(map_node: Any) -> np.ndarray:
    """Return a copy of a map's voxels, (k, j, i) in per cent."""
    import slicer

    return np.array(slicer.util.arrayFromVolume(map_node))


def put_map(context: SceneContext, *, image: Any, segmentation_node: Any, volume_node: Any, undo: ExitStack) -> Any:
    """Make an image the map of a segmentation, replacing that of an earlier run; return the map's node.

    Args:
        context: The scene.
        image: As `map_image` returns it.
        segmentation_node: In the scene.
        volume_node: The CT, whose grid, transform and place in the subject hierarchy the map gets.
        undo: Gets what brings the scene back.
    """
    import vtk

    node = unshared_node(context, segmentation_node=segmentation_node, role=UNCERTAINTY_ROLE)
    if node is None:
        before = segmentation_node.GetNodeReferenceID(UNCERTAINTY_ROLE)
        name = _("{ct} uncertainty").format(ct=volume_node.GetName())
        node = context.add_node("vtkMRMLScalarVolumeNode", name=name)
        undo.callback(context.remove_node, node)
        node.SetAttribute(MAP_ATTRIBUTE, "1")
        segmentation_node.SetNodeReferenceID(UNCERTAINTY_ROLE, node.GetID())
        undo.callback(segmentation_node.SetNodeReferenceID, UNCERTAINTY_ROLE, before)
    else:
        _register_restore(node, undo=undo)
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    if node.GetDisplayNode() is None:
        _make_display(node)
    context.place_beside(node, neighbour=volume_node)
    return node


def remove_map(context: SceneContext, *, segmentation_node: Any) -> None:
    """Remove a segmentation's map, if it has one, from slice views and scene; a clone's map stays with the clone."""
    node = unshared_node(context, segmentation_node=segmentation_node, role=UNCERTAINTY_ROLE)
    if node is not None:
        for composite in _composites_with(context, map_node=node):
            _uncover(composite)
        context.remove_node(node)
    segmentation_node.SetNodeReferenceID(UNCERTAINTY_ROLE, None)


def show_map(context: SceneContext, *, map_node: Any) -> None:
    """Show a map over the CT in all slice views; with None, hide any map.

    When a map is hidden, the foreground that it covered comes back, view by view, with its opacity.
    """
    for composite in context.nodes_of_class("vtkMRMLSliceCompositeNode"):
        if map_node is not None:
            _cover(composite, map_node=map_node)
        elif is_map(_foreground(composite)):
            _uncover(composite)


def follow_foregrounds(context: SceneContext) -> None:
    """Bring back the covered foreground where the map was deleted; forget it where the user chose another one."""
    if context.scene.IsBatchProcessing():  # references between nodes do not hold yet
        return
    for composite in context.nodes_of_class("vtkMRMLSliceCompositeNode"):
        if composite.GetAttribute(COVERED_OPACITY) is None or is_map(_foreground(composite)):
            continue
        if composite.GetNodeReference(OVERLAY_ROLE) is None and composite.GetForegroundVolumeID() is None:
            _uncover(composite)
        else:
            _forget_covered(composite)


def map_is_shown(context: SceneContext, *, map_node: Any) -> bool:
    """Tell whether a map lies over the CT in any slice view."""
    return any(composite.GetForegroundOpacity() > 0 for composite in _composites_with(context, map_node=map_node))


def _composites_with(context: SceneContext, *, map_node: Any) -> list[Any]:
    """Return the composite nodes of the slice views that have the map in the foreground."""
    composites = context.nodes_of_class("vtkMRMLSliceCompositeNode")
    return [composite for composite in composites if composite.GetForegroundVolumeID() == map_node.GetID()]


def _foreground(composite: Any) -> Any:
    return composite.GetScene().GetNodeByID(composite.GetForegroundVolumeID() or "")


def _cover(composite: Any, *, map_node: Any) -> None:
    """Put a map into the foreground, and remember in the view's node, and so in a saved scene, what it covers."""
    if not is_map(_foreground(composite)):
        composite.SetNodeReferenceID(COVERED_ROLE, composite.GetForegroundVolumeID())
        composite.SetAttribute(COVERED_OPACITY, repr(composite.GetForegroundOpacity()))
    composite.SetNodeReferenceID(OVERLAY_ROLE, map_node.GetID())
    composite.SetForegroundVolumeID(map_node.GetID())
    composite.SetForegroundOpacity(OVERLAY_OPACITY)


def _uncover(composite: Any) -> None:
    """Put back into the foreground what a map covered; nothing if that was deleted or is not known."""
    covered = composite.GetNodeReference(COVERED_ROLE)
    composite.SetForegroundVolumeID(None if covered is None else covered.GetID())
    composite.SetForegroundOpacity(float(composite.GetAttribute(COVERED_OPACITY) or 0.0))
    _forget_covered(composite)


def _forget_covered(composite: Any) -> None:
    for role in (OVERLAY_ROLE, COVERED_ROLE):
        composite.SetNodeReferenceID(role, None)
    composite.RemoveAttribute(COVERED_OPACITY)


def _make_display(node: Any) -> None:
    """Show uncertainty in yellow, brighter with more, and nothing below the threshold."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(COLORS_ID)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, FULL_COLOR_PERCENT)
    display.SetAutoThreshold(False)
    display.SetThreshold(DOUBTFUL_FROM_PERCENT, 100.0)
    display.SetApplyThreshold(True)


def _register_restore(node: Any, *, undo: ExitStack) -> None:
    """Register with `undo` what restores a map's present voxels, grid, transform and CT."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    undo.callback(node.SetNodeReferenceID, VOLUME_ROLE, node.GetNodeReferenceID(VOLUME_ROLE))
    undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
    undo.callback(node.SetIJKToRASMatrix, matrix)
    undo.callback(node.SetAndObserveImageData, node.GetImageData())
