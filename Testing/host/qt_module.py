"""The module `qt` as Slicer has it: QtCore, QtGui, QtWidgets and the loader of .ui files in one, PythonQt-like."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pythonqt
from host_errors import HostError
from PySide6 import QtCore, QtGui, QtWidgets

ONLY_PYSIDE = {"Signal", "Slot", "Property", "ClassInfo", "QmlElement", "SignalInstance", "QtMsgType"}
"""Names of PySide6 that PythonQt does not have."""


class QtModule(ModuleType):
    """`import qt`; a name that Slicer's Qt does not have is a HostError."""

    def __init__(self) -> None:
        super().__init__("qt", __doc__)
        pythonqt.install()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in ONLY_PYSIDE:
            for module in (QtWidgets, QtGui, QtCore):
                if hasattr(module, name):
                    return getattr(module, name)
        raise HostError(f"qt.{name} does not exist in Slicer, or the host does not know it")

    def use_settings(self, path: Path) -> None:
        """Keep `qt.QSettings()` in a file of the test."""

        def settings(*arguments: Any) -> QtCore.QSettings:
            if arguments:
                return QtCore.QSettings(*arguments)
            return QtCore.QSettings(str(path), QtCore.QSettings.Format.IniFormat)

        self.QSettings = settings
