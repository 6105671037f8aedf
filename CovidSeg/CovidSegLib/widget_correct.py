"""The section Correct: Slicer's own Segment Editor, set up for lungs and infection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .errors import CovidSegError
from .scene_edit import EditMask, editor_node, erasing_adds_to_mask, remove_infection_islands, set_up_editor
from .scene_outputs import ct_of
from .scene_segments import find_segments
from .widget_tools import Workplace, explain_error, show_text

#: Tools shown, in this order; the others are in Slicer's module Segment Editor.
EFFECTS = ("Paint", "Draw", "Erase", "Threshold", "Level tracing", "Scissors", "Islands", "Smoothing", "Margin")

#: Those that can take voxels away; not shown where Slicer would add these to the infection.
TAKING_AWAY = ("Erase", "Scissors", "Islands")

UNDO_STATES = 10


class CorrectSection:
    """Sets the editor up, and removes islands."""

    def __init__(self, place: Workplace) -> None:
        """Work in `place`."""
        self._place, self._ui = place, place.ui
        self._editor: Any = None
        self._set_up: Callable[[], None] | None = None
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
        """Show what can be done now."""
        reason = self._why_not()
        for name in ("editInfectionButton", "editLungsButton", "islandButton"):
            self._place.allow(name, unless=reason)
        if reason or not self._edits_the_chosen_one():
            self._put_down()
        confined = (self._only_inside_infection(), self._chosen_range())
        if confined != self._confined:
            self._confined = confined
            self._renew()
        self._offer_tools()
        self._offer_keys()

    def edit_infection(self) -> None:
        """Take up the infection, inside the lungs or itself, with the brush."""
        self._begin(lambda: self._set_editor(mask=EditMask.LUNGS, segments=("infection",)))

    def edit_lungs(self) -> None:
        """Take up the left lung, everywhere or inside the infection, with the brush."""
        self._begin(lambda: self._set_editor(mask=EditMask.EVERYWHERE, segments=("left_lung", "right_lung")))

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
        except CovidSegError as error:
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
        """Set the editor up again: with a segment that was taken away, Slicer forgets the choice and the mask of it."""
        self._renew()

    def scene_closes(self) -> None:
        """Let go of the scene."""
        self._put_down()
        self._say("")
        if self._editor is not None:
            self._editor.setMRMLScene(None)

    def close(self) -> None:
        """Listen to the editor and its keys no longer."""
        self._stop_watching()
        self._on_show = False
        self._offer_keys()

    def scene_opened(self) -> None:
        """Follow the scene again, after it was closed; a scene that was read set the editor up as it was saved."""
        self._put_down()
        if self._editor is not None:
            self._connect_editor()

    def enter(self) -> None:
        """Listen to the editor's keys while the panel is on show; to the views it listens while a tool is in hand."""
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
            return _("Segment a CT first, or choose a result above.")
        if "infection" not in find_segments(segmentation):
            return _("This segmentation has no infection segment. Segment the CT first.")
        if ct_of(segmentation) is None:
            return _("The CT of this segmentation is not in the scene.")
        if not segmentation.GetSelectable():
            return _("The segmentation '{name}' is locked. Unlock it first.").format(name=segmentation.GetName())
        return ""

    def _begin(self, set_up: Callable[[], None]) -> None:
        if self._why_not():
            self.refresh()
            return
        self._ensure_editor()
        self._set_up = set_up
        self._renew()
        self._offer_tools()
        self._offer_keys()
        if self._edited is not None:
            self._editor.setActiveEffectByName("Paint")

    def _renew(self) -> None:
        """Set the editor up as it was chosen, confined as is chosen now."""
        self._edited = None
        if self._set_up is None:
            return
        try:
            self._set_up()
        except CovidSegError as error:
            self._say(explain_error(error), role="error")
            return
        self._say("")
        self._edited = self._place.segmentation()

    def _edits_the_chosen_one(self) -> bool:
        """Tell whether the editor works on the chosen result, if on any: its own hidden list chooses one, too."""
        if self._edited is None:
            return True
        return self._place.segmentation() is self._edited is self._editor.segmentationNode()

    def _offer_tools(self) -> None:
        """Offer the editor's tools only as set up here: by itself it lets a segment take voxels from the others."""
        ready = self._edited is not None
        if self._editor is not None and self._editor.readOnly == ready:
            self._editor.enabled = ready
            self._editor.readOnly = not ready  # lays the tool down; else the keys would still take one up
        self._leave_out_harmful_tools()

    def _offer_keys(self) -> None:
        """Listen to the editor's keys while the chosen result can be corrected, and the editor works on no other one.

        Its undo knows neither locks nor read-only; by a key it would change what is not on show.
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
        """Show the tools that do what they promise with the segment and the mask of now."""
        if self._edited is None:
            return
        node = self._editor.mrmlSegmentEditorNode()
        harmful = TAKING_AWAY if erasing_adds_to_mask(node) else ()
        tools = [name for name in EFFECTS if name not in harmful]
        if tools == list(self._editor.effectNameOrder()):
            return
        in_hand = node.GetActiveEffectName()
        self._editor.setEffectNameOrder(tools)
        # The space key brings back the tool before this one, shown or not: let that be the brush.
        for name in ("Paint", "", in_hand if in_hand in tools else ""):
            self._editor.setActiveEffectByName(name)

    def _set_editor(self, *, mask: EditMask, segments: tuple[str, ...]) -> None:
        """Set the editor up for the first of these segments that is there."""
        segmentation = self._place.segmentation()
        if segmentation is None:
            return
        found = find_segments(segmentation)
        segment_id = next((found[name] for name in segments if name in found), None)
        if segment_id is None:
            raise CovidSegError(_("Both lung segments are missing. Segment the CT again."))
        set_up_editor(
            self._place.logic.context,
            segmentation_node=segmentation,
            volume_node=ct_of(segmentation),
            segment_id=segment_id,
            mask=EditMask.INFECTION if self._only_inside_infection() else mask,
            range_hu=self._chosen_range(),
        )

    def _only_inside_infection(self) -> bool:
        parameters = self._place.parameters
        return parameters is not None and bool(parameters.insideInfection)

    def _chosen_range(self) -> tuple[int, int] | None:
        """Return the range of HU that painting is confined to, None for any."""
        parameters = self._place.parameters
        if parameters is None or not parameters.rangeEnabled:
            return None
        return parameters.rangeFromHu, parameters.rangeToHu

    def _ensure_editor(self) -> None:
        """Make the editor when it is first needed; it is a large widget."""
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
        self._on_show = True  # somebody pressed a button; a panel that is reloaded is not entered anew
        self._offer_tools()

    def _connect_editor(self) -> None:
        context = self._place.logic.context
        node = editor_node(context)
        _name_no_tool(node)
        self._editor.setMRMLScene(context.scene)
        self._editor.setMRMLSegmentEditorNode(node)
        self._stop_watching()
        # Not the editor's signal: by its keys another segment is chosen without one.
        self._watched = node, node.AddObserver("ModifiedEvent", self._leave_out_harmful_tools)

    def _stop_watching(self) -> None:
        if self._watched is not None:
            node, tag = self._watched
            node.RemoveObserver(tag)
            self._watched = None

    def _put_down(self) -> None:
        """Lay the tool down, and forget what it was meant for."""
        self._set_up = self._edited = None
        self._lay_tool_down()

    def _lay_tool_down(self) -> None:
        if self._editor is not None:
            _name_no_tool(self._editor.mrmlSegmentEditorNode())

    def _save_state(self) -> None:
        """Let the editor's undo bring back what is changed next."""
        self._ensure_editor()
        self._editor.setSegmentationNode(self._place.segmentation())
        self._offer_keys()
        save = getattr(self._editor, "saveStateForUndo", None)
        if save is not None:
            save()

    def _say(self, text: str, *, role: str = "") -> None:
        show_text(self._ui.correctStatusLabel, text, role=role)


def _name_no_tool(node: Any) -> None:
    """Lay the tool down that an editor's node names, in hand or not: read with a scene, Slicer takes it up later."""
    if node is not None and node.GetActiveEffectName():
        node.SetActiveEffectName("")
