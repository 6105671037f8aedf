"""The section Correct: Slicer's own Segment Editor, set up for lungs and infection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .errors import CovidSegError
from .scene_edit import EditMask, editor_node, remove_infection_islands, set_up_editor
from .scene_outputs import VOLUME_ROLE
from .scene_segments import find_segments
from .widget_tools import Workplace, explain_error, set_role, show_text

EFFECTS = ("Paint", "Draw", "Erase", "Threshold", "Level tracing", "Scissors", "Islands", "Smoothing", "Margin")
"""Tools shown, in this order; the others are in Slicer's module Segment Editor."""

UNDO_STATES = 10


class CorrectSection:
    """Sets the editor up, and removes islands."""

    def __init__(self, place: Workplace) -> None:
        """Work in `place`."""
        self._place, self._ui = place, place.ui
        self._editor: Any = None
        self._set_up: Callable[[], None] | None = None
        self._confined: tuple[bool, tuple[int, int] | None] = (False, None)
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
        if self._editor is not None:
            self._editor.enabled = not reason
            if self._editor.segmentationNode() is not self._place.segmentation() or reason:
                self._put_down()
        confined = (self._only_inside_infection(), self._chosen_range())
        if confined != self._confined:
            self._confined = confined
            self._renew()

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
        """Listen to the editor's keys no longer."""
        if self._editor is not None:
            self._editor.uninstallKeyboardShortcuts()

    def scene_opened(self) -> None:
        """Follow the scene again, after it was closed."""
        if self._editor is not None:
            self._connect_editor()

    def enter(self) -> None:
        """Listen to the editor's keys while the panel is on show."""
        if self._editor is not None:
            self._editor.installKeyboardShortcuts()
            self._editor.setupViewObservations()

    def exit(self) -> None:
        """Lay the tool down, so that no click in a view paints while another module is on show."""
        if self._editor is not None:
            self._put_down()
            self._editor.uninstallKeyboardShortcuts()
            self._editor.removeViewObservations()

    def _why_not(self) -> str:
        segmentation = self._place.segmentation()
        if segmentation is None:
            return _("Segment a CT first, or choose a result above.")
        if "infection" not in find_segments(segmentation):
            return _("This segmentation has no infection segment. Segment the CT first.")
        if segmentation.GetNodeReference(VOLUME_ROLE) is None:
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
        # Without the mask that was asked for no tool may be at hand.
        self._editor.setActiveEffectByName("Paint" if self._renew() else "")

    def _renew(self) -> bool:
        """Set the editor up as it was chosen, confined as is chosen now; tell whether it is set up."""
        if self._set_up is None:
            return False
        try:
            self._set_up()
        except CovidSegError as error:
            self._say(explain_error(error), role="error")
            return False
        self._say("")
        return True

    def _set_editor(self, *, mask: EditMask, segments: tuple[str, ...]) -> None:
        """Set the editor up for the first of these segments that is there."""
        segmentation = self._place.segmentation()
        if segmentation is None:
            return
        found = find_segments(segmentation)
        segment_id = next((found[name] for name in segments if name in found), None)
        if segment_id is None:
            raise CovidSegError(_("Both lung segments are missing. Segment the CT again."))
        node = set_up_editor(
            self._place.logic.context,
            segmentation_node=segmentation,
            volume_node=segmentation.GetNodeReference(VOLUME_ROLE),
            mask=EditMask.INFECTION if self._only_inside_infection() else mask,
            range_hu=self._chosen_range(),
        )
        node.SetSelectedSegmentID(segment_id)

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
        self.enter()

    def _connect_editor(self) -> None:
        context = self._place.logic.context
        self._editor.setMRMLScene(context.scene)
        self._editor.setMRMLSegmentEditorNode(editor_node(context))

    def _put_down(self) -> None:
        """Lay the tool down."""
        self._set_up = None
        if self._editor is not None and self._editor.activeEffect() is not None:
            self._editor.setActiveEffectByName("")

    def _save_state(self) -> None:
        """Let the editor's undo bring back what is changed next."""
        self._ensure_editor()
        self._editor.setSegmentationNode(self._place.segmentation())
        save = getattr(self._editor, "saveStateForUndo", None)
        if save is not None:
            save()

    def _say(self, text: str, *, role: str = "") -> None:
        set_role(self._ui.correctStatusLabel, role=role)
        show_text(self._ui.correctStatusLabel, text)
