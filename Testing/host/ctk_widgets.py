"""The module `ctk`: stand-ins for the widgets of the Common Toolkit that panels use."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ctk_path import ctkPathLineEdit
from host_errors import HostError
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Signal


class ctkCollapsibleButton(QtWidgets.QWidget):  # noqa: N801
    """A section with a header that folds; its layout is the one that the .ui gives it."""

    contentsCollapsed = Signal(bool)
    clicked = Signal(bool)
    toggled = Signal(bool)
    SIGNALS = {  # noqa: RUF012
        "contentsCollapsed(bool)": "contentsCollapsed",
        "clicked()": "clicked",
        "clicked(bool)": "clicked",
        "toggled(bool)": "toggled",
    }
    HEADER = 24

    def __init__(self, text: Any = None, parent: Any = None) -> None:
        super().__init__(parent if isinstance(text, str) else text)
        self._text = text if isinstance(text, str) else ""
        self._collapsed = False
        self._hidden: list[Any] = []
        self.setContentsMargins(0, self.HEADER, 0, 0)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    text = property(lambda self: self._text, _set_text)
    collapsed = property(lambda self: self._collapsed, lambda self, value: self.setCollapsed(value))
    checked = property(lambda self: not self._collapsed, lambda self, value: self.setCollapsed(not value))
    collapsedHeight = property(lambda self: 0, lambda self, value: None)
    flat = property(lambda self: True, lambda self, value: None)

    def setCollapsed(self, collapsed: bool) -> None:
        """Fold or unfold the section."""
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._fold()
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    def setText(self, text: str) -> None:
        """Set the header's text."""
        self.text = text

    def setChecked(self, checked: bool) -> None:
        """Unfold if checked."""
        self.setCollapsed(not checked)

    def click(self) -> None:
        """Fold or unfold, as a click on the header does."""
        self.setCollapsed(not self._collapsed)
        self.clicked.emit(not self._collapsed)

    def _fold(self) -> None:
        children = [child for child in self.children() if child.isWidgetType()]
        if self._collapsed:
            self._hidden = [child for child in children if not child.isHidden()]
        for child in self._hidden:
            child.setVisible(not self._collapsed)
        self.setMaximumHeight(self.HEADER if self._collapsed else 16777215)

    def mousePressEvent(self, event: Any) -> None:
        if event.position().y() <= self.HEADER:
            self.click()

    def keyPressEvent(self, event: Any) -> None:
        if event.key() == QtCore.Qt.Key.Key_Space:
            self.click()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self.HEADER)
        style = QtWidgets.QApplication.style()
        style.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = "\u25b6" if self._collapsed else "\u25bc"
        painter.drawText(
            option.rect.adjusted(8, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, f"{arrow}  {self._text}"
        )
        painter.end()


class ctkSliderWidget(QtWidgets.QWidget):  # noqa: N801
    """A slider with a spin box."""

    valueChanged = Signal(float)
    SIGNALS = {"valueChanged(double)": "valueChanged"}  # noqa: RUF012

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self.spin = QtWidgets.QDoubleSpinBox()
        self.setFocusProxy(self.spin)
        row.addWidget(self.slider, 1)
        row.addWidget(self.spin)
        self.spin.valueChanged.connect(self._spun)
        self.slider.valueChanged.connect(self._slid)
        self._fit()

    def _fit(self) -> None:
        steps = round((self.spin.maximum - self.spin.minimum) / (self.spin.singleStep or 1))
        self.slider.blockSignals(True)
        self.slider.setRange(0, max(steps, 0))
        self.slider.setValue(round((self.spin.value - self.spin.minimum) / (self.spin.singleStep or 1)))
        self.slider.blockSignals(False)

    def _spun(self, value: float) -> None:
        self._fit()
        self.valueChanged.emit(value)

    def _slid(self, position: int) -> None:
        self.spin.value = self.spin.minimum + position * self.spin.singleStep

    def _spin_property(name: str) -> Any:  # noqa: N805
        def write(self: Any, value: Any) -> None:
            setattr(self.spin, name, value)
            self._fit()

        return property(lambda self: getattr(self.spin, name), write)

    value = _spin_property("value")
    minimum = _spin_property("minimum")
    maximum = _spin_property("maximum")
    singleStep = _spin_property("singleStep")
    decimals = _spin_property("decimals")
    suffix = _spin_property("suffix")
    prefix = _spin_property("prefix")
    pageStep = property(lambda self: self.slider.pageStep, lambda self, value: None)
    tracking = property(lambda self: True, lambda self, value: None)

    def setValue(self, value: float) -> None:
        """Set the value."""
        self.value = value


class ctkRangeWidget(QtWidgets.QWidget):  # noqa: N801
    """Two spin boxes for the two ends of a range."""

    valuesChanged = Signal(float, float)
    SIGNALS = {"valuesChanged(double,double)": "valuesChanged"}  # noqa: RUF012

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.low, self.high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        self.setFocusProxy(self.low)
        for spin in (self.low, self.high):
            row.addWidget(spin)
            spin.valueChanged.connect(self._changed)

    def _changed(self) -> None:
        self.valuesChanged.emit(self.low.value, self.high.value)

    def _both(name: str) -> Any:  # noqa: N805
        def write(self: Any, value: Any) -> None:
            for spin in (self.low, self.high):
                setattr(spin, name, value)

        return property(lambda self: getattr(self.low, name), write)

    minimum, maximum, singleStep, decimals, suffix = map(
        _both, ("minimum", "maximum", "singleStep", "decimals", "suffix")
    )
    minimumValue = property(lambda self: self.low.value, lambda self, value: setattr(self.low, "value", value))
    maximumValue = property(lambda self: self.high.value, lambda self, value: setattr(self.high, "value", value))


class ctkCheckBox(QtWidgets.QCheckBox):  # noqa: N801
    """A check box (its icons are not shown)."""


class ctkComboBox(QtWidgets.QComboBox):  # noqa: N801
    """A combo box with a text while nothing is chosen."""

    defaultText = property(
        lambda self: self.placeholderText, lambda self, value: setattr(self, "placeholderText", value)
    )


class ctkMessageBox(QtWidgets.QMessageBox):  # noqa: N801
    """A message box that can be told not to come again."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._key = ""

    dontShowAgainSettingsKey = property(lambda self: self._key, lambda self, value: setattr(self, "_key", value))


class CtkModule(ModuleType):
    """`import ctk`; a class without a stand-in is a HostError."""

    def __init__(self) -> None:
        super().__init__("ctk", __doc__)
        for cls in CLASSES:
            setattr(self, cls.__name__, cls)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise HostError(f"the host does not know ctk.{name}")


CLASSES: tuple[type, ...] = (
    ctkCollapsibleButton,
    ctkSliderWidget,
    ctkRangeWidget,
    ctkPathLineEdit,
    ctkCheckBox,
    ctkComboBox,
    ctkMessageBox,
)
