"""Loads .ui files as Slicer does, but strictly: every class, property, signal and slot must be known.

Qt's own loader builds layouts and Qt's widgets. Stand-ins (ctk*, qMRML*) are made here, their own properties
are set here, and so are the connections: a widget that the file does not connect to the scene gets no scene.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pythonqt
from host_errors import HostError
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtUiTools import QUiLoader

ONLY_IN_DESIGNER = {("Line", "orientation"), ("QLabel", "buddy")}
"""(class, name) of what a .ui calls a property although Qt's class has none of this name."""


class UiLoader:
    """`qt.QUiLoader`, as far as `slicer.util.loadUI` needs it."""

    stand_ins: dict[str, type] = {}  # noqa: RUF012 - class name in the file -> class; filled by the host

    def load(self, file: Any, parent: Any = None) -> QtWidgets.QWidget:
        """Return the widget that a file describes; HostError for anything in it that is unknown."""
        path = file.fileName() if isinstance(file, QtCore.QFile) else file
        if isinstance(file, QtCore.QFile):
            file.close()
        return load_ui(Path(path), stand_ins=self.stand_ins)


def load_ui(path: Path, *, stand_ins: dict[str, type]) -> QtWidgets.QWidget:
    """Return the top widget of a .ui file.

    Raises:
        HostError: An unknown class, property, signal, slot or object, or a name that is used twice.
    """
    tree = ElementTree.parse(path)
    root = tree.getroot()
    _check_names(root, path=path)
    own = _take_own_properties(root, stand_ins=stand_ins, path=path)
    connections = root.find("connections")
    if connections is not None:
        root.remove(connections)
    loader = _Loader(stand_ins)
    text = ElementTree.tostring(root)
    buffer = QtCore.QBuffer()
    buffer.setData(text)
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    loader.setWorkingDirectory(QtCore.QDir(str(path.parent)))
    widget = loader.load(buffer)
    if loader.problem is not None:
        raise loader.problem
    if widget is None:
        raise HostError(f"{path}: {loader.errorString()}")
    found = {child.objectName: child for child in [widget, *widget.findChildren(QtCore.QObject)]}
    for label in root.iterfind(".//property[@name='buddy']/cstring"):
        if label.text not in found:
            raise HostError(f"{path}: a label's buddy '{label.text}' is not in the file")
    for name, attribute, value in own:
        setattr(found[name], attribute, value)
    for connection in connections if connections is not None else ():
        _connect(connection, found=found, path=path)
    return widget


class _Loader(QUiLoader):
    """Qt's loader, with stand-ins for Slicer's classes. Objects are made in Python, so that Python keeps them."""

    def __init__(self, stand_ins: dict[str, type]) -> None:
        super().__init__()
        self.stand_ins = stand_ins
        self.problem: HostError | None = None

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> QtWidgets.QWidget:
        cls = self.stand_ins.get(class_name) or _qt_widget(class_name)
        if cls is None:
            if class_name not in ("Line",):
                self.problem = self.problem or HostError(f"the host does not know the widget class {class_name}")
            return super().createWidget(class_name if class_name == "Line" else "QWidget", parent, name)
        widget = cls(parent)
        widget.setObjectName(name)
        return widget


def _qt_widget(class_name: str) -> type | None:
    cls = getattr(QtWidgets, class_name, None)
    return cls if isinstance(cls, type) and issubclass(cls, QtWidgets.QWidget) else None


def _check_names(root: ElementTree.Element, *, path: Path) -> None:
    names = [element.get("name", "") for tag in ("widget", "layout", "action") for element in root.iter(tag)]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise HostError(f"{path}: names used twice: {', '.join(twice)}")


def _take_own_properties(
    root: ElementTree.Element, *, stand_ins: dict[str, type], path: Path
) -> list[tuple[str, str, Any]]:
    """Check all properties, and take out those that stand-ins declare in Python: (object, property, value)."""
    own = []
    for element in root.iter("widget"):
        class_name = element.get("class", "")
        cls = stand_ins.get(class_name) or _qt_widget(class_name)
        if cls is None and class_name != "Line":
            raise HostError(f"{path}: the host does not know the widget class {class_name}")
        known = pythonqt.qt_properties(cls or QtWidgets.QFrame)
        for entry in element.findall("property"):
            name = entry.get("name", "")
            if entry.get("stdset") == "0" and name not in known and not hasattr(cls, name):
                continue  # a dynamic property
            if name in known or (class_name, name) in ONLY_IN_DESIGNER:
                continue
            if not isinstance(getattr(cls, name, None), property):
                raise HostError(f"{path}: {class_name} '{element.get('name')}' has no property '{name}'")
            own.append((element.get("name", ""), name, _value(entry, cls=cls, path=path)))
            element.remove(entry)
    return own


def _value(entry: ElementTree.Element, *, cls: Any, path: Path) -> Any:
    (content,) = list(entry)
    text = content.text or ""
    convert: dict[str, Callable[[], Any]] = {
        "bool": lambda: text == "true",
        "number": lambda: int(text),
        "double": lambda: float(text),
        "string": lambda: text,
        "cstring": lambda: text,
        "stringlist": lambda: tuple(string.text or "" for string in content),
        "enum": lambda: _enum(cls, text),
        "set": lambda: [_enum(cls, part) for part in text.split("|")],
        "color": lambda: QtGui.QColor(*(int(content.findtext(part, "0")) for part in ("red", "green", "blue"))),
    }
    if content.tag not in convert:
        raise HostError(f"{path}: the host cannot read a property of kind <{content.tag}>")
    return convert[content.tag]()


def _enum(cls: type, text: str) -> Any:
    name = text.rpartition("::")[2]
    if not hasattr(cls, name):
        raise HostError(f"{cls.__name__} has no enumeration value {name}")
    return getattr(cls, name)


def _connect(connection: ElementTree.Element, *, found: dict[str, Any], path: Path) -> None:
    sender, signal, receiver, slot = (connection.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot"))
    for name in (sender, receiver):
        if name not in found:
            raise HostError(f"{path}: a connection names '{name}', which is not in the file")
    target = found[receiver]
    slot_name = slot.partition("(")[0]
    if not pythonqt.is_known(target, slot_name) or not callable(getattr(target, slot_name)):
        raise HostError(f"{path}: {type(target).__name__} '{receiver}' has no slot {slot}")
    signal_arguments, slot_arguments = (text.partition("(")[2].rstrip(")") for text in (signal, slot))
    if slot_arguments and not signal_arguments.startswith(slot_arguments):
        raise HostError(f"{path}: {signal} does not fit {slot}")
    function = getattr(target, slot_name)
    pythonqt.connect(found[sender], signal, function if slot_arguments else lambda: function())
