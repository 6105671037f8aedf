"""`slicer.qMRMLSegmentEditorWidget`: what a panel sets on it, over a real `vtkMRMLSegmentEditorNode`.

No effect paints here; a test edits the segments itself.
"""

from __future__ import annotations

import weakref
from typing import Any

from host_errors import HostError
from mrml_widgets import qMRMLNodeComboBox, qMRMLWidget
from PySide6 import QtWidgets
from PySide6.QtCore import Signal
from segment_effects import EFFECTS, Effect


class qMRMLSegmentEditorWidget(qMRMLWidget):  # noqa: N801
    """The editor as an element of a panel."""

    activeEffectChanged = Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._history: Any = None
        self._effect: Effect | None = None
        self._watched: Any = None
        self._scene_observed: Any = None
        self._order: tuple[str, ...] = EFFECTS
        self._unordered = True
        self.shortcuts = self.observes = self._read_only = False
        self.undoStates = 0
        self.hidden: set[str] = set()
        QtWidgets.QVBoxLayout(self).addWidget(QtWidgets.QLabel("Segment Editor of Slicer"))
        # Without an entry "none" it always chooses a segmentation, hidden or not.
        self._list = qMRMLNodeComboBox(self)
        self._list.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._list.hide()
        self._list.currentNodeChanged.connect(self._listed)

    def setMRMLScene(self, scene: Any) -> None:
        """Follow a scene."""
        if scene is self._scene:
            return
        import slicer

        super().setMRMLScene(scene)
        show = weakref.WeakMethod(self._show_source)
        slicer.app.layoutManager().followers.append(lambda: (alive := show()) and alive())
        self._list.blockSignals(True)
        self._list.setMRMLScene(scene)
        self._list.blockSignals(False)
        self.updateWidgetFromMRML()
        if scene not in (None, self._scene_observed):
            self._scene_observed, catch_up = scene, weakref.WeakMethod(self._batch_ended)
            tag = scene.AddObserver(scene.EndBatchProcessEvent, lambda *_: (alive := catch_up()) and alive())
            self.destroyed.connect(lambda: scene.RemoveObserver(tag))

    def _batch_ended(self) -> None:
        """Do what was left undone while a scene was read, after its `EndImportEvent`: the list first, then the node."""
        if self._scene is None:
            return
        if self._node is not None:
            self.setSegmentationNode(self._list.currentNode())
        self.updateWidgetFromMRML()

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        """Keep the editor's state in a node."""
        if node is not self._node:
            self._node = node
            follow = weakref.WeakMethod(self.updateWidgetFromMRML)
            node.AddObserver("ModifiedEvent", lambda *_: (alive := follow()) and alive())
            self.updateWidgetFromMRML()

    def mrmlSegmentEditorNode(self) -> Any:
        """Return the node."""
        return self._node

    def updateWidgetFromMRML(self) -> None:
        """Do what the node says; nothing without a scene, or while it is closed or read: a tool stays in hand then."""
        if self._node is None or self._scene is None or self._scene.IsClosing() or self._scene.IsBatchProcessing():
            return
        self._watch_segmentation()
        self._lift_mask_of_no_segment()
        name = self._node.GetActiveEffectName()
        if name != (self._effect.name if self._effect else ""):
            self._effect = Effect(name) if name else None
            self.observes = bool(name)
            self.activeEffectChanged.emit()

    def _watch_segmentation(self) -> None:
        """Watch the segmentation that is edited, and choose the first segment of another one."""
        import slicer

        node = self._edited()
        self._list.blockSignals(True)
        self._list.setCurrentNode(node)
        self._list.blockSignals(False)
        if node is self._watched:
            return
        self._watched = node
        if node is not None:
            look = weakref.WeakMethod(self._segment_removed)
            event = slicer.vtkSegmentation.SegmentRemoved
            node.AddObserver(event, lambda caller, _event: (alive := look()) and alive(caller))
            if node.GetSegmentation().GetNumberOfSegments():
                self._node.SetSelectedSegmentID(node.GetSegmentation().GetNthSegmentID(0))

    def _listed(self, node: Any) -> None:
        """Edit what the list chose: the first segmentation there is, another one if that is removed."""
        if self._scene is not None and not self._scene.IsBatchProcessing() and self._node is not None:
            self.setSegmentationNode(node)

    def _segment_removed(self, node: Any) -> None:
        """Forget, as Slicer does, what was chosen of a segment that is gone: the tool is laid down, the mask lifted."""
        if node is not self._edited():
            return
        self._lift_mask_of_no_segment()
        if node.GetSegmentation().GetSegmentIndex(self._node.GetSelectedSegmentID() or "") < 0:
            self._node.SetSelectedSegmentID(None)
            self.setActiveEffectByName("")

    def _lift_mask_of_no_segment(self) -> None:
        """Let everything be edited if it is to be inside one segment, and that is not there, or not named yet."""
        import slicer

        modes, node = slicer.vtkMRMLSegmentationNode, self._edited()
        inside_one = self._node.GetMaskMode() == modes.EditAllowedInsideSingleSegment
        mask_id = self._node.GetMaskSegmentID() or ""
        if inside_one and node is not None and node.GetSegmentation().GetSegmentIndex(mask_id) < 0:
            self._node.SetMaskMode(modes.EditAllowedEverywhere)

    def setSegmentationNode(self, node: Any) -> None:
        """Edit a segmentation; the tool is laid down if it is another one."""
        if node is not self._edited():
            self._need_node().SetAndObserveSegmentationNode(node)
            self.setActiveEffectByName("")

    def segmentationNode(self) -> Any:
        """Return the segmentation in the list: None without a scene, and not yet that of the node while one is read."""
        return self._list.currentNode()

    def _edited(self) -> Any:
        return self._node.GetSegmentationNode() if self._node is not None else None

    def sourceVolumeNode(self) -> Any:
        """Return the volume."""
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setActiveEffectByName(self, name: str) -> None:
        """Take up a tool; an empty name lays it down."""
        if name and name not in EFFECTS:
            raise HostError(f"the Segment Editor has no effect '{name}'")
        node = self._need_node() if name else self._node
        if node is not None:
            node.SetActiveEffectName(name)

    def activeEffect(self) -> Effect | None:
        """Return the tool in use."""
        return self._effect

    def setEffectNameOrder(self, names: Any) -> None:
        """Show the tools in this order."""
        unknown = [name for name in names if name not in EFFECTS]
        if unknown:
            raise HostError(f"the Segment Editor has no effects {unknown}")
        self._order = tuple(names)

    def effectNameOrder(self) -> tuple[str, ...]:
        """Return the order of tools."""
        return self._order

    unorderedEffectsVisible = property(
        lambda self: self._unordered, lambda self, value: setattr(self, "_unordered", bool(value))
    )

    def _set_read_only(self, read_only: bool) -> None:
        self._read_only = bool(read_only)
        if read_only:
            self.setActiveEffectByName("")

    readOnly = property(lambda self: self._read_only, _set_read_only)

    def press_key(self, number: int) -> None:
        """Take up the tool of a number key, in any view: whether the editor is enabled or not, but not read-only."""
        if self.shortcuts and not self._read_only:
            self.setActiveEffectByName(self._order[number - 1])

    def press_undo_key(self) -> None:
        """Undo by Z or Ctrl+Z, in any view: whether the editor is read-only, or the segmentation locked, or not."""
        if self.shortcuts:
            self.undo()

    def setMaximumNumberOfUndoStates(self, count: int) -> None:
        """Allow so many steps to be undone."""
        self.undoStates = count

    def saveStateForUndo(self) -> None:
        """Keep the segments as they are for `undo`."""
        self._own_history().SaveState()

    def undo(self) -> None:
        """Bring the segments back as they were."""
        self._own_history().RestorePreviousState()

    def _own_history(self) -> Any:
        """Return the history (real) of the segmentation that is edited."""
        import slicer

        node = self._edited()
        if node is None:
            raise HostError("the segment editor widget has no segmentation")
        if self._history is None or self._history.GetSegmentation() is not node.GetSegmentation():
            self._history = slicer.vtkSegmentationHistory()
            self._history.SetMaximumNumberOfStates(self.undoStates)
            self._history.SetSegmentation(node.GetSegmentation())
        return self._history

    def setSegmentationNodeSelectorVisible(self, visible: bool) -> None:
        """Show or hide the segmentation selector."""
        self._show("segmentation", visible)

    def setSourceVolumeNodeSelectorVisible(self, visible: bool) -> None:
        """Show or hide the volume selector."""
        self._show("source", visible)

    def setSwitchToSegmentationsButtonVisible(self, visible: bool) -> None:
        """Show or hide the button to the module Segmentations."""
        self._show("switch", visible)

    def installKeyboardShortcuts(self, parent: Any = None) -> None:
        """Listen to the editor's keys."""
        self.shortcuts = True

    def uninstallKeyboardShortcuts(self) -> None:
        """Stop listening to the editor's keys."""
        self.shortcuts = False

    def removeViewObservations(self) -> None:
        """Stop listening to the views."""
        self.observes = False

    def _show_source(self) -> None:
        """In another layout, show the volume that is edited by, if the views are listened to."""
        volume = self.sourceVolumeNode()
        if not self.observes or volume is None:
            return
        count = self._scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")
        for composite in (self._scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode") for n in range(count)):
            if volume.GetID() not in (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()):
                composite.SetBackgroundVolumeID(volume.GetID())
                composite.SetForegroundVolumeID(None)

    def _show(self, part: str, visible: bool) -> None:
        self.hidden = self.hidden - {part} if visible else self.hidden | {part}

    def _need_node(self) -> Any:
        if self._scene is None or self._node is None:
            raise HostError("the segment editor widget needs setMRMLScene and setMRMLSegmentEditorNode first")
        return self._node


class SegmentEditorModuleWidget:
    """`slicer.modules.segmenteditor.widgetRepresentation()`."""

    def __init__(self, scene: Any) -> None:
        self.editor = qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(scene)
        node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag("SegmentEditor")
        self.editor.setMRMLSegmentEditorNode(scene.AddNode(node))

    def self(self) -> SegmentEditorModuleWidget:
        """Return the module's Python widget."""
        return self
