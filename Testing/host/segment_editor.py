"""`slicer.qMRMLSegmentEditorWidget`: what a panel sets on it, over a real `vtkMRMLSegmentEditorNode`.

No effect paints here; a test edits the segments itself.
"""

from __future__ import annotations

import weakref
from typing import Any

from host_errors import HostError
from mrml_widgets import qMRMLWidget
from PySide6 import QtWidgets
from PySide6.QtCore import Signal

EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Fill between slices", "Margin")
EFFECTS += ("Hollow", "Smoothing", "Scissors", "Islands", "Logical operators", "Mask volume")


class Effect:
    """The active effect; its parameters are kept as text in the editor node, as in Slicer."""

    def __init__(self, name: str, node: Any) -> None:
        self.name = name
        self._node = node

    def setParameter(self, name: str, value: Any) -> None:
        """Set a parameter."""
        self._node.SetAttribute(f"{self.name}.{name}", str(value))

    def parameter(self, name: str) -> str:
        """Return a parameter."""
        return self._node.GetAttribute(f"{self.name}.{name}") or ""


class qMRMLSegmentEditorWidget(qMRMLWidget):  # noqa: N801
    """The editor as an element of a panel."""

    currentSegmentIDChanged = Signal(str)
    activeEffectChanged = Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._history: Any = None
        self._effect: Effect | None = None
        self._watched: Any = None
        self._order: tuple[str, ...] = EFFECTS
        self._unordered = True
        self.shortcuts = False
        self.undoStates = 0
        self.hidden: set[str] = set()
        QtWidgets.QVBoxLayout(self).addWidget(QtWidgets.QLabel("Segment Editor of Slicer"))

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        """Keep the editor's state in a node."""
        if node is not self._node:
            self._node = node
            follow = weakref.WeakMethod(self._follow)
            node.AddObserver("ModifiedEvent", lambda *_: (alive := follow()) and alive())

    def mrmlSegmentEditorNode(self) -> Any:
        """Return the node."""
        return self._node

    def _follow(self) -> None:
        """Watch the segmentation that is edited."""
        import slicer

        node = self.segmentationNode()
        if node is not self._watched:
            self._watched = node
            look = weakref.WeakMethod(self._segment_removed)
            if node is not None:
                event = slicer.vtkSegmentation.SegmentRemoved
                node.AddObserver(event, lambda caller, _event: (alive := look()) and alive(caller))

    def _segment_removed(self, node: Any) -> None:
        """Forget, as Slicer does, what was chosen of a segment that is gone: the tool is laid down, the mask lifted."""
        import slicer

        if node is not self.segmentationNode():
            return
        modes, segmentation = slicer.vtkMRMLSegmentationNode, node.GetSegmentation()
        inside_one = self._node.GetMaskMode() == modes.EditAllowedInsideSingleSegment
        if inside_one and segmentation.GetSegmentIndex(self._node.GetMaskSegmentID()) < 0:
            self._node.SetMaskMode(modes.EditAllowedEverywhere)
        if segmentation.GetSegmentIndex(self._node.GetSelectedSegmentID() or "") < 0:
            self._node.SetSelectedSegmentID(None)
            self.setActiveEffectByName("")

    def setSegmentationNode(self, node: Any) -> None:
        """Edit a segmentation."""
        self._need_node().SetAndObserveSegmentationNode(node)

    def segmentationNode(self) -> Any:
        """Return the segmentation that is edited."""
        return self._node.GetSegmentationNode() if self._node is not None else None

    def setSourceVolumeNode(self, node: Any) -> None:
        """Threshold by a volume's voxels."""
        self._need_node().SetAndObserveSourceVolumeNode(node)

    def sourceVolumeNode(self) -> Any:
        """Return the volume."""
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setCurrentSegmentID(self, segment_id: str) -> None:
        """Choose the segment to edit."""
        self._need_node().SetSelectedSegmentID(segment_id)
        self.currentSegmentIDChanged.emit(segment_id)

    def currentSegmentID(self) -> str:
        """Return the chosen segment's ID."""
        return self._node.GetSelectedSegmentID() if self._node is not None else ""

    def setActiveEffectByName(self, name: str) -> None:
        """Take up a tool; an empty name or "None" lays it down."""
        if name in ("", "None"):
            self._effect = None
        elif name in EFFECTS:
            self._effect = Effect(name, self._need_node())
        else:
            raise HostError(f"the Segment Editor has no effect '{name}'")
        self._need_node().SetActiveEffectName(name if self._effect else "")
        self.activeEffectChanged.emit()

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

    def setMaximumNumberOfUndoStates(self, count: int) -> None:
        """Allow so many steps to be undone."""
        self.undoStates = count

    def saveStateForUndo(self) -> None:
        """Keep the segments as they are for `undo`."""
        self._own_history().SaveState()

    def undo(self) -> None:
        """Bring the segments back as they were."""
        self._own_history().RestorePreviousState()

    def redo(self) -> None:
        """Take `undo` back."""
        self._own_history().RestoreNextState()

    def _own_history(self) -> Any:
        """Return the history (real) of the segmentation that is edited."""
        import slicer

        node = self.segmentationNode()
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

    def setAddRemoveSegmentButtonsVisible(self, visible: bool) -> None:
        """Show or hide the buttons that add and remove segments."""
        self._show("addremove", visible)

    def installKeyboardShortcuts(self, parent: Any = None) -> None:
        """Listen to the editor's keys."""
        self.shortcuts = True

    def uninstallKeyboardShortcuts(self) -> None:
        """Stop listening to the editor's keys."""
        self.shortcuts = False

    def setupViewObservations(self) -> None:
        """Listen to the views."""

    def removeViewObservations(self) -> None:
        """Stop listening to the views."""

    def updateWidgetFromMRML(self) -> None:
        """Show what the nodes say."""

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
