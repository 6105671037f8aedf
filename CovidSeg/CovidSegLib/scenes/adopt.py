"""Segmentations whose CT is not known: files of a batch or of the command line, or one whose CT was loaded anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..results.segment_masks import ALIGNMENT_TOLERANCE_VOXELS
from ..scene import SceneContext
from .outputs import CT_NAME_ATTRIBUTE, refer_to_ct
from .segments import find_segments, labelmap_of, whole_voxel_offset
from .volume import ijk_to_ras

#: What a scene appends to a name that it has had before; dates and numbers of patients look otherwise.
_COUNT_OF_A_NAME = re.compile(r"_[1-9]\d?")


def adopt(context: SceneContext, *, segmentation_node: Any, chosen: Any, others: Sequence[Any]) -> Any:
    """Let a segmentation refer to the CT on whose voxels its segments lie; return that CT, None if there is none.

    A segmentation that had a CT takes only one of the same name, and one that Slicer knows a CT of, only that: another
    one may have the same grid.

    Args:
        context: The scene.
        segmentation_node: A segmentation; without segments of CovidSeg it is left alone.
        chosen: The CT that the user chose, or None; it comes first.
        others: The other CTs of the scene; of two on the same grid nobody knows which one was meant.
    """
    if chosen is not None and _lies_on(chosen, segmentation_node=segmentation_node):
        volume_node = chosen
    else:
        fitting = [node for node in others if _lies_on(node, segmentation_node=segmentation_node)]
        volume_node = fitting[0] if len(fitting) == 1 else None
    if volume_node is not None:
        refer_to_ct(segmentation_node, volume_node=volume_node)
        context.place_beside(segmentation_node, neighbour=volume_node)
    return volume_node


def _lies_on(volume_node: Any, *, segmentation_node: Any) -> bool:
    """Tell whether CovidSeg's segments, some of which have voxels, are made of voxels of a volume."""
    image = volume_node.GetImageData()
    if image is None or segmentation_node.GetParentTransformNode() is not volume_node.GetParentTransformNode():
        return False
    if not _may_be_its_ct(volume_node, segmentation_node=segmentation_node):
        return False
    found = find_segments(segmentation_node).values()
    labelmaps = [labelmap_of(segmentation_node, segment_id=segment_id) for segment_id in found]
    filled = [labelmap for labelmap in labelmaps if labelmap is not None and not labelmap.IsEmpty()]
    matrix, size_ijk = ijk_to_ras(volume_node), np.array(image.GetDimensions())
    if not filled or np.linalg.matrix_rank(matrix) < len(matrix):  # an axis without a length or a direction of its own
        return False
    return all(_is_within(labelmap, matrix=matrix, size_ijk=size_ijk) for labelmap in filled)


def _may_be_its_ct(volume_node: Any, *, segmentation_node: Any) -> bool:
    known = segmentation_node.GetNodeReference(segmentation_node.GetReferenceImageGeometryReferenceRole())
    if known is not None:
        return known is volume_node
    name = segmentation_node.GetAttribute(CT_NAME_ATTRIBUTE)
    return name is None or _is_same_name(name, volume_node.GetName() or "")


def _is_same_name(name: str, other: str) -> bool:
    """Tell whether two names are equal, or one is the other with a number that a scene appended."""
    short, long = sorted((name, other), key=len)
    return name == other or (long.startswith(short) and bool(_COUNT_OF_A_NAME.fullmatch(long, len(short))))


def _is_within(labelmap: Any, *, matrix: np.ndarray, size_ijk: np.ndarray) -> bool:
    # A tilt that the engine lets pass is straightened in its file, and kept by Slicer.
    offset_ijk = whole_voxel_offset(labelmap, matrix=matrix, within=ALIGNMENT_TOLERANCE_VOXELS)
    if offset_ijk is None:
        return False
    extent = np.array(labelmap.GetExtent())
    return bool((extent[::2] + offset_ijk >= 0).all() and (extent[1::2] + offset_ijk < size_ijk).all())
