"""The stand-in for the Slicer application in which the panel is tested.

`Host.start` puts `qt`, `ctk` and the missing parts of `slicer` in place, over the real MRML of slicer-core;
`stop` takes them away again. Errors in callbacks, which Qt and VTK only print, are kept in `errors`.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import ctk_widgets
import mrml_widgets
import parameter_node
import scripted_module
import segment_editor
import translations
from application import Application, Module, ModuleCard, Modules
from dialogs import Dialogs
from host_errors import HostError
from packaging_module import Packages
from PySide6 import QtCore, QtWidgets
from qt_module import QtModule
from ui_file import UiLoader

HARMLESS = ("does not support propagateSizeHints", "does not support raise()")
"""What Qt says because it draws off screen."""

MODULE_FILE = Path(__file__).resolve().parents[2] / "CovidSeg" / "CovidSeg.py"
WIDGETS: tuple[type, ...] = (
    mrml_widgets.qMRMLWidget,
    mrml_widgets.qMRMLNodeComboBox,
    segment_editor.qMRMLSegmentEditorWidget,
)


class Host:
    """The application as the module sees it.

    Attributes:
        scene: `slicer.mrmlScene`.
        dialogs: What was asked and shown; `dialogs.answer(...)` scripts the answers.
        packages: What was installed, and what is said to be missing.
        errors: Tracebacks of errors in callbacks; a test that leaves some fails.
        opened: Addresses given to `qt.QDesktopServices.openUrl`.
        samples: Sample data that were registered, as given.
        translate: (context, text) -> the text in the language of the application; English until a test sets it.
    """

    def __init__(self, folder: Path, *, version: str = "5.13.0") -> None:
        """Keep settings and temporary files in `folder`; be Slicer of a version."""
        self.folder = folder
        self.version = version
        self.dialogs = Dialogs()
        self.packages = Packages()
        self.errors: list[str] = []
        self.opened: list[str] = []
        self.samples: list[dict[str, Any]] = []
        self.translate: Callable[[str, str], str] = lambda _context, text: text
        self._undo = ExitStack()
        self._panels: list[Any] = []

    def start(self) -> Host:
        """Put everything in place."""
        import slicer
        from CovidSegLib.scene import SceneContext

        self.qt_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self._message_handler = QtCore.qInstallMessageHandler(self._qt_says)
        self.qt = QtModule()
        self.qt.use_settings(self.folder / "settings.ini")
        self.qt.QUiLoader = UiLoader
        UiLoader.stand_ins = {cls.__name__: cls for cls in (*ctk_widgets.CLASSES, *WIDGETS)}
        self.context = SceneContext.headless()
        self.scene = self.context.scene
        logic = self.context.logic("Data").GetMRMLApplicationLogic()
        self._cache = slicer.vtkCacheManager()  # without these two no .mrb file can be read
        self._cache.SetRemoteCacheDirectory(str(self.folder))
        self._cache.SetMRMLScene(self.scene)
        self.scene.SetCacheManager(self._cache)
        self._files = slicer.vtkDataIOManager()
        self._files.SetCacheManager(self._cache)
        self.scene.SetDataIOManager(self._files)
        self._set_module("qt", self.qt)
        self._set_module("ctk", ctk_widgets.CtkModule())
        for name, module in self._slicer_modules().items():
            self._set_module(f"slicer.{name}", module)
            self._set(slicer, name, module)
        for target, name, value in self.dialogs.patches():
            self._set(target, name, value)
        self._set_module("SampleData", self._sample_data())
        self._set(self.qt.QDesktopServices, "openUrl", staticmethod(self._open))
        self.app = Application(
            logic=logic, settings=self.folder / "settings.ini", temporary=self.folder, version=self.version
        )
        for cls in (*WIDGETS, qSlicerScriptedLoadableModule, qSlicerScriptedLoadableModuleWidget):
            self._set(slicer, cls.__name__, cls)
        self._set(slicer, "mrmlScene", self.scene)
        self._set(slicer, "app", self.app)
        self.modules = Modules(self._modules())
        self._set(slicer, "modules", self.modules)
        self._set(sys, "excepthook", self._caught)
        self._set(sys, "unraisablehook", lambda args: self._caught(args.exc_type, args.exc_value, args.exc_traceback))
        return self

    def open_panel(self, name: str = "CovidSeg") -> Any:
        """Return the module's widget as the application makes it: module, panel, `setup`, `enter`."""
        module = importlib.import_module(name)
        card = ModuleCard(str(MODULE_FILE))
        getattr(module, name)(card)
        representation = qSlicerScriptedLoadableModuleWidget()
        representation.setLayout(QtWidgets.QVBoxLayout())
        entry = qSlicerScriptedLoadableModule(name, path=str(MODULE_FILE), widget=representation)
        self.modules.add(entry)
        self.app.moduleManager().known[name] = entry
        representation.setMRMLScene(self.scene)
        widget = getattr(module, f"{name}Widget")(representation)
        representation.python = widget
        widget.setup()
        representation.resize(500, 768)
        representation.show()
        representation.isEntered = True
        if hasattr(widget, "enter"):
            widget.enter()
        self._panels.append(widget)
        self.process_events()
        return widget

    def reload_panel(self, widget: Any) -> Any:
        """Return the new widget of a panel after the developer's button Reload; it is not entered anew."""
        name, representation = widget.moduleName, widget.parent
        sys.modules.pop(name)
        widget.cleanup()
        again = getattr(importlib.import_module(name), f"{name}Widget")(representation)
        representation.python = again
        again.setup()
        self._panels[self._panels.index(widget)] = again
        self.process_events()
        return again

    def complete_startup(self) -> None:
        """Tell that the application has started; modules register their sample data then."""
        self.app.startupCompleted.emit()
        self.process_events()

    def add_torch_extension(self) -> None:
        """Be Slicer with the PyTorch extension."""
        self._set_module("PyTorchUtils", self.packages.torch_module())

    def close_panel(self, widget: Any) -> None:
        """Take a panel away, as the application does when it ends."""
        self._panels.remove(widget)
        if hasattr(widget, "exit"):
            widget.exit()
        widget.parent.isEntered = False
        widget.cleanup()
        widget.parent.deleteLater()
        self.process_events()

    def stop(self) -> None:
        """Close the panels and take everything away."""
        try:
            for widget in list(self._panels):
                self.close_panel(widget)
            for window in QtWidgets.QApplication.topLevelWidgets():
                window.deleteLater()
            self.process_events()
            self.app.layoutManager().close()
            self.scene.Clear(1)
            self.scene.SetDataIOManager(None)
            self.scene.SetCacheManager(None)
            self._cache.SetMRMLScene(None)
        finally:
            sys.modules.pop("CovidSeg", None)
            self._undo.close()
            QtCore.qInstallMessageHandler(self._message_handler)

    def process_events(self) -> None:
        """Let Qt do what waits, deleting objects included."""
        QtWidgets.QApplication.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        QtWidgets.QApplication.processEvents()

    def wait_until(self, condition: Callable[[], Any], *, timeout_s: float = 10.0, what: str = "") -> None:
        """Let Qt work until a condition holds; HostError after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise HostError(f"waited {timeout_s} s in vain{f' for {what}' if what else ''}")
            self.process_events()
            time.sleep(0.002)

    def close_scene(self) -> None:
        """Close the scene, as File > Close Scene does."""
        self.scene.Clear(0)
        self.process_events()

    def save_scene(self, path: Path) -> Path:
        """Save the scene as a .mrb file."""
        if not self.scene.WriteToMRB(str(path)):
            raise HostError(f"{path}: the scene was not saved")
        return path

    def load_scene(self, path: Path) -> None:
        """Replace the scene by a saved one."""
        self.scene.Clear(0)
        if not self.scene.ReadFromMRB(str(path), True):
            raise HostError(f"{path}: the scene was not read")
        self.process_events()

    def _slicer_modules(self) -> dict[str, ModuleType]:
        modules = {
            "ScriptedLoadableModule": scripted_module.make_module(),
            "parameterNodeWrapper": parameter_node.make_module(),
            "i18n": translations.make_module(lambda context, text: self.translate(context, text)),
        }
        if tuple(int(part) for part in self.version.split(".")[:2]) >= (5, 12):
            modules["packaging"] = self.packages.packaging_module()
        else:
            self._set(importlib.import_module("slicer").util, "pip_install", self.packages.old_pip_install)
        return modules

    def _sample_data(self) -> ModuleType:
        module = ModuleType("SampleData")

        class SampleDataLogic:
            @staticmethod
            def registerCustomSampleDataSource(
                category: str = "Custom",
                sampleName: str | None = None,
                uris: Any = None,
                fileNames: Any = None,
                nodeNames: Any = None,
                customDownloader: Any = None,
                thumbnailFileName: str | None = None,
                checksums: Any = None,
            ) -> None:
                """Record a sample."""
                if type(uris) not in (str, list) or type(uris) is not type(fileNames):
                    raise ValueError(f"{sampleName}: Slicer wants a file name for each address, or lists of both")
                options = {"nodeNames": nodeNames, "customDownloader": customDownloader, "checksums": checksums}
                place = {"category": category, "sampleName": sampleName, "thumbnailFileName": thumbnailFileName}
                self.samples.append({**place, "uris": uris, "fileNames": fileNames, **options})

        module.SampleDataLogic = SampleDataLogic
        return module

    def _modules(self) -> list[Module]:
        from CovidSegLib.scene import HEADLESS_LOGICS

        modules = [Module(name, logic=self.context.logic(name)) for name in HEADLESS_LOGICS]
        modules.append(Module("SegmentEditor", widget=segment_editor.SegmentEditorModuleWidget(self.scene)))
        for module in modules:
            self.app.moduleManager().known[module.name] = module
        return modules

    def _open(self, url: Any) -> bool:
        self.opened.append(url.toLocalFile() or url.toString())
        return True

    def _caught(self, kind: Any, error: Any, trace: Any) -> None:
        self.errors.append("".join(traceback.format_exception(kind, error, trace)))
        logging.getLogger(__name__).error("error in a callback: %s", error)

    def _qt_says(self, _kind: Any, _where: Any, text: str) -> None:
        if not any(harmless in text for harmless in HARMLESS):
            self.errors.append(f"Qt says: {text}")

    def _set(self, target: Any, name: str, value: Any) -> None:
        self._undo.enter_context(mock.patch.object(target, name, value, create=True))

    def _set_module(self, name: str, module: ModuleType) -> None:
        before = sys.modules.get(name)  # not mock.patch.dict: it forgets all that was imported meanwhile
        sys.modules[name] = module
        if before is None:
            self._undo.callback(sys.modules.pop, name, None)
        else:
            self._undo.callback(sys.modules.__setitem__, name, before)


class qSlicerScriptedLoadableModule(Module):  # noqa: N801
    """A module written in Python, as the module manager has it."""


class qSlicerScriptedLoadableModuleWidget(mrml_widgets.qMRMLWidget):  # noqa: N801
    """The panel in the module area; `self()` is the Python object."""

    python: Any = None
    isEntered = False

    def self(self) -> Any:
        """Return the module's Python widget."""
        return self.python
