"""`ctk.ctkPathLineEdit`: a line for a path that remembers the last ones."""

from __future__ import annotations

from typing import Any

from PySide6 import QtWidgets
from PySide6.QtCore import Signal


class ctkPathLineEdit(QtWidgets.QWidget):  # noqa: N801
    """A line for a path, with a button that opens a file dialog."""

    Files, Dirs, Drives, Hidden, System, Readable, Writable, Executable = 1, 2, 4, 8, 16, 32, 64, 128
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    SIGNALS = {  # noqa: RUF012
        "currentPathChanged(QString)": "currentPathChanged",
        "validInputChanged(bool)": "validInputChanged",
    }

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.line, self.button = QtWidgets.QLineEdit(), QtWidgets.QToolButton()
        self.button.text = "..."
        self.setFocusProxy(self.line)
        row.addWidget(self.line, 1)
        row.addWidget(self.button)
        self.line.textChanged.connect(self._text_changed)
        self.button.clicked.connect(lambda: self.browse())
        self._filters: Any = [self.Files]
        self._key = ""
        self._valid = False

    def _text_changed(self, text: str) -> None:
        """Tell of a path; an empty one is not valid in ctk, and it says no more than that."""
        before, self._valid = self._valid, bool(text)
        if self._valid:
            self.currentPathChanged.emit(text)
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    currentPath = property(lambda self: self.line.text, lambda self, value: setattr(self.line, "text", value))
    filters = property(lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    settingKey = property(lambda self: self._key, lambda self, value: self._set_key(value))
    nameFilters = property(lambda self: (), lambda self, value: None)
    options = property(lambda self: (), lambda self, value: None)
    showHistoryButton = property(lambda self: False, lambda self, value: None)

    def browse(self) -> None:
        """Ask for a path, as the button does."""
        directory = self.Dirs in (self._filters if isinstance(self._filters, list) else [self._filters])
        ask = QtWidgets.QFileDialog.getExistingDirectory if directory else QtWidgets.QFileDialog.getOpenFileName
        path = ask(self)
        if path:
            self.currentPath = path

    def addCurrentPathToHistory(self) -> None:
        """Remember the path for the next time, under the setting's key; nothing else does."""
        if self.currentPath:
            recent = self._history()
            paths = [self.currentPath, *(path for path in recent if path != self.currentPath)]
            _settings().setValue(f"ctkPathLineEdit/{self._key}", paths)

    def _history(self) -> list[str]:
        found = _settings().value(f"ctkPathLineEdit/{self._key}") or []
        return [found] if isinstance(found, str) else list(found)

    def _set_key(self, key: str) -> None:
        """Take the key of the setting, and with it the last path if there is none."""
        self._key = key
        if not self.currentPath and self._history():
            self.currentPath = self._history()[0]


def _settings() -> Any:
    """Return the settings of the test."""
    import qt

    return qt.QSettings()
