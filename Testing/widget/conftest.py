"""The stand-in application for tests of the panel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["QT_QPA_PLATFORM"] = "offscreen"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))


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
