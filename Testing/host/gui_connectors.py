"""Which widget shows which kind of parameter: the table behind `connectGui`.

The widget's type must match exactly, as in Slicer, where a subclass is not recognised.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctk_widgets
import mrml_widgets
from host_errors import HostError
from PySide6 import QtWidgets


@dataclass
class Connector:
    """A widget bound to a parameter.

    Attributes:
        widget: The widget.
        signal: Its signal for a change, as an attribute's name.
        read: Returns the parameter's value from the widget.
        write: Shows a value in the widget.
    """

    widget: Any
    signal: str
    read: Callable[[], Any]
    write: Callable[[Any], None]

    def connect(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` on every change; return the function that ends this."""

        def relay(*_arguments: Any) -> None:
            changed()

        getattr(self.widget, self.signal).connect(relay)
        return lambda: getattr(self.widget, self.signal).disconnect(relay)


def connector(widget: Any, *, kind: Any, annotations: tuple[Any, ...]) -> Connector:
    """Return the connector of a widget and a parameter's type.

    Raises:
        HostError: Slicer has none for this pair, or an annotation that it needs is missing.
    """
    make = _maker(type(widget), kind)
    if make is None:
        raise HostError(f"Slicer cannot bind a {type(widget).__name__} to a parameter of type {kind}")
    return make(widget, kind, annotations)


def find(annotations: tuple[Any, ...], *names: str) -> Any:
    """Return the first annotation of one of these classes, or None."""
    return next((entry for entry in annotations if type(entry).__name__ in names), None)


def _maker(cls: type, kind: Any) -> Any:
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
    pairs = {
        (QtWidgets.QCheckBox, bool): _attribute("checked", "stateChanged"),
        (QtWidgets.QPushButton, bool): _attribute("checked", "toggled"),
        (QtWidgets.QSlider, int): _number,
        (QtWidgets.QSpinBox, int): _number,
        (QtWidgets.QDoubleSpinBox, float): _number,
        (ctk_widgets.ctkSliderWidget, float): _number,
        (QtWidgets.QLineEdit, str): _attribute("text", "textChanged"),
        (QtWidgets.QTextEdit, str): _attribute("plainText", "textChanged"),
        (ctk_widgets.ctkPathLineEdit, Path): _path,
    }
    if cls is QtWidgets.QComboBox and (is_enum or kind in (int, float, str, bool)):
        return _combo_enum if is_enum else _combo_choice
    if cls is mrml_widgets.qMRMLNodeComboBox and hasattr(kind, "IsTypeOf"):
        return _node
    return pairs.get((cls, kind))


def _attribute(name: str, signal: str) -> Any:
    def make(widget: Any, kind: Any, annotations: tuple[Any, ...]) -> Connector:
        return Connector(widget, signal, lambda: getattr(widget, name), lambda value: setattr(widget, name, value))

    return make


def _number(widget: Any, kind: Any, annotations: tuple[Any, ...]) -> Connector:
    for name, attribute in (("Decimals", "decimals"), ("SingleStep", "singleStep")):
        if entry := find(annotations, name):
            setattr(widget, attribute, entry.value)
    low, high = (find(annotations, "WithinRange", name) for name in ("Minimum", "Maximum"))
    if not (low and high) and type(widget) in (QtWidgets.QSlider, ctk_widgets.ctkSliderWidget):
        raise HostError(f"{widget.name}: a slider needs a parameter with a range")
    unbounded = 2**31 - 1 if kind is int else float("inf")
    widget.minimum = low.minimum if low else -unbounded
    widget.maximum = high.maximum if high else unbounded
    return Connector(widget, "valueChanged", lambda: widget.value, lambda value: setattr(widget, "value", value))


def _path(widget: Any, kind: Any, annotations: tuple[Any, ...]) -> Connector:
    def write(value: Any) -> None:
        widget.currentPath = str(value)

    return Connector(widget, "currentPathChanged", lambda: Path(widget.currentPath), write)


def _combo_choice(widget: Any, kind: Any, annotations: tuple[Any, ...]) -> Connector:
    choice = find(annotations, "Choice")
    if choice is None:
        raise HostError(f"{widget.name}: a combo box needs a parameter with Choice, or an Enum")
    return _combo(widget, [(str(value), value) for value in choice.choices])


def _combo_enum(widget: Any, kind: Any, annotations: tuple[Any, ...]) -> Connector:
    label = getattr(kind, "label", lambda member: member.name)
    return _combo(widget, [(label(member), member) for member in kind])


def _combo(widget: Any, entries: list[tuple[str, Any]]) -> Connector:
    values = [value for _, value in entries]
    widget.clear()
    widget.addItems([label for label, _ in entries])
    return Connector(
        widget,
        "currentIndexChanged",
        lambda: values[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", values.index(value)),
    )


def _node(widget: Any, kind: Any, annotations: tuple[Any, ...]) -> Connector:
    widget.nodeTypes = [kind.__name__]
    return Connector(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)
