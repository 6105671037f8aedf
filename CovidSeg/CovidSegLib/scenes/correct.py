"""Correct a segmentation: set up the Segment Editor, remove islands, and keep the figures of a replaced result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import numpy as np

from ..anatomy.islands import IslandRemoval, remove_islands
from ..errors import InputError
from ..results.followup import FIGURES, PastResult, figures_of
from ..scene import SceneContext
from .segments import error_about, find_segments, labelmap_of, mask_of, missing_infection, missing_lungs
from .texts import tr as _
from .volume import from_hu

#: Singleton tag of CovidSeg's own editor node, so that Slicer's own Segment Editor keeps its settings.
EDITOR_TAG = "CovidSeg"

#: Attribute of a segmentation node: the figures of the result that the present one replaced, as JSON.
PREVIOUS_ATTRIBUTE = "CovidSeg.previous"


class EditMask(Enum):
    """Where painting and erasing has an effect."""

    LUNGS = "lungs"
    INFECTION = "infection"
    EVERYWHERE = "everywhere"


def editor_node(context: SceneContext) -> Any:
    """Return CovidSeg's segment editor node; a scene has one, which is created at the first call."""
    import slicer

    node = context.scene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(EDITOR_TAG)
        node = context.scene.AddNode(node)
    return node


def set_up_editor(
    context: SceneContext,
    *,
    segmentation_node: Any,
    volume_node: Any,
    segment_id: str,
    mask: EditMask = EditMask.LUNGS,
    range_hu: tuple[float, float] | None = None,
) -> Any:
    """Return the editor node, set up to correct one of CovidSeg's segments.

    Segments may overlap, so that painting infection never shrinks a lung. Slicer can confine editing to one segment, to
    all, or to the visible ones, but not to two of them. To stay inside the lungs it is confined to all segments if they
    are all CovidSeg's; otherwise the others are hidden, and it is confined to the visible ones.

    Args:
        context: The scene.
        segmentation_node: Holds an infection segment.
        volume_node: The CT, for painting by threshold.
        segment_id: ID, in the node, of the segment to correct, which gets selected.
        mask: Where editing has an effect.
        range_hu: Lower and upper bound in HU of the voxels that may be changed; any if None.

    Raises:
        InputError: There is no infection segment, no lung to confine editing to, or the range is empty.
    """
    import slicer

    found = find_segments(segmentation_node)
    _check_editable(segmentation_node, found=found, mask=mask, range_hu=range_hu)
    modes = slicer.vtkMRMLSegmentationNode
    mode, mask_id = {
        EditMask.EVERYWHERE: (modes.EditAllowedEverywhere, ""),
        EditMask.INFECTION: (modes.EditAllowedInsideSingleSegment, found["infection"]),
        EditMask.LUNGS: (modes.EditAllowedInsideAllSegments, ""),
    }[mask]
    if mask is EditMask.LUNGS and _show_only(segmentation_node, segment_ids=set(found.values())):
        mode = modes.EditAllowedInsideVisibleSegments
    node = editor_node(context)
    node.SetAndObserveSegmentationNode(segmentation_node)
    node.SetAndObserveSourceVolumeNode(volume_node)
    node.SetSelectedSegmentID(segment_id)
    node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
    node.SetMaskSegmentID(mask_id)  # before the mode: Slicer lifts a mask whose segment is not named
    node.SetMaskMode(mode)
    node.SetSourceVolumeIntensityMask(range_hu is not None)
    if range_hu is not None:
        node.SetSourceVolumeIntensityMaskRange(*(from_hu(volume_node, hu=hu) for hu in range_hu))
    return node


def erasing_adds_to_mask(node: Any) -> bool:
    """Tell whether Slicer would add to another segment what is erased, inside the mask or not.

    It does so if editing is confined to one segment while another one is edited.

    Args:
        node: The editor's node, as `set_up_editor` returns it.
    """
    import slicer

    inside_one = node.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
    return bool(inside_one and node.GetMaskSegmentID() != node.GetSelectedSegmentID())


def clear_tool(node: Any) -> None:
    """Clear the tool that an editor's node names: of a loaded scene, Slicer would take it up later."""
    if node is not None and node.GetActiveEffectName():
        node.SetActiveEffectName("")


