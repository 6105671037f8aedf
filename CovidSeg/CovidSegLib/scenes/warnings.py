"""What a reader of figures must know of the segments that were measured: where they lie, and which do not count."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ..labels import SEGMENTS
from ..texts import Text
from ..texts import text as _
from .segments import find_segments, matrix_of, meaning_of
from .volume import ijk_to_ras

#: Attribute of a segmentation: the digest of its CT's voxels as they were segmented.
VOXELS_ATTRIBUTE = "CovidSeg.voxels"

#: Distance in voxels from which a CT counts as moved.
MOVED_VOXELS = 0.5


def voxels_digest(hu_kji: np.ndarray) -> str:
    """Return a digest of a CT's voxels in HU; without the grid, unlike a fingerprint, as a saved file rounds that."""
    return hashlib.sha256(np.ascontiguousarray(hu_kji).data).hexdigest()


def segmented_voxels(result: Any) -> str:
    """Return the `voxels_digest` of the CT in HU as an engine's result has it; empty if the result does not have it.

    A large CT takes a second: ask for it where the engine runs.
    """
    hu_kji = getattr(result, "hu_kji", None)
    return "" if hu_kji is None else voxels_digest(hu_kji)


def remember_voxels(node: Any, *, voxels: str) -> None:
    """Keep in a segmentation the `segmented_voxels` of its CT."""
    node.SetAttribute(VOXELS_ATTRIBUTE, voxels or None)


def segment_warnings(node: Any, *, volume_node: Any, voxels: str = "") -> tuple[Text, ...]:
    """Return warnings about the segments of a segmentation, a sentence each.

    Args:
        node: A segmentation node.
        volume_node: Its CT, None if that is not known.
        voxels: The `voxels_digest` of the CT as it was measured; empty if that is not known.
    """
    warnings = []
    if volume_node is not None and node.GetParentTransformNode() is not volume_node.GetParentTransformNode():
        # The segments lie over other voxels than those they were made of.
        warnings.append(
            _(
                "The segmentation is under another transform than its CT; it was measured where it now lies over the "
                "CT. If it does not fit there, put both under the same transform."
            )
        )
    elif volume_node is not None and _was_moved(volume_node, segmentation_node=node):
        warnings.append(
            _(
                "The CT was moved since it was segmented; it was measured where the segments now lie over it. If they "
                "do not fit there, put it back, or segment it again."
            )
        )
    if voxels and voxels != (node.GetAttribute(VOXELS_ATTRIBUTE) or voxels):
        warnings.append(
            _(
                "The CT has other voxels than those that were segmented: it was edited, or a sequence shows another "
                "frame. HU and what follows from them are of the voxels as they are now."
            )
        )
    if parts := _uncounted_parts(node):
        text = _(
            "Only one segment for each lung and one for the infection are measured; not counted: {names}. To count a "
            "part, add it to its segment (Segment Editor, Logical operators, Add)."
        )
        warnings.append(text.format(names=", ".join(f"'{name}'" for name in parts)))
    return tuple(warnings)


def _was_moved(volume_node: Any, *, segmentation_node: Any) -> bool:
    """Tell whether a CT lies elsewhere than the grid on which its segments are edited.

    A grid of another size or spacing was chosen for editing, and says nothing of the CT.
    """
    import slicer

    converter, grid = slicer.vtkSegmentationConverter, slicer.vtkOrientedImageData()
    text = segmentation_node.GetSegmentation().GetConversionParameter(
        converter.GetReferenceImageGeometryParameterName()
    )
    image = volume_node.GetImageData()
    if image is None or not text or not converter.DeserializeImageGeometry(text, grid, False):
        return False
    ct = ijk_to_ras(volume_node)
    ct_mm, grid_mm = (np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (ct, matrix_of(grid)))
    if grid.GetDimensions() != image.GetDimensions() or not np.allclose(ct_mm, grid_mm, rtol=1e-3):
        return False
    corners_ijk = np.array([[0, 0, 0, 1], [*image.GetDimensions(), 1]]).T
    moved_mm = np.linalg.norm((ct - matrix_of(grid)) @ corners_ijk, axis=0).max()
    return bool(moved_mm > MOVED_VOXELS * ct_mm.min())


def _uncounted_parts(node: Any) -> list[str]:
    """Return the names of segments that seem to be parts of CovidSeg's, such as those that Islands splits off.

    These have the name of the segment that was split, with a number; copies have its terminology.
    """
    segmentation = node.GetSegmentation()
    counted = find_segments(node)
    names = [segmentation.GetSegment(node_id).GetName() for node_id in counted.values()]
    names += [definition.name for definition in SEGMENTS]
    parts = []
    for node_id in segmentation.GetSegmentIDs():
        if node_id in counted.values():
            continue
        name = segmentation.GetSegment(node_id).GetName()
        is_split_off = any(name.startswith(f"{of}_") and name.removeprefix(f"{of}_").isdecimal() for of in names)
        if is_split_off or meaning_of(node, node_id=node_id) is not None:
            parts.append(name)
    return parts
