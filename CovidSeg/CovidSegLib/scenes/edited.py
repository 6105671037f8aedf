"""Whether CovidSeg's segments are as it made them: edits are noticed at once, and still known in a saved scene."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..boxes import bounding_box
from .segments import find_segments, labelmap_of, mask_of

#: Attribute of a segmentation node: the digest of its segments as CovidSeg made them; saved with the scene.
COMPUTED_ATTRIBUTE = "CovidSeg.computed"


class EditWatcher:
    """Calls back when the voxels of CovidSeg's segments change: by painting, erasing, removal, undo.

    Names, colours, visibility, surfaces and other segments do not count. Keep a reference while it is needed, and
    `stop` it before the panel is deleted.
    """

    def __init__(self, segmentation_node: Any, *, on_edited: Callable[[], None]) -> None:
        """Watch a segmentation node from now on; `on_edited` is called after each change, on the main thread."""
        self._node = segmentation_node
        self._on_edited = on_edited
        self._ignoring = 0
        self._digests: dict[tuple[int, int], str] = {}
        self._last = self._digest()
        # The node forwards its segmentation's events, even after it has been given another segmentation.
        self._tags = [segmentation_node.AddObserver(event, _forwarder(self)) for event in _edit_events()]

    def stop(self) -> None:
        """Stop watching; may be called twice."""
        for tag in self._tags:
            self._node.RemoveObserver(tag)
        self._tags = []

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """Do not call back for changes within this context, which are CovidSeg's own."""
        self._ignoring += 1
        try:
            yield
        finally:
            self._ignoring -= 1
            self._last = self._digest()

    def _digest(self) -> str:
        """Return the digest of the segments; only those modified since the last time are read again."""
        digest, self._digests = _digest_of(self._node, known=self._digests)
        return digest

    def _look(self) -> None:
        """Call back if the voxels have changed; many of the events have another cause."""
        if self._ignoring or not _has_voxels(self._node):  # undo removes a segment's labelmap before it adds another
            return
        digest = self._digest()
        if digest != self._last:
            self._last = digest
            self._on_edited()


class Digests:
    """The digests of several segmentations; only segments modified since the last time are read again."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[int, int], str]] = {}

    def of(self, segmentation_node: Any) -> str:
        """Return the `segments_digest` of a node of the scene."""
        node_id = segmentation_node.GetID()
        digest, self._known[node_id] = _digest_of(segmentation_node, known=self._known.get(node_id, {}))
        return digest


def segments_digest(segmentation_node: Any) -> str:
    """Return a digest of the voxels of CovidSeg's segments, which is the same after a scene is saved and loaded.

    It does not depend on how the labelmaps are cropped or shared, nor on other segments.
    """
    return _digest_of(segmentation_node, known={})[0]


def mark_computed(segmentation_node: Any) -> None:
    """Record in the node, and so in a saved scene, that the segments are as CovidSeg made them."""
    segmentation_node.SetAttribute(COMPUTED_ATTRIBUTE, segments_digest(segmentation_node))


def is_edited(segmentation_node: Any) -> bool:
    """Tell whether the segments are not as CovidSeg made them, so that replacing them would lose somebody's work.

    When and where they were edited does not matter; an edit that was undone does not count.
    """
    if not find_segments(segmentation_node):
        return False
    return segmentation_node.GetAttribute(COMPUTED_ATTRIBUTE) != segments_digest(segmentation_node)


def _edit_events() -> tuple[int, ...]:
    """Return the events of a segmentation that may mean changed voxels; undo sends only "modified"."""
    import slicer

    events = slicer.vtkSegmentation
    return (events.SourceRepresentationModified, events.SegmentModified, events.SegmentAdded, events.SegmentRemoved)


def _forwarder(watcher: EditWatcher) -> Callable[[Any, str], None]:
    """Return an observer that holds only a weak reference to the watcher."""
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
        known: Earlier digests by (modification time, label value); VTK never uses a modification time twice.
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
    """Return a digest of a mask cropped to its bounding box."""
    box = bounding_box(mask_kji)
    if box is None:
        return "empty"
    inner = mask_kji[box]
    return hashlib.blake2b(repr(inner.shape).encode() + np.packbits(inner).tobytes(), digest_size=16).hexdigest()


def _has_voxels(segmentation_node: Any) -> bool:
    """Tell whether each of CovidSeg's segments has a labelmap, which may be empty."""
    found = find_segments(segmentation_node).values()
    return all(labelmap_of(segmentation_node, segment_id=segment_id) is not None for segment_id in found)