def remove_infection_islands(
    context: SceneContext, *, segmentation_node: Any, min_ml: float, save_state: Callable[[], object]
) -> IslandRemoval:
    """Remove islands of infection smaller than a volume from the segment; return what was removed.

    Args:
        context: The scene.
        segmentation_node: Holds the infection segment.
        min_ml: Islands below this volume are removed.
        save_state: Saves the segmentation for undo; called just before the segment is changed, if it is changed.

    Raises:
        InputError: There is no infection segment, it has no labelmap, or `min_ml` is negative.
    """
    if min_ml < 0:
        text = _("Islands below {limit:g} ml cannot be removed. Give 0 ml or more.")
        raise InputError(text.format(limit=min_ml))
    segment_id = _infection_id(segmentation_node)
    labelmap = labelmap_of(segmentation_node, segment_id=segment_id)
    if labelmap is None:
        text = _("The infection of '{name}' has no voxels. Segment the CT again.")
        raise InputError(text.format(name=segmentation_node.GetName()))
    mask_kji = mask_of(labelmap, value=segmentation_node.GetSegmentation().GetSegment(segment_id).GetLabelValue())
    voxel_ml = float(np.prod(labelmap.GetSpacing())) / 1000.0
    removal = remove_islands(mask_kji, voxel_ml=voxel_ml, min_ml=min_ml)
    if removal.removed_count:
        save_state()
        labels = _like(labelmap, mask_kji=removal.mask_kji)
        segmentations = context.logic("Segmentations")
        if not segmentations.SetBinaryLabelmapToSegment(
            labels, segmentation_node, segment_id, segmentations.MODE_REPLACE
        ):
            text = _("Slicer did not accept the infection without islands in '{name}'.")
            raise InputError(text.format(name=segmentation_node.GetName()))
    return removal


def remember_previous(segmentation_node: Any, *, report: Mapping[str, Any], when: datetime) -> None:
    """Keep the figures of a result that is replaced; they are saved with the scene.

    Args:
        segmentation_node: Holds the new result.
        report: The replaced result, with `regions` as in ``report.json``.
        when: Time of the replacement.
    """
    kept = {"when": when.isoformat(timespec="seconds"), "figures": figures_of(report)}
    segmentation_node.SetAttribute(PREVIOUS_ATTRIBUTE, json.dumps(kept, allow_nan=False))


def previous_result(segmentation_node: Any) -> PastResult | None:
    """Return the result that the present one replaced; None if there was none, or if its record is damaged."""
    try:
        kept = json.loads(segmentation_node.GetAttribute(PREVIOUS_ATTRIBUTE) or "null")
        figures = {key: None if (value := kept["figures"][key]) is None else float(value) for key in FIGURES}
        return PastResult(str(kept["when"]), figures)
    except (KeyError, TypeError, ValueError):
        return None


def _check_editable(
    segmentation_node: Any, *, found: Mapping[str, str], mask: EditMask, range_hu: tuple[float, float] | None
) -> None:
    if "infection" not in found:
        raise error_about(segmentation_node, missing_infection())
    if mask is EditMask.LUNGS and not {"left_lung", "right_lung"} & set(found):
        raise error_about(segmentation_node, missing_lungs())
    if range_hu is not None and range_hu[0] >= range_hu[1]:
        text = _("The range from {start:g} to {end:g} HU is empty. Give the lower value first.")
        raise InputError(text.format(start=range_hu[0], end=range_hu[1]))


def _show_only(segmentation_node: Any, *, segment_ids: set[str]) -> bool:
    """Show these segments and hide the others; return False, and change nothing, if there are no others."""
    present = segmentation_node.GetSegmentation().GetSegmentIDs()
    if set(present) <= segment_ids:
        return False
    if segmentation_node.GetDisplayNode() is None:
        segmentation_node.CreateDefaultDisplayNodes()
    for segment_id in present:
        segmentation_node.GetDisplayNode().SetSegmentVisibility(segment_id, segment_id in segment_ids)
    return True


def _infection_id(segmentation_node: Any) -> str:
    segment_id = find_segments(segmentation_node).get("infection")
    if segment_id is None:
        raise error_about(segmentation_node, missing_infection())
    return segment_id


def _like(labelmap: Any, *, mask_kji: np.ndarray) -> Any:
    """Return a mask as a labelmap of zeros and ones, on the grid and with the extent of another labelmap."""
    import slicer
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    result = slicer.vtkOrientedImageData()
    result.SetExtent(*labelmap.GetExtent())
    result.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    vtk_to_numpy(result.GetPointData().GetScalars())[:] = mask_kji.ravel()
    result.CopyDirections(labelmap)
    result.SetOrigin(labelmap.GetOrigin())
    result.SetSpacing(labelmap.GetSpacing())
    return result
