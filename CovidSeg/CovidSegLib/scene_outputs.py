"""The nodes that a result goes into: made or re-used, and put back as they were if something fails.

Every function registers with `undo` (a `contextlib.ExitStack`) how to take back what it did.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from .errors import InputError
from .labels import SEGMENTS
from .scene import SceneContext
from .scene_segments import restore_segments, snapshot_segments
from .scene_texts import tr as _

TABLE_ROLE = "CovidSeg.table"
VOLUME_ROLE = "CovidSeg.volume"
#: Attribute of a segmentation: the name of its CT, which is known also once that is removed.
CT_NAME_ATTRIBUTE = "CovidSeg.ct"


def ct_of(node: Any) -> Any:
    """Return the CT that a segmentation, or the table of its profile, refers to; None if it is not in the scene."""
    return node.GetNodeReference(VOLUME_ROLE)


def output_segmentation(context: SceneContext, *, node: Any, volume_node: Any, undo: ExitStack) -> Any:
    """Return the segmentation node for a result, on the volume's grid and under its transform.

    The transform comes first: the reference geometry is expressed under it.

    Args:
        context: The scene.
        node: An existing node that `check_output` accepts, or None for a new one.
        volume_node: The CT.
        undo: Takes what brings the scene back.
    """
    if node is None:
        node = context.add_node("vtkMRMLSegmentationNode", name=f"{volume_node.GetName()} CovidSeg")
        undo.callback(context.remove_node, node)
    else:
        _register_restore(node, undo=undo)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        undo.callback(context.scene.RemoveNode, node.GetDisplayNode())
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    if node.GetSegmentation().GetNumberOfSegments() == 0:
        node.SetSourceRepresentationToBinaryLabelmap()
    refer_to_ct(node, volume_node=volume_node)
    return node


def refer_to_ct(segmentation_node: Any, *, volume_node: Any) -> None:
    """Let a segmentation know its CT, on whose grid it will be edited."""
    segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    segmentation_node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    segmentation_node.SetAttribute(CT_NAME_ATTRIBUTE, volume_node.GetName())


def output_table(context: SceneContext, *, segmentation_node: Any, volume_node: Any, undo: ExitStack) -> Any:
    """Return the segmentation's results table node: the one from its last run, or a new one."""
    node = segmentation_node.GetNodeReference(TABLE_ROLE)
    if node is None:
        name = _("{ct} CovidSeg results").format(ct=volume_node.GetName())
        node = context.add_node("vtkMRMLTableNode", name=name)
        undo.callback(context.remove_node, node)
        segmentation_node.SetNodeReferenceID(TABLE_ROLE, node.GetID())
        undo.callback(segmentation_node.SetNodeReferenceID, TABLE_ROLE, None)
    else:
        undo.callback(node.SetAndObserveTable, node.GetTable())
    return node


def check_output(context: SceneContext, *, node: Any, volume_node: Any) -> None:
    """Refuse a segmentation node that cannot take the result without harm to what else is in it.

    Raises:
        InputError: No segmentation node of this scene; other people's segments in it that are under
            another transform, or that are surfaces.
    """
    if not node.IsA("vtkMRMLSegmentationNode") or not context.scene.IsNodePresent(node):
        raise InputError(_("The output is not a segmentation of this scene. Choose one, or a new segmentation."))
    segmentation = node.GetSegmentation()
    ours = {definition.segment_id for definition in SEGMENTS}
    if ours.issuperset(segmentation.GetSegmentIDs()):
        return
    if node.GetParentTransformNode() is not volume_node.GetParentTransformNode():
        text = _(
            "The segmentation '{name}' holds other segments and is under another transform than the CT '{ct}'. "
            "Put both under the same transform, or choose a new segmentation."
        )
        raise InputError(text.format(name=node.GetName(), ct=volume_node.GetName()))
    if not segmentation.IsSourceRepresentationImageData():
        text = _(
            "The segmentation '{name}' holds surfaces, not voxels. Choose a new segmentation, or make "
            "the binary labelmap its source representation in the Segmentations module."
        )
        raise InputError(text.format(name=node.GetName()))


def _register_restore(node: Any, *, undo: ExitStack) -> None:
    """Register how an existing segmentation node comes back to its present state."""
    import slicer

    segmentation = node.GetSegmentation()
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    geometry = segmentation.GetConversionParameter(parameter)
    roles = (node.GetReferenceImageGeometryReferenceRole(), VOLUME_ROLE)
    for role in roles:
        undo.callback(node.SetNodeReferenceID, role, node.GetNodeReferenceID(role))
    undo.callback(segmentation.SetConversionParameter, parameter, geometry)
    undo.callback(segmentation.SetSourceRepresentationName, segmentation.GetSourceRepresentationName())
    undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
    undo.callback(restore_segments, node, before=snapshot_segments(node))
    _register_restore_attributes(node, undo=undo)


def _register_restore_attributes(node: Any, *, undo: ExitStack) -> None:
    """Register how a node's attributes come back to their present values."""
    before = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}

    def restore() -> None:
        for name in set(node.GetAttributeNames()) | set(before):
            node.SetAttribute(name, before.get(name))

    undo.callback(restore)
