"""Whether CovidSeg's segments are as it made them: edits noticed as they happen, and known in a saved scene."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .boxes import bounding_box
from .scene_segments import find_segments, labelmap_of, mask_of

#: Attribute of a segmentation node: the digest of its segments as CovidSeg made them; saved with the scene.
COMPUTED_ATTRIBUTE = "CovidSeg.computed"


class EditWatcher:
    """Tells when the voxels of CovidSeg's segments changed: painted, erased, removed, undone.

    Names, colours, visibility, surfaces and other people's segments do not count. Keep a reference as long as
    it is needed, and `stop` it before the panel goes.
    """

    def __init__(self, segmentation_node: Any, *, on_edited: Callable[[], None]) -> None:
        """Watch a segmentation node from now on; `on_edited` is called after each change, on the main thread."""
        self._node = segmentation_node
        self._on_edited = on_edited
        self._ignoring = 0
        self._digests: dict[tuple[int, int], str] = {}
        self._last = self._digest()
        # The node repeats its segmentation's events, also once it holds another segmentation.
        self._tags = [segmentation_node.AddObserver(event, _forwarder(self)) for event in _edit_events()]

    def stop(self) -> None:
        """Watch no longer; may be called twice."""
        for tag in self._tags:
            self._node.RemoveObserver(tag)
        self._tags = []

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """Take what changes within this context as CovidSeg's own doing, and say nothing."""
        self._ignoring += 1
        try:
            yield
        finally:
            self._ignoring -= 1
            self._last = self._digest()

    def _digest(self) -> str:
        """Return the segments' digest; only those that were touched are looked through again."""
        digest, self._digests = _digest_of(self._node, known=self._digests)
        return digest

    def _look(self) -> None:
        """Tell of a change, if there is one: many events mean something else."""
        if self._ignoring or not _has_voxels(self._node):  # undo takes a segment's voxels away, then gives others
            return
        digest = self._digest()
        if digest != self._last:
            self._last = digest
            self._on_edited()


def segments_digest(segmentation_node: Any) -> str:
    """Return a text that is equal as long as the voxels of CovidSeg's segments are.

    Where the labelmaps lie in memory, how they are cropped, and which other segments there are plays no part;
    a saved and loaded scene gives the same text.
    """
    return _digest_of(segmentation_node, known={})[0]


def mark_computed(segmentation_node: Any) -> None:
    """Remember, also in a saved scene, that the segments are as CovidSeg made them."""
    segmentation_node.SetAttribute(COMPUTED_ATTRIBUTE, segments_digest(segmentation_node))


def is_edited(segmentation_node: Any) -> bool:
    """Tell whether there are segments that CovidSeg did not make so: replacing them loses somebody's work.

    It does not matter when and where they were edited; an edit that was undone is none.
    """
    if not find_segments(segmentation_node):
        return False
    return segmentation_node.GetAttribute(COMPUTED_ATTRIBUTE) != segments_digest(segmentation_node)


def _edit_events() -> tuple[int, ...]:
    """Return the events of a segmentation after which its voxels may be others; undo says "modified" only."""
    import slicer

    events = slicer.vtkSegmentation
    return (events.SourceRepresentationModified, events.SegmentModified, events.SegmentAdded, events.SegmentRemoved)


def _forwarder(watcher: EditWatcher) -> Callable[[Any, str], None]:
    """Return an observer that does not keep the watcher alive."""
    reference = weakref.ref(watcher)

    def forward(caller: Any, event: str) -> None:
        alive = reference()
        if alive is not None:
            alive._look()

    return forward


def _digest_of(
    segmentation_node: Any, *, known: Mapping[tuple[int, int], str]
) -> tuple[str, dict[tuple[int, int], str]]:
    """Return the digest of CovidSeg's segments, and those of each by (modification time, label value).

    Args:
        segmentation_node: The node.
        known: Digests that hold as long as a segment has that time and value; VTK never gives a time twice.
    """
    segmentation = segmentation_node.GetSegmentation()
    digests = {}
    total = hashlib.blake2b(digest_size=16)
    for definition_id, node_id in sorted(find_segments(segmentation_node).items()):
        labelmap = labelmap_of(segmentation_node, segment_id=node_id)
        if labelmap is None:
            continue
        key = (labelmap.GetMTime(), segmentation.GetSegment(node_id).GetLabelValue())
        digests[key] = known.get(key) or _mask_digest(mask_of(labelmap, value=key[1]))
        total.update(f"{definition_id}:{digests[key]};".encode())
    return total.hexdigest(), digests


def _mask_digest(mask_kji: np.ndarray) -> str:
    """Return a digest of a mask, cropped to its voxels."""
    box = bounding_box(mask_kji)
    if box is None:
        return "empty"
    inner = mask_kji[box]
    return hashlib.blake2b(repr(inner.shape).encode() + np.packbits(inner).tobytes(), digest_size=16).hexdigest()


def _has_voxels(segmentation_node: Any) -> bool:
    """Tell whether each of CovidSeg's segments has a labelmap, be it empty."""
    found = find_segments(segmentation_node).values()
    return all(labelmap_of(segmentation_node, segment_id=segment_id) is not None for segment_id in found)
