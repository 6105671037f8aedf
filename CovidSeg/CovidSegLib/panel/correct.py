"""The section Correct: Slicer's own Segment Editor, set up for lungs and infection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from ..errors import CovidSegError
from ..scenes.correct import (
    EditMask,
    clear_tool,
    editor_node,
    erasing_adds_to_mask,
    remove_infection_islands,
    set_up_editor,
)
from ..scenes.outputs import ct_of
from ..scenes.segments import find_segments, missing_lungs, why_not_corrected
from ..scenes.texts import shown
from .texts import no_result_text
from .workplace import Workplace, explain_error, show_text

#: Tools shown, in this order; the others are in Slicer's module Segment Editor.
EFFECTS = ("Paint", "Draw", "Erase", "Threshold", "Level tracing", "Scissors", "Islands", "Smoothing", "Margin")

#: Tools that take voxels away; hidden where Slicer would add these to the infection.
TAKING_AWAY = ("Erase", "Scissors", "Islands")

UNDO_STATES = 10


@dataclass(frozen=True)
class Task:
    """What is corrected: the first of these segments that is there, and where editing has an effect by default."""

    segments: tuple[str, ...]
    mask: EditMask


INFECTION_INSIDE_LUNGS = Task(("infection",), EditMask.LUNGS)
A_LUNG_ANYWHERE = Task(("left_lung", "right_lung"), EditMask.EVERYWHERE)


class CorrectSection:
    """Sets the editor up, and removes islands."""

    def __init__(self, place: Workplace) -> None:
        """Work in `place`."""
        self._place, self._ui = place, place.ui
        self._editor: Any = None
        self._task: Task | None = None
        self._edited: Any = None  # the segmentation that the editor is set up for
        self._watched: tuple[Any, int] | None = None  # the editor's node, with the tag of the observer
        self._confined: tuple[bool, tuple[int, int] | None] = (False, None)
        self._on_show = self._hears_keys = False
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
        if reason or not self._edits_the_chosen_one():
            self._put_down()
        confined = self._chosen_limits()
        if confined != self._confined:
            self._confined = confined
            self._set_up_editor()
        self._offer_tools()
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
        self._set_up_editor()

    def scene_closes(self) -> None:
        """Let go of the scene."""
        self._put_down()
        self._say("")
        if self._editor is not None:
            self._editor.setMRMLScene(None)

    def close(self) -> None:
        """Stop listening to the editor's node and keys."""
        self._stop_watching()
        self._on_show = False
        self._offer_keys()

    def scene_opened(self) -> None:
        """Work on the new scene, without a tool in hand: a scene brings the state in which its editor was saved."""
        self._put_down()
        if self._editor is not None:
            self._connect_editor()

    def enter(self) -> None:
        """Let the editor's keys work while the panel is on show; its views it follows whenever a tool is in hand."""
        self._on_show = True
        self._offer_keys()

    def exit(self) -> None:
        """Lay the tool down, so that no click in a view paints while another module is on show."""
        self._on_show = False
        self._offer_keys()
        self._lay_tool_down()
        if self._editor is not None:
            self._editor.removeViewObservations()

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
        self._ensure_editor()
        self._task = task
        self._set_up_editor()
        self._offer_tools()
        self._offer_keys()
        if self._edited is not None:
            self._editor.setActiveEffectByName("Paint")

    def _set_up_editor(self) -> None:
        """Set the editor up for the task, if there is one that can be done, confined as is chosen now."""
        self._edited = None
        if self._task is None or self._why_not():
            return
        segmentation = self._place.segmentation()
        found = find_segments(segmentation)
        segment_id = next((found[name] for name in self._task.segments if name in found), None)
        if segment_id is None:
            self._say(shown(missing_lungs()), role="error")
            return
        inside_infection, range_hu = self._chosen_limits()
        try:
            set_up_editor(
                self._place.logic.context,
                segmentation_node=segmentation,
                volume_node=ct_of(segmentation),
                segment_id=segment_id,
                mask=EditMask.INFECTION if inside_infection else self._task.mask,
                range_hu=range_hu,
            )
        except CovidSegError as error:
            self._say(explain_error(error), role="error")
            return
        self._say("")
        self._edited = segmentation

    def _edits_the_chosen_one(self) -> bool:
        """Tell whether the editor, if set up, works on the chosen result; its own, hidden selector can change that."""
        if self._edited is None:
            return True
        return self._place.segmentation() is self._edited is self._editor.segmentationNode()

    def _offer_tools(self) -> None:
        """Enable the editor only while it is set up here: by default painting takes voxels from other segments."""
        ready = self._edited is not None
        if self._editor is not None and self._editor.readOnly == ready:
            self._editor.enabled = ready
            self._editor.readOnly = not ready  # also lays the tool down, and keeps the keys from taking one up
        self._leave_out_harmful_tools()

    def _offer_keys(self) -> None:
        """Let the editor's keys work only while it edits the chosen result and that can be corrected.

        The editor's undo respects neither locks nor read-only: its key would change a segmentation that is not on show.
        """
        if self._editor is None:
            return
        chosen = self._place.segmentation()
        hears = self._on_show and not self._why_not() and self._editor.segmentationNode() is chosen
        if hears == self._hears_keys:
            return
        self._hears_keys = hears
        if hears:
            self._editor.installKeyboardShortcuts()
        else:
            self._editor.uninstallKeyboardShortcuts()

    def _leave_out_harmful_tools(self, caller: Any = None, event: Any = None) -> None:
        """Hide the tools that would change the infection, too, with the present segment and mask."""
        if self._edited is None:
            return
        node = self._editor.mrmlSegmentEditorNode()
        harmful = TAKING_AWAY if erasing_adds_to_mask(node) else ()
        tools = [name for name in EFFECTS if name not in harmful]
        if tools == list(self._editor.effectNameOrder()):
            return
        in_hand = node.GetActiveEffectName()
        self._editor.setEffectNameOrder(tools)
        # The space key brings back the previous tool, hidden or not: make that the brush.
        for name in ("Paint", "", in_hand if in_hand in tools else ""):
            self._editor.setActiveEffectByName(name)

    def _chosen_limits(self) -> tuple[bool, tuple[int, int] | None]:
        """Return whether editing is confined to the infection, and to which range of HU, None for no limit."""
        parameters = self._place.parameters
        if parameters is None:
            return False, None
        range_hu = (parameters.rangeFromHu, parameters.rangeToHu) if parameters.rangeEnabled else None
        return bool(parameters.insideInfection), range_hu

    def _ensure_editor(self) -> None:
        """Create the editor, a large widget, when it is first needed."""
        if self._editor is not None:
            return
        import slicer

        self._editor = slicer.qMRMLSegmentEditorWidget()
        self._editor.setMaximumNumberOfUndoStates(UNDO_STATES)
        self._editor.setSegmentationNodeSelectorVisible(False)
        self._editor.setSourceVolumeNodeSelectorVisible(False)
        self._editor.setSwitchToSegmentationsButtonVisible(False)
        self._editor.setEffectNameOrder(list(EFFECTS))
        self._editor.unorderedEffectsVisible = False
        self._connect_editor()
        self._ui.editorPlace.layout().addWidget(self._editor)
        self._on_show = True  # a button was pressed; a reloaded panel gets no `enter`
        self._offer_tools()

    def _connect_editor(self) -> None:
        context = self._place.logic.context
        node = editor_node(context)
        clear_tool(node)
        self._editor.setMRMLScene(context.scene)
        self._editor.setMRMLSegmentEditorNode(node)
        self._stop_watching()
        # The node, because the editor sends no signal when its keys select another segment.
        self._watched = node, node.AddObserver("ModifiedEvent", self._leave_out_harmful_tools)

    def _stop_watching(self) -> None:
        if self._watched is not None:
            node, tag = self._watched
            node.RemoveObserver(tag)
            self._watched = None

    def _put_down(self) -> None:
        """Lay the tool down, and forget the task."""
        self._task = self._edited = None
        self._lay_tool_down()

    def _lay_tool_down(self) -> None:
        if self._editor is not None:
            clear_tool(self._editor.mrmlSegmentEditorNode())

    def _save_state(self) -> None:
        """Save the segmentation for the editor's undo."""
        self._ensure_editor()
        self._editor.setSegmentationNode(self._place.segmentation())
        self._offer_keys()
        save = getattr(self._editor, "saveStateForUndo", None)
        if save is not None:
            save()

    def _say(self, text: str, *, role: str = "") -> None:
        show_text(self._ui.correctStatusLabel, text, role=role)
