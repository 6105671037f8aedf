"""The section Correct: Slicer's own Segment Editor, set up for lungs and infection."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slicer.i18n import tr as _

from ..errors import CovidSegError, InputError
from ..scenes.correct import EditMask, remove_infection_islands
from ..scenes.outputs import ct_of
from ..scenes.segments import find_segments, missing_lungs, why_not_corrected
from ..scenes.texts import shown
from .editor import Editor
from .texts import no_result_text
from .workplace import Workplace, explain_error, show_text


@dataclass(frozen=True)
class Task:
    """What is corrected, and where editing has an effect.

    Attributes:
        segments: Names; the first segment that is there is corrected.
        usual_mask: Where editing has an effect by default.
        inside_infection: Whether it is confined to the infection instead.
        range_hu: The voxels that may be changed; any if None.
    """

    segments: tuple[str, ...]
    usual_mask: EditMask
    inside_infection: bool = False
    range_hu: tuple[int, int] | None = None

    @property
    def mask(self) -> EditMask:
        """Where editing has an effect."""
        return EditMask.INFECTION if self.inside_infection else self.usual_mask


INFECTION_INSIDE_LUNGS = Task(("infection",), EditMask.LUNGS)
A_LUNG_ANYWHERE = Task(("left_lung", "right_lung"), EditMask.EVERYWHERE)


class CorrectSection:
    """Sets the editor up, and removes islands."""

    def __init__(self, place: Workplace) -> None:
        """Work in `place`."""
        self._place, self._ui = place, place.ui
        self.editor = Editor(place.logic.context, inside=place.ui.editorPlace)
        self._task: Task | None = None
        self._on_show = False
        ui = self._ui
        ui.editInfectionButton.connect("clicked(bool)", self.edit_infection)
        ui.editLungsButton.connect("clicked(bool)", self.edit_lungs)
        ui.islandButton.connect("clicked(bool)", self.remove_islands)
        self._say("")

    def refresh(self) -> None:
        """Enable what can be done now, and say of the rest why not."""
        reason = self._why_not()
        for name in ("editInfectionButton", "editLungsButton", "islandButton"):
            self._place.allow(name, unless=reason)
        if reason or self.editor.has_strayed_from(self._place.segmentation()):
            self._put_down()
        if self._task is not None and self._task != self._confined(self._task):
            self._set_up_editor(self._task)
        self._offer_keys()

    def edit_infection(self) -> None:
        """Select the infection and the brush, confined to the lungs, or to the infection itself if that is checked."""
        self._begin(INFECTION_INSIDE_LUNGS)

    def edit_lungs(self) -> None:
        """Select the left lung and the brush, unconfined, or confined to the infection if that is checked."""
        self._begin(A_LUNG_ANYWHERE)

    def remove_islands(self) -> None:
        """Remove the pieces of infection below the chosen size."""
        if self._why_not() or self._place.parameters is None:
            self.refresh()
            return
        limit_ml = self._place.parameters.islandMl
        try:
            removal = remove_infection_islands(
                self._place.logic.context,
                segmentation_node=self._place.segmentation(),
                min_ml=limit_ml,
                save_state=self._save_state,
            )
        except (CovidSegError, MemoryError) as error:
            self._say(explain_error(error), role="error")
            return
        if not removal.removed_count:
            self._say(_("No island of infection is smaller than {limit:g} ml.").format(limit=limit_ml))
            return
        self._say(
            _(
                "{count} islands removed, {ml:.2f} ml in all; {kept} left. Ctrl+Z in the editor brings them back."
            ).format(count=removal.removed_count, ml=removal.removed_ml, kept=removal.kept_count)
        )

    def segments_replaced(self) -> None:
        """Set the editor up again: Slicer has dropped its selected segment and mask with the segments replaced."""
        if self._task is not None and not self._why_not():
            self._set_up_editor(self._task)

    def scene_closes(self) -> None:
        """Let go of the scene."""
        self._put_down()
        self._say("")
        self.editor.disconnect_scene()

    def close(self) -> None:
        """Stop listening to the editor's node and keys."""
        self._on_show = False
        self.editor.close()

    def scene_opened(self) -> None:
        """Work on the new scene, without a tool in hand: a scene brings the state in which its editor was saved."""
        self._put_down()
        self.editor.connect_scene()

    def enter(self) -> None:
        """Let the editor's keys work while the panel is on show; its views it follows whenever a tool is in hand."""
        self._on_show = True
        self._offer_keys()

    def exit(self) -> None:
        """Lay the tool down, so that no click in a view paints while another module is on show."""
        self._on_show = False
        self._offer_keys()
        self.editor.leave_views()

    def _why_not(self) -> str:
        segmentation = self._place.segmentation()
        if segmentation is None:
            return no_result_text()
        if problem := why_not_corrected(segmentation, volume_node=ct_of(segmentation)):
            return shown(problem)
        if not segmentation.GetSelectable():
            return _("The segmentation '{name}' is locked. Unlock it first.").format(name=segmentation.GetName())
        return ""

    def _begin(self, task: Task) -> None:
        if self._why_not():
            self.refresh()
            return
        self._open_editor()
        self._set_up_editor(task)
        self._offer_keys()
        self.editor.take_up_brush()

    def _open_editor(self) -> None:
        """Have an editor to work with; a button was pressed, and a reloaded panel gets no `enter`."""
        self._on_show = True
        self.editor.make()

    def _set_up_editor(self, task: Task) -> None:
        """Set the editor up for a task, confined as is chosen now, and say why if that cannot be done."""
        self._task = task = self._confined(task)
        segmentation = self._place.segmentation()
        found = find_segments(segmentation)
        try:
            segment_id = next((found[name] for name in task.segments if name in found), None)
            if segment_id is None:
                raise InputError(missing_lungs())
            self.editor.set_up(
                segmentation,
                volume=ct_of(segmentation),
                segment_id=segment_id,
                mask=task.mask,
                range_hu=task.range_hu,
            )
        except CovidSegError as error:
            self.editor.put_down()
            self._say(explain_error(error), role="error")
        else:
            self._say("")

    def _confined(self, task: Task) -> Task:
        """Return a task with the limits that are chosen now."""
        chosen = self._place.parameters
        if chosen is None:
            return task
        range_hu = (chosen.rangeFromHu, chosen.rangeToHu) if chosen.rangeEnabled else None
        return replace(task, inside_infection=bool(chosen.insideInfection), range_hu=range_hu)

    def _offer_keys(self) -> None:
        """Let the editor's keys work only while the chosen result can be corrected, and the panel is on show."""
        can_be_corrected = self._on_show and not self._why_not()
        self.editor.hear_keys(only_for=self._place.segmentation() if can_be_corrected else None)

    def _put_down(self) -> None:
        """Lay the tool down, and forget the task."""
        self._task = None
        self.editor.put_down()

    def _save_state(self) -> None:
        """Save the segmentation for the editor's undo."""
        self._open_editor()
        self.editor.save_state(self._place.segmentation())
        self._offer_keys()

    def _say(self, text: str, *, role: str = "") -> None:
        show_text(self._ui.correctStatusLabel, text, role=role)
