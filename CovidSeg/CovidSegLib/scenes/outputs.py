"""The nodes that a result is written into: created or re-used, and put back as they were if something fails.

A function with a parameter `undo` (a `contextlib.ExitStack`) registers there how to take back what it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..labels import SEGMENTS
from ..scene import SceneContext
from .texts import tr as _

TABLE_ROLE = "CovidSeg.table"
VOLUME_ROLE = "CovidSeg.volume"
#: Attribute of a segmentation: the name of its CT, which outlives the CT's node.
CT_NAME_ATTRIBUTE = "CovidSeg.ct"

#: Display settings of a segment (`GetSegment...`, `SetSegment...`), which Slicer drops when the segment is removed.
LOOK = (
    *("Visibility", "Visibility3D", "Visibility2DFill", "Visibility2DOutline"),
    *("Opacity3D", "Opacity2DFill", "Opacity2DOutline"),
)


@dataclass(frozen=True)
class KeptSegment:
    """What it takes to put a segment back into its node.

    Attributes:
        index: Its place among the node's segments.
        segment: The `vtkSegment` itself.
        look: Its display settings, by the names in `LOOK`; empty without a display node.
        source: Name of the node's source representation, which tells whether voxels or a surface are the original.
    """

    index: int
    segment: Any
    look: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class Place:
    """Where a segmentation lies.

    Attributes:
        references: IDs of its CT, and of the volume on whose grid it is edited, by role.
        transform_id: The ID of its transform; None without one.
        grid: The grid on which it is edited, as text.
    """

    references: Mapping[str, str | None]
    transform_id: str | None
    grid: str


def ct_of(node: Any) -> Any:
    """Return the CT that a segmentation, or the table of its profile, refers to; None if it is not in the scene."""
    return node.GetNodeReference(VOLUME_ROLE)


def unshared_node(context: SceneContext, *, segmentation_node: Any, role: str) -> Any:
    """Return the node that only this segmentation refers to by a role; None without one.

    A clone refers to the nodes of its original. A run into either of the two must leave these to the other. (Plots
    are always left to the original, see `plots`: the clone is the one to get its own.)
    """
    node = segmentation_node.GetNodeReference(role)
    segmentations = context.nodes_of_class("vtkMRMLSegmentationNode")
    shared = any(other is not segmentation_node and other.GetNodeReference(role) is node for other in segmentations)
    return None if shared else node


def output_segmentation(context: SceneContext, *, node: Any, volume_node: Any, undo: ExitStack) -> Any:
    """Return the segmentation node for a result, on the volume's grid and under its transform.

    The transform is set first, as the reference geometry is expressed under it.

    Args:
        context: The scene.
        node: An existing node that `check_output` accepts, or None for a new one.
        volume_node: The CT.
        undo: Gets what brings the scene back.
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
    """Make a segmentation refer to its CT, on whose grid it will be edited."""
    segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    segmentation_node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    segmentation_node.SetAttribute(CT_NAME_ATTRIBUTE, volume_node.GetName())


def output_table(context: SceneContext, *, segmentation_node: Any, volume_node: Any, undo: ExitStack) -> Any:
    """Return the segmentation's results table node: its own from its last run, or a new one."""
    node = unshared_node(context, segmentation_node=segmentation_node, role=TABLE_ROLE)
    if node is None:
        before = segmentation_node.GetNodeReferenceID(TABLE_ROLE)
        name = _("{ct} CovidSeg results").format(ct=volume_node.GetName())
        node = context.add_node("vtkMRMLTableNode", name=name)
        undo.callback(context.remove_node, node)
        undo.callback(segmentation_node.SetNodeReferenceID, TABLE_ROLE, before)
        segmentation_node.SetNodeReferenceID(TABLE_ROLE, node.GetID())
    else:
        undo.callback(node.SetAndObserveTable, node.GetTable())
    return node


