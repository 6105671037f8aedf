"""A result goes into the scene and onto the screen, and what it replaced can come back; without Qt."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from .errors import CovidSegError
from .scene import SceneContext
from .scene_display import jump_to, most_infected_ras, show_result
from .scene_edit import remember_previous
from .scene_edited import segments_digest
from .scene_outputs import TABLE_ROLE, VOLUME_ROLE, check_output, ct_of
from .scene_segments import restore_segments, snapshot_segments
from .scene_uncertainty import find_map, put_map, show_map
from .scene_volume import remember_hu_scale
from .widget_tools import PanelLogic


@dataclass(frozen=True)
class Before:
    """A segmentation's segments, attributes and map of uncertainty, to bring them back."""

    context: SceneContext
    segmentation: Any
    segments: Any
    attributes: dict[str, str]
    map_image: Any

    @classmethod
    def of(cls, context: SceneContext, *, segmentation: Any) -> Before:
        """Return the state of now."""
        attributes = {name: segmentation.GetAttribute(name) for name in segmentation.GetAttributeNames()}
        map_node = find_map(segmentation)
        map_image = None if map_node is None else map_node.GetImageData()
        return cls(context, segmentation, snapshot_segments(segmentation), attributes, map_image)

    def why_not_restore(self, *, chosen: Any) -> str:
        """Return why it cannot be brought back now, while the segmentation `chosen` is on show; empty if it can."""
        if not self.context.scene.IsNodePresent(self.segmentation):
            return _("The segmentation is not in the scene any more.")
        name = self.segmentation.GetName()
        if self.segmentation is not chosen:
            return _("The last run replaced '{name}'. Choose it above to undo that.").format(name=name)
        if not self.segmentation.GetSelectable():
            return _("The segmentation '{name}' is locked. Unlock it first.").format(name=name)
        return ""

    def restore(self) -> None:
        """Bring it all back; the map only if its CT is in the scene."""
        restore_segments(self.segmentation, before=self.segments)
        for name in {*self.segmentation.GetAttributeNames(), *self.attributes}:
            self.segmentation.SetAttribute(name, self.attributes.get(name))
        volume = ct_of(self.segmentation)
        if volume is not None:
            with ExitStack() as undo:
                map_node = put_map(
                    self.context,
                    image=self.map_image,
                    segmentation_node=self.segmentation,
                    volume_node=volume,
                    undo=undo,
                )
                undo.pop_all()
            show_map(self.context, map_node=map_node)
        self._restore_table()

    def _restore_table(self) -> None:
        """Leave no table, either, where there were no segments."""
        if not self.segments:
            self.context.remove_node(self.segmentation.GetNodeReference(TABLE_ROLE))
            for role in (TABLE_ROLE, VOLUME_ROLE):
                self.segmentation.SetNodeReferenceID(role, None)


@dataclass(frozen=True)
class Voxels:
    """A CT's voxels as they were when a run began; another frame of a sequence comes into the same node.

    Attributes:
        fingerprint: Of the copy that is segmented.
        time: Modification time of the node's image, so that it is looked through only if it was touched.
    """

    fingerprint: str
    time: int

    def check(self, logic: PanelLogic, *, volume: Any) -> None:
        """Refuse a result for voxels that are not those of the node any more.

        Raises:
            CovidSegError: What happened.
        """
        image = volume.GetImageData()
        if image is None or image.GetMTime() == self.time:
            return
        if logic.volumeFromNode(volume).fingerprint != self.fingerprint:
            text = _(
                "The voxels of '{name}' changed while it was segmented; nothing was changed. Segment it again, "
                "and do not play or edit it meanwhile."
            )
            raise CovidSegError(text.format(name=volume.GetName()))


@dataclass(frozen=True)
class Published:
    """A result that was put into the scene.

    Attributes:
        segmentation: Its node.
        before: What the node held before; None for a new node.
        report: The content of report.json.
        hu_kji: (k, j, i) the CT in HU as it was segmented, if the engine gives it.
    """

    segmentation: Any
    before: Before | None
    report: dict[str, Any]
    hu_kji: np.ndarray | None = None


def publish(
    logic: PanelLogic, *, result: Any, volume: Any, segmentation: Any, previous: Mapping[str, Any] | None
) -> Published:
    """Put a result into the scene, show it and its map, and move the views to the slice with most infection.

    Args:
        logic: Writes the segments.
        result: The engine's.
        volume: The CT.
        segmentation: Its CovidSeg segments are replaced; a new node if None.
        previous: Figures of what is replaced, kept to compare with.
    """
    before = None if segmentation is None else Before.of(logic.context, segmentation=segmentation)
    outputs = logic.publish(result, volumeNode=volume, segmentationNode=segmentation)
    if previous is not None:
        remember_previous(outputs.segmentationNode, report=previous, when=datetime.now())
    hu_kji = getattr(result, "hu_kji", None)
    if hu_kji is not None:
        remember_hu_scale(volume, hu_kji=hu_kji)
    show_result(logic.context, volume_node=volume, segmentation_node=outputs.segmentationNode)
    show_map(logic.context, map_node=find_map(outputs.segmentationNode))
    point_ras = most_infected_ras(outputs.segmentationNode, volume_node=volume)
    if point_ras is not None:
        jump_to(logic.context, ras=point_ras)
    return Published(outputs.segmentationNode, before, outputs.report, hu_kji)


def check_unlocked(context: SceneContext, *, segmentation: Any, volume: Any) -> None:
    """Refuse an output that is locked, or that cannot take a result without harm to what else is in it.

    Raises:
        CovidSegError: Why, and what to do.
    """
    check_output(context, node=segmentation, volume_node=volume)
    if not segmentation.GetSelectable():
        text = _("The segmentation '{name}' is locked. Unlock it, or choose New segmentation.")
        raise CovidSegError(text.format(name=segmentation.GetName()))


def still_free(context: SceneContext, *, segmentation: Any, volume: Any, digest: str) -> tuple[Any, str]:
    """Return the segmentation that a run was meant for, None for a new one if somebody was there meanwhile, and why.

    Args:
        context: The scene.
        segmentation: Chosen when the run began; None for a new one.
        volume: The CT.
        digest: Of the segments when the run began.

    Raises:
        CovidSegError: It was locked, or cannot take the result any more.
    """
    if segmentation is None:
        return None, ""
    if not context.scene.IsNodePresent(segmentation):
        return None, _("The segmentation for the result was removed meanwhile; a new one was made.")
    check_unlocked(context, segmentation=segmentation, volume=volume)
    if segments_digest(segmentation) != digest:
        return None, _("The segments were corrected meanwhile and kept; the result is in a new segmentation.")
    return segmentation, ""
