"""Stand-ins for Slicer's MRML widgets, over the real scene.

A widget shows nothing until it is given a scene, by the .ui's connections or by `setMRMLScene`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from host_errors import HostAttributeError, HostError
from PySide6 import QtWidgets
from PySide6.QtCore import Signal


class qMRMLWidget(QtWidgets.QWidget):  # noqa: N801
    """A widget that knows the scene and tells its children when it changes."""

    mrmlSceneChanged = Signal(object)
    SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}  # noqa: RUF012

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        """Set the scene and tell who is connected."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


NODE_LIST_SETTINGS: dict[str, Any] = {
    "nodeTypes": (),
    "showHidden": False,
    "showChildNodeTypes": True,
    "hideChildNodeTypes": (),
    "addEnabled": True,
    "removeEnabled": True,
    "editEnabled": False,
    "renameEnabled": False,
    "noneEnabled": False,
    "noneDisplay": "None",
    "selectNodeUponCreation": True,
    "baseName": "",
    "interactionNodeSingletonTag": "",
}
"""Properties of a node list, with their values at first."""


class qMRMLSortFilterProxyModel:  # noqa: N801
    """What a node list leaves out by ID, whatever else it shows.

    As PythonQt has it: a property that is read as a tuple and set from a list; its C++ setter is no slot,
    and unknown. Other members of the model are not imitated.
    """

    hiddenNodeIDs: tuple[str, ...]

    def __init__(self, changed: Callable[[], None]) -> None:
        self.__dict__.update(hiddenNodeIDs=(), _changed=changed)

    def __getattr__(self, name: str) -> Any:
        raise HostAttributeError(f"qMRMLSortFilterProxyModel has no property, method or signal '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "hiddenNodeIDs":
            raise HostAttributeError(f"qMRMLSortFilterProxyModel has no property '{name}' that could be set")
        if not isinstance(value, list | tuple) or not all(isinstance(node_id, str) for node_id in value):
            raise HostError(f"qMRMLSortFilterProxyModel.hiddenNodeIDs is a list of texts, not {value!r}")
        if tuple(value) != self.hiddenNodeIDs:
            self.__dict__["hiddenNodeIDs"] = tuple(value)
            self._changed()


class qMRMLNodeComboBox(QtWidgets.QWidget):  # noqa: N801
    """Chooses a node of the scene, by class; follows nodes that come, go, and change their name.

    It is no `qMRMLWidget`, as in Slicer: of another scene it tells nobody.
    Nothing is chosen where "none" is allowed; else the first node is, as a combo box does.
    """

    currentNodeChanged = Signal(object)
    _currentNodeChangedBool = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    SIGNALS = {  # noqa: RUF012
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_currentNodeChangedBool",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
    }

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.combo = QtWidgets.QComboBox()
        self.combo.sizeAdjustPolicy = QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        row.addWidget(self.combo)
        self.setFocusProxy(self.combo)
        self._settings = dict(NODE_LIST_SETTINGS)
        self._model = qMRMLSortFilterProxyModel(self._refresh)
        self._shown: Any = None
        self._requested = ""
        self._watched: list[tuple[Any, int]] = []
        watched = self._watched
        self.destroyed.connect(lambda: _end(watched))
        self.combo.currentIndexChanged.connect(self._index_changed)
        self.combo.activated.connect(lambda: self.nodeActivated.emit(self.currentNode()))

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    def currentNode(self) -> Any:
        """Return the chosen node, or None."""
        node_id = self.combo.currentData
        return self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node; None, or a node that is not in the list, is the entry "none"."""
        if isinstance(node, str):
            raise HostError("setCurrentNode takes a node; setCurrentNodeID takes its ID")
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id: str) -> None:
        """Choose a node by ID."""
        if self._scene is None:
            self._requested = node_id  # chosen when the scene comes
        index = self.combo.findData(node_id) if node_id else -1
        self.combo.setCurrentIndex(index if index >= 0 else (0 if self.noneEnabled and self.combo.count else -1))

    def nodeCount(self) -> int:
        """Return how many nodes are in the list."""
        return self.combo.count - (1 if self.noneEnabled and self.combo.count else 0)

    def nodeFromIndex(self, index: int) -> Any:
        """Return a node of the list."""
        first = 1 if self.noneEnabled else 0
        return self._scene.GetNodeByID(self.combo.itemData(first + index))

    def sortFilterProxyModel(self) -> qMRMLSortFilterProxyModel:
        """Return what filters the list."""
        return self._model

    def setMRMLScene(self, scene: Any) -> None:
        """Show the nodes of a scene."""
        self._unwatch()
        self._scene = scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
                self._watch(scene, event, self._refresh)
        self._refresh()
        self.enabled = scene is not None
        requested, self._requested = self._requested, ""
        if requested and scene is not None:
            self.setCurrentNodeID(requested)

    def _watch(self, subject: Any, event: Any, function: Any) -> None:
        self._watched.append((subject, subject.AddObserver(event, lambda caller, _event: function())))

    def _unwatch(self) -> None:
        _end(self._watched)

    def _accepts(self, node: Any) -> bool:
        if node.GetID() in self._model.hiddenNodeIDs or (node.GetHideFromEditors() and not self.showHidden):
            return False
        if self.showChildNodeTypes:
            fits = any(node.IsA(name) for name in self.nodeTypes)
        else:
            fits = node.GetClassName() in self.nodeTypes
        return fits and not any(node.IsA(name) for name in self.hideChildNodeTypes)

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._accepts(node)]

    def _refresh(self) -> None:
        """Show the list as it is now; the choice stays if its node is still there."""
        wanted = [(node.GetID(), node.GetName()) for node in self._nodes()]
        if self.noneEnabled and self._scene is not None:
            wanted.insert(0, ("", self.noneDisplay))
        before, index_before = self.combo.currentData, self.combo.currentIndex
        rows = [node_id for node_id, _ in wanted]
        was_empty = self.combo.count == 0
        self.combo.blockSignals(True)
        self.combo.clear()
        for node_id, name in wanted:
            self.combo.addItem(name, node_id)
        if before in rows:
            row = rows.index(before)
        elif before and rows:  # a combo box goes to the entry before the one that went
            row = min(max(index_before - 1, 0), len(rows) - 1)
        else:
            row = 0 if rows and (was_empty or self.noneEnabled) else -1
        self.combo.setCurrentIndex(row)
        self.combo.blockSignals(False)
        self._index_changed()
        self._follow_names()

    def _follow_names(self) -> None:
        names = [entry for entry in self._watched if entry[0] is not self._scene]
        self._watched[:] = [entry for entry in self._watched if entry[0] is self._scene]
        _end(names)
        for node in self._nodes():
            self._watch(node, "ModifiedEvent", self._rename)

    def _rename(self) -> None:
        for row in range(self.combo.count):
            node = self._scene.GetNodeByID(self.combo.itemData(row) or "")
            if node is not None and self.combo.itemText(row) != node.GetName():
                self.combo.setItemText(row, node.GetName())

    def _index_changed(self) -> None:
        node = self.currentNode()
        node_id = node.GetID() if node is not None else ""
        if node_id != (self._shown or ""):
            self._shown = node_id
            self.currentNodeChanged.emit(node)
            self._currentNodeChangedBool.emit(node is not None)
            self.currentNodeIDChanged.emit(node_id)


def _end(watched: list[tuple[Any, int]]) -> None:
    for subject, tag in watched:
        subject.RemoveObserver(tag)
    watched.clear()


def _setting(name: str) -> Any:
    def write(self: Any, value: Any) -> None:
        self._settings[name] = tuple(value) if isinstance(self._settings[name], tuple) else value
        self._refresh()

    return property(lambda self: self._settings[name], write)


for _name in NODE_LIST_SETTINGS:
    setattr(qMRMLNodeComboBox, _name, _setting(_name))
qMRMLNodeComboBox.currentNodeID = property(
    lambda self: self.combo.currentData or "", lambda self, value: self.setCurrentNodeID(value)
)
