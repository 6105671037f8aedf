"""Put a result into the scene and on show, and bring back what it replaced; without Qt."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from ..errors import Cancelled, CovidSegError
from ..runner import Failure
from ..scene import SceneContext
from ..scenes.correct import remember_previous
from ..scenes.display import jump_to, most_infected_ras, show_result
from ..scenes.edited import is_edited, segments_digest
from ..scenes.outputs import (
    TABLE_ROLE,
    VOLUME_ROLE,
    Place,
    attributes_of,
    check_output,
    ct_of,
    place_of,
    restore_attributes,
    restore_place,
    restore_segments,
    snapshot_segments,
)
from ..scenes.segments import find_segments
from ..scenes.uncertainty import find_map, put_map, remove_map, show_map
from ..scenes.volume import remember_hu_scale
from ..scenes.warnings import segmented_voxels
from .measure import KnownCt
from .workplace import Dialogs, PanelLogic, details_of, log_and_explain

if TYPE_CHECKING:
    from ..logic import Engine
    from ..volume import CTVolume


@dataclass(frozen=True)
class Before:
    """A segmentation as it was before a run replaced its segments.

    Attributes:
        context: The scene.
        segmentation: Its node.
        segments: CovidSeg's.
        attributes: Of the node.
        place: Its CT, grid and transform.
        table: The content of its results table; None without one.
        map_image: Its map of uncertainty; None without one.
    """

    context: SceneContext
    segmentation: Any
    segments: Any
    attributes: dict[str, str]
    place: Place
    table: Any
    map_image: Any

    @classmethod
    def of(cls, context: SceneContext, *, segmentation: Any) -> Before:
        """Return the present state."""
        map_node = find_map(segmentation)
        table_node = segmentation.GetNodeReference(TABLE_ROLE)
        return cls(
            context,
            segmentation,
            segments=snapshot_segments(segmentation),
            attributes=attributes_of(segmentation),
            place=place_of(segmentation),
            table=None if table_node is None else table_node.GetTable(),
            map_image=None if map_node is None else map_node.GetImageData(),
        )

    def why_not_restore(self, *, chosen: Any) -> str:
        """Return why the run cannot be undone while `chosen` is the segmentation on show; empty if it can."""
        if not self.context.scene.IsNodePresent(self.segmentation):
            return _("The segmentation is not in the scene any more.")
        name = self.segmentation.GetName()
        if self.segmentation is not chosen:
            return _("The last run replaced '{name}'. Choose it above to undo that.").format(name=name)
        if not self.segmentation.GetSelectable():
            return _("The segmentation '{name}' is locked. Unlock it first.").format(name=name)
        return ""

    def restore(self) -> None:
        """Undo the run: bring the state back."""
        restore_segments(self.segmentation, before=self.segments)
        restore_attributes(self.segmentation, before=self.attributes)
        if self.segmentation.GetNodeReferenceID(VOLUME_ROLE) != self.place.references[VOLUME_ROLE]:
            restore_place(self.segmentation, before=self.place)  # else it stays with its CT, which may have been moved
        self._restore_table()
        self._restore_map()

    def _restore_table(self) -> None:
        """Bring the figures back, as those segments cannot be measured without their CT; or leave none."""
        table_node = self.segmentation.GetNodeReference(TABLE_ROLE)
        if self.table is None:
            self.context.remove_node(table_node)
            self.segmentation.SetNodeReferenceID(TABLE_ROLE, None)
        elif table_node is not None:
            table_node.SetAndObserveTable(self.table)

    def _restore_map(self) -> None:
        """Bring the map back, or leave none: that of the run belongs to other segments."""
        volume = ct_of(self.segmentation)
        if self.map_image is None or volume is None:
            remove_map(self.context, segmentation_node=self.segmentation)
            return
        with ExitStack() as undo:
            map_node = put_map(
                self.context, image=self.map_image, segmentation_node=self.segmentation, volume_node=volume, undo=undo
            )
            undo.pop_all()
        show_map(self.context, map_node=map_node)


@dataclass(frozen=True)
class VoxelStamp:
    """Tells whether a CT still has the voxels that it had when a run began; playing a sequence changes them in place.

    Attributes:
        fingerprint: Of the copy that is segmented.
        time: Modification time of the node's image; as long as it is the same, the voxels need not be compared.
    """

    fingerprint: str
    time: int

    def check(self, logic: PanelLogic, *, volume: Any) -> None:
        """Refuse a result if the voxels have changed since the run began.

        Raises:
            CovidSegError: They have.
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
class Segmented:
    """What the worker hands over of a run.

    Attributes:
        result: The engine's.
        voxels: Its `segmented_voxels`: for a large CT, the window would stand still for a second.
    """

    result: Any
    voxels: str


