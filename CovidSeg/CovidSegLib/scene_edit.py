"""Correct a segmentation: the Segment Editor set up for it, edits noticed, islands removed, old results kept."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any

import numpy as np

from .errors import InputError
from .followup import PastResult, past_result
from .islands import IslandRemoval, remove_islands
from .nearest_lung import bounding_box
from .scene import SceneContext
from .scene_segments import find_segments

EDITOR_TAG = "CovidSeg"
"""Singleton tag of CovidSeg's own editor node, so that Slicer's own Segment Editor keeps its settings."""

COMPUTED_ATTRIBUTE = "CovidSeg.computed"
"""Attribute of a segmentation node: the digest of its segments as CovidSeg made them; saved with the scene."""

HISTORY_ATTRIBUTE = "CovidSeg.history"
"""Attribute of a segmentation node: its previous results, as JSON."""

MAX_RESULTS = 20
"""Results kept of one segmentation."""


class EditMask(Enum):
    """Where painting and erasing has an effect."""

    LUNGS = "lungs"
    INFECTION = "infection"
    EVERYWHERE = "everywhere"


def editor_node(context: SceneContext) -> Any:
    """Return CovidSeg's segment editor node, the same one for the life of the scene."""
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
    mask: EditMask = EditMask.LUNGS,
    range_hu: tuple[float, float] | None = None,
) -> Any:
    """Return the editor node, set up to correct the infection.

    Segments may overlap, so that painting infection never shrinks a lung. Slicer can confine editing to one
    segment, to all, or to the visible ones, but not to two: for the lungs it is all segments if there are no
    others than CovidSeg's; else the visible ones, and the others are hidden.

    Args:
        context: The scene.
        segmentation_node: Holds an infection segment, which gets selected.
        volume_node: The CT, for painting by threshold.
        mask: Where editing has an effect.
        range_hu: Only voxels from the first to the second HU are changed; all if None.

    Raises:
        InputError: There is no infection segment, no lung to confine editing to, or the range is empty.
    """
    import slicer

    found = find_segments(segmentation_node)
    _check_editable(found, mask=mask, range_hu=range_hu, name=segmentation_node.GetName())
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
    node.SetSelectedSegmentID(found["infection"])
    node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
    node.SetMaskMode(mode)
    node.SetMaskSegmentID(mask_id)
    node.SetSourceVolumeIntensityMask(range_hu is not None)
    if range_hu is not None:
        node.SetSourceVolumeIntensityMaskRange(*range_hu)
    return node


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


def remove_infection_islands(
    context: SceneContext, *, segmentation_node: Any, min_ml: float, save_state: Callable[[], object]
) -> IslandRemoval:
    """Remove islands of infection smaller than a volume from the segment; return what was removed.

    Args:
        context: The scene.
        segmentation_node: Holds the infection segment.
        min_ml: Islands below it are removed.
        save_state: Saves the segmentation for undo; called just before the segment is changed, and only then.

    Raises:
        InputError: There is no infection segment, it has no voxels to look through, or `min_ml` is negative.
    """
    if min_ml < 0:
        raise InputError(f"Islands below {min_ml:g} ml cannot be removed. Give 0 ml or more.")
    segment_id = _infection_id(segmentation_node)
    labelmap = _labelmap_of(segmentation_node, segment_id=segment_id)
    if labelmap is None:
        raise InputError(f"The infection of '{segmentation_node.GetName()}' has no voxels. Segment the CT again.")
    mask_kji = _mask_of(labelmap, value=segmentation_node.GetSegmentation().GetSegment(segment_id).GetLabelValue())
    voxel_ml = float(np.prod(labelmap.GetSpacing())) / 1000.0
    removal = remove_islands(mask_kji, voxel_ml=voxel_ml, min_ml=min_ml)
    if removal.removed_count:
        save_state()
        labels = _like(labelmap, mask_kji=removal.mask_kji)
        segmentations = context.logic("Segmentations")
        if not segmentations.SetBinaryLabelmapToSegment(
            labels, segmentation_node, segment_id, segmentations.MODE_REPLACE
        ):
            raise InputError(f"Slicer did not accept the infection without islands in '{segmentation_node.GetName()}'.")
    return removal


