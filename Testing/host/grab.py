"""Pictures of a panel, in the light and the dark palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from host_errors import HostError
from PySide6 import QtGui, QtWidgets

ROLES = QtGui.QPalette.ColorRole
DARK = {
    ROLES.Window: "#323232",
    ROLES.WindowText: "#f0f0f0",
    ROLES.Base: "#242424",
    ROLES.AlternateBase: "#2d2d2d",
    ROLES.ToolTipBase: "#323232",
    ROLES.ToolTipText: "#f0f0f0",
    ROLES.PlaceholderText: "#9a9a9a",
    ROLES.Text: "#f0f0f0",
    ROLES.Button: "#3c3c3c",
    ROLES.ButtonText: "#f0f0f0",
    ROLES.BrightText: "#ff5555",
    ROLES.Link: "#6cb2ff",
    ROLES.Highlight: "#2a82da",
    ROLES.HighlightedText: "#ffffff",
    ROLES.Light: "#505050",
    ROLES.Midlight: "#464646",
    ROLES.Mid: "#282828",
    ROLES.Dark: "#1e1e1e",
    ROLES.Shadow: "#000000",
}


def save(widget: Any, path: Path, *, width: int = 500, height: int = 768, dark: bool = False) -> Path:
    """Write a picture of a widget as the module area would show it, with a scroll bar where it is too long.

    Args:
        widget: A widget, or a scripted module's widget (its `parent` is taken).
        path: A PNG file.
        width: Width of the module area in pixels.
        height: Its height in pixels; 0 for the whole length of the panel.
        dark: Use the dark palette.

    Returns:
        `path`.
    """
    _need_fonts()
    shown = widget if isinstance(widget, QtWidgets.QWidget) else widget.parent
    application = QtWidgets.QApplication.instance()
    before = QtGui.QPalette(QtWidgets.QApplication.palette())
    area = QtWidgets.QScrollArea()
    area.widgetResizable = True
    try:
        application.setPalette(_dark() if dark else application.style().standardPalette())
        area.setWidget(shown)
        area.resize(width, height or 600)
        area.show()
        _settle()
        if not height:
            area.resize(width, shown.heightForWidth(width) if shown.hasHeightForWidth() else shown.sizeHint.height())
            _settle()
            area.resize(width, max(area.widget().height, shown.minimumSizeHint.height()) + 4)
            _settle()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not area.grab().save(str(path)):
            raise HostError(f"{path}: the picture was not written")
    finally:
        area.takeWidget()
        area.deleteLater()
        shown.show()
        application.setPalette(before)
    return path


def _settle() -> None:
    for _ in range(3):
        QtWidgets.QApplication.processEvents()


def _dark() -> QtGui.QPalette:
    palette = QtGui.QPalette()
    for role, color in DARK.items():
        palette.setColor(role, QtGui.QColor(color))
    for role in (ROLES.Text, ROLES.WindowText, ROLES.ButtonText):
        palette.setColor(QtGui.QPalette.ColorGroup.Disabled, role, QtGui.QColor("#7f7f7f"))
    return palette


def _need_fonts() -> None:
    """Without fonts on the machine take DejaVu Sans, which matplotlib brings."""
    if QtGui.QFontDatabase.families():
        return
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    if QtGui.QFontDatabase.addApplicationFont(str(font)) < 0:
        raise HostError("there are no fonts: install fonts-dejavu-core")
