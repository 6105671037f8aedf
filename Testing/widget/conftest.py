"""The stand-in application for tests of the panel."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["QT_QPA_PLATFORM"] = "offscreen"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))


@pytest.fixture(scope="session", autouse=True)
def qt_ends_before_python() -> Iterator[None]:
    """Shut Qt down in order once its tests are through: objects that outlive it can crash the interpreter's exit."""
    yield
    if "PySide6.QtWidgets" not in sys.modules:
        return
    from PySide6 import QtCore, QtWidgets

    application = QtWidgets.QApplication.instance()
    if application is not None:
        QtWidgets.QApplication.closeAllWindows()
        gc.collect()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        application.shutdown()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Any]:
    """A started stand-in host with an empty scene; a test that leaves errors in callbacks fails."""
    pytest.importorskip("PySide6", reason="needs PySide6: pip install 'covidseg[dev]'")
    pytest.importorskip("slicer", reason="needs the slicer-core wheel: pip install 'covidseg[slicer]'")
    from standin import Host

    started = Host(tmp_path).start()
    try:
        yield started
    finally:
        started.stop()
    assert not started.errors, "errors in callbacks:\n" + "\n".join(started.errors)
    assert not started.dialogs.unused, f"answers that nobody asked for: {started.dialogs.unused}"


@pytest.fixture
def panel(host: Any) -> Any:
    """The module's widget, set up and entered."""
    return host.open_panel()
