"""`slicer.app` and `slicer.modules`: the members that panels use, over slicer-core's real logics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from host_errors import HostAttributeError, HostError
from layout_manager import LayoutManager
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Signal


class MainWindow(QtWidgets.QMainWindow):
    """The main window: a status bar and the module selector."""

    def __init__(self, selected: list[str]) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(selected)

    def moduleSelector(self) -> ModuleSelector:
        """Return the module selector."""
        return self._selector


class ModuleSelector:
    """Records which modules were chosen."""

    def __init__(self, selected: list[str]) -> None:
        self.selected = selected

    def selectModule(self, name: str) -> None:
        """Show a module's panel."""
        self.selected.append(name)

    @property
    def selectedModule(self) -> str:
        """The module that is shown."""
        return self.selected[-1] if self.selected else ""


class Application(QtCore.QObject):
    """`slicer.app`. A member that is not here is a HostError, also for `hasattr`."""

    aboutToQuit = Signal()
    startupCompleted = Signal()
    applicationName = "Slicer"

    def __init__(self, *, logic: Any, settings: Path, temporary: Path, version: str) -> None:
        super().__init__()
        self._logic = logic
        self._settings = QtCore.QSettings(str(settings), QtCore.QSettings.Format.IniFormat)
        self.temporaryPath = str(temporary)
        self.applicationVersion = version
        self.majorVersion, self.minorVersion = (int(part) for part in version.split(".")[:2])
        self.selectedModules: list[str] = []
        self._window = MainWindow(self.selectedModules)
        self._layouts = LayoutManager(logic)
        self._modules = ModuleManager()
        self.testing = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("event", "eventFilter", "metaObject"):
            raise AttributeError(name)
        raise HostError(f"slicer.app.{name} does not exist, or the host does not know it")

    def applicationLogic(self) -> Any:
        """Return the real application logic."""
        return self._logic

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._logic.GetMRMLScene()

    def layoutManager(self) -> LayoutManager:
        """Return the views."""
        return self._layouts

    def mainWindow(self) -> MainWindow:
        """Return the main window."""
        return self._window

    def topLevelWidgets(self) -> list[Any]:
        """Return all windows."""
        return [self._window, *(w for w in QtWidgets.QApplication.topLevelWidgets() if w is not self._window)]

    def moduleManager(self) -> ModuleManager:
        """Return the module manager."""
        return self._modules

    def processEvents(self, *_flags: Any) -> None:
        """Let Qt work."""
        QtWidgets.QApplication.processEvents()

    def testingEnabled(self) -> bool:
        """Return whether Slicer was started with --testing."""
        return self.testing

    def settings(self) -> QtCore.QSettings:
        """Return the settings of the test."""
        return self._settings

    userSettings = revisionUserSettings = settings

    def palette(self) -> QtGui.QPalette:
        """Return the palette."""
        return QtWidgets.QApplication.palette()

    def clipboard(self) -> QtGui.QClipboard:
        """Return the clipboard."""
        return QtWidgets.QApplication.clipboard()

    def setOverrideCursor(self, cursor: Any) -> None:
        """Show another cursor."""
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        """Show the cursor from before."""
        QtWidgets.QApplication.restoreOverrideCursor()

    def pauseRender(self) -> None:
        """Do not draw the views until `resumeRender`."""

    def resumeRender(self) -> None:
        """Draw the views again."""


class ModuleManager(QtCore.QObject):
    """Tells that a module is unloaded."""

    moduleAboutToBeUnloaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """Return a module by name, or None."""
        return self.known.get(name)


class ModuleCard:
    """What a module says of itself (`parent` in the module's class): as in Slicer, it takes these properties alone."""

    PROPERTIES: Mapping[str, Any] = {
        **dict.fromkeys(("title", "helpText", "acknowledgementText"), ""),
        **dict.fromkeys(("categories", "contributors", "dependencies", "associatedNodeTypes"), ()),
        "hidden": False,
        "index": -1,
        "icon": None,
    }

    def __init__(self, path: str) -> None:
        self.__dict__.update(self.PROPERTIES, path=path)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.PROPERTIES:
            raise HostAttributeError(f"a module has no property '{name}' that could be set")
        first = self.PROPERTIES[name]
        wanted = (list, tuple) if isinstance(first, tuple) else object if first is None else type(first)
        if not isinstance(value, wanted):
            raise HostError(f"{name} of a module cannot be {value!r}")
        self.__dict__[name] = value


class Module:
    """An entry of `slicer.modules`."""

    def __init__(self, name: str, *, logic: Any = None, path: str = "", widget: Any = None) -> None:
        self.name = name
        self.path = path
        self._logic = logic
        self._widget = widget

    def logic(self) -> Any:
        """Return the module's logic."""
        if self._logic is None:
            raise HostError(f"the host has no logic of the module {self.name}")
        return self._logic

    def widgetRepresentation(self) -> Any:
        """Return the module's panel."""
        if self._widget is None:
            raise HostError(f"the host has no panel of the module {self.name}")
        return self._widget


class Modules:
    """`slicer.modules`: modules by their name in lower case. Slicer without an extension has no such attribute."""

    def __init__(self, modules: list[Module]) -> None:
        for module in modules:
            self.add(module)

    def add(self, module: Module) -> None:
        """Make a module known."""
        setattr(self, module.name.lower(), module)

    def __getattr__(self, name: str) -> Any:
        raise HostAttributeError(f"slicer.modules.{name} does not exist, or the host does not know it")