class ResultsHistory:
    """The results of a segmentation so far, kept in its node and saved with the scene, oldest first."""

    def __init__(self, segmentation_node: Any) -> None:
        """Look after the results of this node; nothing is read before it is asked for."""
        self._node = segmentation_node

    def results(self) -> tuple[PastResult, ...]:
        """Return the results kept, oldest first.

        Raises:
            InputError: The node's attribute is damaged.
        """
        try:
            return tuple(
                PastResult(**entry) for entry in json.loads(self._node.GetAttribute(HISTORY_ATTRIBUTE) or "[]")
            )
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The previous results of '{self._node.GetName()}' are damaged. Clear them, and measure again."
            ) from error

    def add(self, *, label: str, report: Mapping[str, Any], when: datetime) -> None:
        """Keep a result; beyond `MAX_RESULTS` the second-oldest goes, so that the first stays to compare with.

        Args:
            label: What it is, such as "before correction".
            report: `regions` and `severity` as in ``report.json``.
            when: Time of the result.
        """
        kept = [*self.results(), past_result(report, label=label, when=when)]
        del kept[1 : 1 + max(len(kept) - MAX_RESULTS, 0)]
        text = json.dumps([asdict(entry) for entry in kept], allow_nan=False)
        self._node.SetAttribute(HISTORY_ATTRIBUTE, text)

    def clear(self) -> None:
        """Forget all results."""
        self._node.RemoveAttribute(HISTORY_ATTRIBUTE)


def _check_editable(
    found: Mapping[str, str], *, mask: EditMask, range_hu: tuple[float, float] | None, name: str
) -> None:
    if "infection" not in found:
        raise InputError(f"No infection segment in '{name}'. Segment the CT first.")
    if mask is EditMask.LUNGS and not {"left_lung", "right_lung"} & set(found):
        raise InputError(f"No lung segment in '{name}' to keep the correction inside. Edit everywhere instead.")
    if range_hu is not None and range_hu[0] >= range_hu[1]:
        raise InputError(f"The range from {range_hu[0]:g} to {range_hu[1]:g} HU is empty. Give the lower value first.")


def _show_only(segmentation_node: Any, *, segment_ids: set[str]) -> bool:
    """Show these segments and hide the others; nothing is done, and False returned, if there are no others."""
    segmentation = segmentation_node.GetSegmentation()
    present = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    if set(present) <= segment_ids:
        return False
    if segmentation_node.GetDisplayNode() is None:
        segmentation_node.CreateDefaultDisplayNodes()
    for segment_id in present:
        segmentation_node.GetDisplayNode().SetSegmentVisibility(segment_id, segment_id in segment_ids)
    return True


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
        labelmap = _labelmap_of(segmentation_node, segment_id=node_id)
        if labelmap is None:
            continue
        key = (labelmap.GetMTime(), segmentation.GetSegment(node_id).GetLabelValue())
        digests[key] = known.get(key) or _mask_digest(_mask_of(labelmap, value=key[1]))
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
    return all(_labelmap_of(segmentation_node, segment_id=segment_id) is not None for segment_id in found)


def _infection_id(segmentation_node: Any) -> str:
    segment_id = find_segments(segmentation_node).get("infection")
    if segment_id is None:
        raise InputError(f"No infection segment in '{segmentation_node.GetName()}'. Segment the CT first.")
    return segment_id


def _labelmap_of(segmentation_node: Any, *, segment_id: str) -> Any:
    """Return the labelmap that a segment shares with others, None if it has none."""
    import slicer

    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return segmentation_node.GetSegmentation().GetSegment(segment_id).GetRepresentation(name)


def _mask_of(labelmap: Any, *, value: int) -> np.ndarray:
    """Return a (k, j, i) boolean copy of a labelmap's voxels with a value; no voxel if it is empty."""
    from vtk.util.numpy_support import vtk_to_numpy

    scalars = labelmap.GetPointData().GetScalars()
    if scalars is None or labelmap.IsEmpty():
        return np.zeros((0, 0, 0), dtype=bool)
    return np.asarray(vtk_to_numpy(scalars).reshape(labelmap.GetDimensions()[::-1]) == value)


def _like(labelmap: Any, *, mask_kji: np.ndarray) -> Any:
    """Return a mask as a labelmap of zeros and ones with the extent and grid of another."""
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