def check_output(context: SceneContext, *, node: Any, volume_node: Any) -> None:
    """Refuse a segmentation node that cannot take a result without harm to the other segments in it.

    Raises:
        InputError: It is no segmentation node of this scene, or it holds other segments and these are surfaces or
            under another transform than the CT.
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


def replace_segments(node: Any, *, segments: Mapping[str, Any]) -> None:
    """Put segments into a segmentation node; one that replaces another of its ID takes over its place and display.

    Segments with other IDs keep their voxels, names and order. `snapshot_segments` before and
    `restore_segments` after undo it.
    """
    segmentation = node.GetSegmentation()
    replaced = snapshot_segments(node)
    if not segmentation.IsSourceRepresentationImageData():
        # There are no other segments (`check_output`). Beside a surface, Slicer would turn voxels into surfaces.
        _remove_segments(node)
        node.SetSourceRepresentationToBinaryLabelmap()
    for segment_id, segment in segments.items():
        if segmentation.GetSegmentIndex(segment_id) >= 0:
            segmentation.RemoveSegment(segment_id)
        if not segmentation.AddSegment(segment, segment_id):
            text = _("Slicer did not accept the segment '{segment}' in '{name}'.")
            raise InputError(text.format(segment=segment_id, name=node.GetName()))
    for segment_id, kept in sorted(replaced.items(), key=lambda entry: entry[1].index):
        segmentation.SetSegmentIndex(segment_id, kept.index)
        _give_look(node, segment_id=segment_id, look=kept.look)


def restore_segments(node: Any, *, before: Mapping[str, KeptSegment]) -> None:
    """Bring CovidSeg's segments back to what `snapshot_segments` saw."""
    segmentation = node.GetSegmentation()
    _remove_segments(node)
    if before and segmentation.GetNumberOfSegments() == 0:
        segmentation.SetSourceRepresentationName(next(iter(before.values())).source)
    for segment_id, kept in sorted(before.items(), key=lambda entry: entry[1].index):
        segmentation.AddSegment(kept.segment, segment_id)
        segmentation.SetSegmentIndex(segment_id, kept.index)
        _give_look(node, segment_id=segment_id, look=kept.look)


def snapshot_segments(node: Any) -> dict[str, KeptSegment]:
    """Return those CovidSeg segments that a node holds, by ID."""
    segmentation = node.GetSegmentation()
    found = {}
    for definition in SEGMENTS:
        segment_id = definition.segment_id
        index = segmentation.GetSegmentIndex(segment_id)
        if index >= 0:
            look = _look_of(node, segment_id=segment_id)
            source = segmentation.GetSourceRepresentationName()
            found[segment_id] = KeptSegment(index, segmentation.GetSegment(segment_id), look, source)
    return found


def place_of(node: Any) -> Place:
    """Return where a segmentation lies now."""
    roles = (node.GetReferenceImageGeometryReferenceRole(), VOLUME_ROLE)
    references = {role: node.GetNodeReferenceID(role) for role in roles}
    grid = node.GetSegmentation().GetConversionParameter(_grid_parameter())
    return Place(references, node.GetTransformNodeID(), grid)


def restore_place(node: Any, *, before: Place) -> None:
    """Put a segmentation back to where `place_of` saw it; what was removed from the scene since is not referred to."""

    def if_present(node_id: str | None) -> str | None:
        return node_id if node_id and node.GetScene().GetNodeByID(node_id) else None

    node.SetAndObserveTransformNodeID(if_present(before.transform_id))
    node.GetSegmentation().SetConversionParameter(_grid_parameter(), before.grid)
    for role, node_id in before.references.items():
        node.SetNodeReferenceID(role, if_present(node_id))


def attributes_of(node: Any) -> dict[str, str]:
    """Return a node's attributes by name."""
    return {name: node.GetAttribute(name) for name in node.GetAttributeNames()}


def restore_attributes(node: Any, *, before: Mapping[str, str]) -> None:
    """Bring a node's attributes back to what `attributes_of` saw; those that came later are removed."""
    for name in {*node.GetAttributeNames(), *before}:
        node.SetAttribute(name, before.get(name))


def _register_restore(node: Any, *, undo: ExitStack) -> None:
    """Register with `undo` what restores an existing segmentation node's present state."""
    segmentation = node.GetSegmentation()
    undo.callback(restore_place, node, before=place_of(node))
    undo.callback(segmentation.SetSourceRepresentationName, segmentation.GetSourceRepresentationName())
    undo.callback(restore_segments, node, before=snapshot_segments(node))
    undo.callback(restore_attributes, node, before=attributes_of(node))


def _grid_parameter() -> str:
    import slicer

    return str(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName())


def _remove_segments(node: Any) -> None:
    """Remove those CovidSeg segments that a node holds."""
    segmentation = node.GetSegmentation()
    for definition in SEGMENTS:
        if segmentation.GetSegmentIndex(definition.segment_id) >= 0:
            segmentation.RemoveSegment(definition.segment_id)


def _look_of(node: Any, *, segment_id: str) -> dict[str, Any]:
    """Return a segment's display settings, by the names in `LOOK`; empty without a display node."""
    display = node.GetDisplayNode()
    return {} if display is None else {name: getattr(display, f"GetSegment{name}")(segment_id) for name in LOOK}


def _give_look(node: Any, *, segment_id: str, look: Mapping[str, Any]) -> None:
    """Apply display settings to a segment; none if `look` is empty."""
    if look and node.GetDisplayNode() is None:  # it was deleted meanwhile
        node.CreateDefaultDisplayNodes()
    for name, value in look.items():
        getattr(node.GetDisplayNode(), f"SetSegment{name}")(segment_id, value)
