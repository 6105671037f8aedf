"""What a reader of figures must know of the segments that were measured: where they lie, and which do not count."""

from __future__ import annotations

from typing import Any

from ..labels import SEGMENTS
from ..texts import Text
from ..texts import text as _
from .segments import find_segments, meaning_of


def segment_warnings(node: Any, *, volume_node: Any) -> tuple[Text, ...]:
    """Return warnings about the segments of a segmentation, a sentence each.

    Args:
        node: A segmentation node.
        volume_node: Its CT, None if that is not known.
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
    if parts := _uncounted_parts(node):
        text = _(
            "Only one segment for each lung and one for the infection are measured; not counted: {names}. To count a "
            "part, add it to its segment (Segment Editor, Logical operators, Add)."
        )
        warnings.append(text.format(names=", ".join(f"'{name}'" for name in parts)))
    return tuple(warnings)


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
