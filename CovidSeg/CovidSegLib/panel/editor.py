"""Slicer's Segment Editor inside the panel, held to one segmentation although it changes by itself.

A list that is hidden makes it edit another segmentation, a loaded scene brings the tool that was in hand, keys work in
any view, and some tools change other segments than the selected one. What may be corrected is decided in `correct`.
"""

from __future__ import annotations

from typing import Any

from ..scene import SceneContext
from ..scenes.correct import EditMask, clear_tool, editor_node, erasing_adds_to_mask, set_up_editor

#: Tools shown, in this order; the others are in Slicer's module Segment Editor.
EFFECTS = ("Paint", "Draw", "Erase", "Threshold", "Level tracing", "Scissors", "Islands", "Smoothing", "Margin")

#: Tools that take voxels away; hidden where Slicer would add these to the infection.
TAKING_AWAY = ("Erase", "Scissors", "Islands")

UNDO_STATES = 10


class Editor:
    """The editor: `make` it before `set_up` and `save_state`; all else may be asked of it also before that.

    Attributes:
        widget: The `qMRMLSegmentEditorWidget`; None before it is made.
        ready_for: The segmentation that it is set up for; without one it offers no tools.
    """

    def __init__(self, context: SceneContext, *, inside: Any) -> None:
        """Edit in the scene of `context`; the editor's widget will be inside another one, which has a layout."""
        self._context, self._inside = context, inside
        self.widget: Any = None
        self.ready_for: Any = None
        self._hears_keys = False
        self._watched: tuple[Any, int] | None = None  # the editor's node, with the tag of the observer

    def make(self) -> None:
        """Create the widget, a large one, when it is first needed."""
        if self.widget is not None:
            return
        import slicer

        self.widget = slicer.qMRMLSegmentEditorWidget()
        self.widget.setMaximumNumberOfUndoStates(UNDO_STATES)
        self.widget.setSegmentationNodeSelectorVisible(False)
        self.widget.setSourceVolumeNodeSelectorVisible(False)
        self.widget.setSwitchToSegmentationsButtonVisible(False)
        self.widget.setEffectNameOrder(list(EFFECTS))
        self.widget.unorderedEffectsVisible = False
        self.connect_scene()
        self._inside.layout().addWidget(self.widget)
        self._offer_tools()

    def connect_scene(self) -> None:
        """Edit in the present scene, without the tool that was in hand when it was saved."""
        if self.widget is None:
            return
        node = editor_node(self._context)
        clear_tool(node)
        self.widget.setMRMLScene(self._context.scene)
        self.widget.setMRMLSegmentEditorNode(node)
        self._stop_watching()
        # The node, because the editor sends no signal when its keys select another segment.
        self._watched = node, node.AddObserver("ModifiedEvent", self._leave_out_harmful_tools)

    def disconnect_scene(self) -> None:
        """Let go of the scene."""
        if self.widget is not None:
            self.widget.setMRMLScene(None)

    def close(self) -> None:
        """Stop listening to the editor's node and keys."""
        self._stop_watching()
        self.hear_keys(only_for=None)

    def set_up(
        self,
        segmentation: Any,
        *,
        volume: Any,
        segment_id: str,
        mask: EditMask,
        range_hu: tuple[int, int] | None,
    ) -> None:
        """Offer the tools for one segment, as `set_up_editor` does.

        Raises:
            InputError: As `set_up_editor`; `put_down` the editor then.
        """
        self.ready_for = None  # until all of it is set up, the list of tools does not follow
        set_up_editor(
            self._context,
            segmentation_node=segmentation,
            volume_node=volume,
            segment_id=segment_id,
            mask=mask,
            range_hu=range_hu,
        )
        self.ready_for = segmentation
        self._offer_tools()

    def has_strayed_from(self, segmentation: Any) -> bool:
        """Tell whether it is set up for another segmentation, or has gone over to another one by itself."""
        if self.ready_for is None:
            return False
        return not (segmentation is self.ready_for is self.widget.segmentationNode())

    def put_down(self) -> None:
        """Lay the tool down, and offer none until it is set up again."""
        self.ready_for = None
        self.lay_tool_down()
        self._offer_tools()

    def take_up_brush(self) -> None:
        """Take up the brush, if it is set up."""
        if self.ready_for is not None:
            self.widget.setActiveEffectByName("Paint")

    def lay_tool_down(self) -> None:
        """Lay the tool down, so that no click in a view paints."""
        if self.widget is not None:
            clear_tool(self.widget.mrmlSegmentEditorNode())

    def leave_views(self) -> None:
        """Lay the tool down, and leave the views to others."""
        self.lay_tool_down()
        if self.widget is not None:
            self.widget.removeViewObservations()

    def hear_keys(self, *, only_for: Any) -> None:
        """Let the keys work if this is the segmentation that is edited; with None, never.

        The editor's undo respects neither locks nor read-only: its key would change a segmentation that is not on show.
        """
        if self.widget is None:
            return
        hears = only_for is not None and self.widget.segmentationNode() is only_for
        if hears == self._hears_keys:
            return
        self._hears_keys = hears
        if hears:
            self.widget.installKeyboardShortcuts()
        else:
            self.widget.uninstallKeyboardShortcuts()

    def save_state(self, segmentation: Any) -> None:
        """Save a segmentation for the editor's undo."""
        self.widget.setSegmentationNode(segmentation)
        save = getattr(self.widget, "saveStateForUndo", None)
        if save is not None:
            save()

    def _offer_tools(self) -> None:
        """Enable the editor only while it is set up here: by default painting takes voxels from other segments."""
        ready = self.ready_for is not None
        if self.widget is not None and self.widget.readOnly == ready:
            self.widget.enabled = ready
            self.widget.readOnly = not ready  # also lays the tool down, and keeps the keys from taking one up
        self._leave_out_harmful_tools()

    def _leave_out_harmful_tools(self, caller: Any = None, event: Any = None) -> None:
        """Hide the tools that would change the infection, too, with the present segment and mask."""
        if self.ready_for is None:
            return
        node = self.widget.mrmlSegmentEditorNode()
        harmful = TAKING_AWAY if erasing_adds_to_mask(node) else ()
        tools = [name for name in EFFECTS if name not in harmful]
        if tools == list(self.widget.effectNameOrder()):
            return
        in_hand = node.GetActiveEffectName()
        self.widget.setEffectNameOrder(tools)
        # The space key brings back the previous tool, hidden or not: make that the brush.
        for name in ("Paint", "", in_hand if in_hand in tools else ""):
            self.widget.setActiveEffectByName(name)

    def _stop_watching(self) -> None:
        if self._watched is not None:
            node, tag = self._watched
            node.RemoveObserver(tag)
            self._watched = None