def segmented(engine: Engine, ct: CTVolume, **options: Any) -> Segmented:
    """Return what the engine makes of a CT, to be put into the scene (runs on the worker thread)."""
    result = engine(ct, **options)
    return Segmented(result, segmented_voxels(result))


@dataclass(frozen=True)
class Published:
    """A result that was put into the scene.

    Attributes:
        segmentation: Its node.
        before: What the node held before; None for a new node.
        report: The content of report.json.
        ct: The CT as it was segmented, if the engine gives it.
    """

    segmentation: Any
    before: Before | None
    report: dict[str, Any]
    ct: KnownCt | None = None


def publish(
    logic: PanelLogic, *, result: Segmented, volume: Any, segmentation: Any, previous: Mapping[str, Any] | None
) -> Published:
    """Put a result into the scene; `put_on_show` shows it.

    Args:
        logic: Writes the segments.
        result: Of the run.
        volume: The CT.
        segmentation: Its CovidSeg segments are replaced; a new node if None.
        previous: Figures of what is replaced, kept to compare with.
    """
    before = None if segmentation is None else Before.of(logic.context, segmentation=segmentation)
    outputs = logic.publish(result.result, volumeNode=volume, segmentationNode=segmentation, voxels=result.voxels)
    if previous is not None:
        remember_previous(outputs.segmentationNode, report=previous, when=datetime.now())
    hu_kji = getattr(result.result, "hu_kji", None)
    ct = None if hu_kji is None else KnownCt(hu_kji, voxels=result.voxels)
    return Published(outputs.segmentationNode, before, outputs.report, ct)


def put_on_show(context: SceneContext, *, published: Published, volume: Any) -> str:
    """Show a new result and its map over its CT, and move the views to the slice with most infection.

    Returns:
        Why it could not be shown, for the user; empty if it could. It is in the scene in any case.
    """
    segmentation = published.segmentation
    try:
        if published.ct is not None:
            remember_hu_scale(volume, hu_kji=published.ct.hu_kji)
        show_result(context, volume_node=volume, segmentation_node=segmentation)
        show_map(context, map_node=find_map(segmentation))
        point_ras = most_infected_ras(segmentation, volume_node=volume)
        if point_ras is not None:
            jump_to(context, ras=point_ras)
    except Exception as error:  # whatever it is, the run was not in vain, and can be undone
        reason = log_and_explain(Failure(error, details_of(error)))
        return _("The result is in the scene, but could not be shown: {reason}").format(reason=reason)
    return ""


def check_replaceable(context: SceneContext, *, segmentation: Any, volume: Any) -> None:
    """Refuse to put a result into a segmentation that is locked, or whose other segments would come to harm.

    Raises:
        CovidSegError: Why, and what to do.
    """
    check_output(context, node=segmentation, volume_node=volume)
    if not segmentation.GetSelectable():
        text = _("The segmentation '{name}' is locked. Unlock it, or choose New segmentation.")
        raise CovidSegError(text.format(name=segmentation.GetName()))


def ask_what_to_keep(dialogs: Dialogs, *, segmentation: Any, volume: Any) -> Any:
    """Return the segmentation if a run on a CT may replace its segments, None for a new one.

    The user is asked if the run would not just compute the same segments again.

    Raises:
        Cancelled: The user changed their mind.
    """
    if is_edited(segmentation):
        question = _("The segments of '{name}' were corrected by hand. What shall be done with them?")
    elif find_segments(segmentation) and ct_of(segmentation) is not volume:
        question = _("The segments of '{name}' were made of another CT. What shall be done with them?")
    else:
        return segmentation
    choices = (_("Keep them, make a new segmentation"), _("Replace them"))
    answer = dialogs.choose(question.format(name=segmentation.GetName()), choices=choices)
    if answer is None:
        raise Cancelled(_("Nothing was changed."))
    return None if answer == 0 else segmentation


def where_to_publish(context: SceneContext, *, segmentation: Any, volume: Any, digest: str) -> tuple[Any, str]:
    """Return the segmentation that takes the result of a run, None for a new one, and what to tell the user of it.

    A segmentation that was corrected during the run is left alone, and one that was removed cannot be used.

    Args:
        context: The scene.
        segmentation: Chosen when the run began; None for a new one.
        volume: The CT.
        digest: Of the segments when the run began.

    Raises:
        CovidSegError: The segmentation was locked, or cannot take the result any more.
    """
    if segmentation is None:
        return None, ""
    if not context.scene.IsNodePresent(segmentation):
        return None, _("The segmentation for the result was removed meanwhile; a new one was made.")
    check_replaceable(context, segmentation=segmentation, volume=volume)
    if segments_digest(segmentation) != digest:
        return None, _("The segments were corrected meanwhile and kept; the result is in a new segmentation.")
    return segmentation, ""
