"""What the panel asks the user, and how: windows of the application."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from .dependencies import Missing

TITLE = "CovidSeg"

#: Where Slicer's settings keep the folder that was saved into last.
FOLDER_KEY = "CovidSeg/lastFolder"


def consent_text(missing: Missing) -> str:
    """Return what would be installed, why, how large it is, and where it comes from."""
    lines = [_("CovidSeg needs Python packages that this Slicer does not have yet:"), ""]
    if missing.torch:
        lines.append(
            _(
                "PyTorch, which runs the network: a download of 0.1 to 0.2 GB for the processor alone, of 2 to 3 GB "
                "with support for an NVIDIA GPU. It is installed by the PyTorch extension, which shows what it will do."
            )
        )
    if missing.packages:
        lines.append(
            _("{packages}: less than 10 MB. They cut the image into patches and read the weights.").format(
                packages=", ".join(missing.packages)
            )
        )
    lines += [
        "",
        _("They are downloaded from the Python package index, once; packages that are there already are not replaced."),
        _("The network's weights are part of CovidSeg. No image leaves this computer."),
        "",
        _("Install now?"),
    ]
    return "\n".join(lines)


class SlicerDialogs:
    """Windows of the Slicer application."""

    def confirm(self, text: str) -> bool:
        """Ask a question; OK or Cancel."""
        import slicer

        return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=TITLE))

    def choose(self, text: str, *, choices: tuple[str, ...]) -> int | None:
        """Ask which of several things to do; None for Cancel, which is also the default."""
        import qt
        import slicer

        box = qt.QMessageBox(slicer.util.mainWindow())
        box.setIcon(qt.QMessageBox.Question)
        box.setWindowTitle(TITLE)
        box.setText(text)
        buttons = [box.addButton(choice, qt.QMessageBox.AcceptRole) for choice in choices]
        box.setDefaultButton(box.addButton(qt.QMessageBox.Cancel))
        _run(box)
        clicked = box.clickedButton()
        return next((index for index, button in enumerate(buttons) if button == clicked), None)

    def show_details(self, text: str, *, details: str) -> None:
        """Show an error with its details."""
        import slicer

        slicer.util.errorDisplay(text, windowTitle=TITLE, detailedText=details)

    def file_to_save(self, title: str, *, suggestion: str, kinds: str) -> str:
        """Ask for a file's name; empty if the user changed their mind."""
        import qt
        import slicer

        start = str(_last_folder() / suggestion)
        answer = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, start, kinds)
        path = str(answer[0] if isinstance(answer, tuple) else answer)
        return _remembered(path, folder=Path(path).parent)

    def folder(self, title: str) -> str:
        """Ask for a folder; empty if the user changed their mind."""
        import qt
        import slicer

        path = str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, str(_last_folder())))
        return _remembered(path, folder=Path(path))


def _last_folder() -> Path:
    """Return the folder that was saved into last; Qt alone would begin in the one that Slicer was started from."""
    import qt

    folder = Path(str(qt.QSettings().value(FOLDER_KEY) or ""))
    # A share that was left may not be looked at any more, of which Path would raise.
    return folder if folder.is_absolute() and os.path.isdir(folder) else Path.home()


def _remembered(path: str, *, folder: Path) -> str:
    """Return what the user chose, and keep its folder for the next time; an empty path is no choice."""
    import qt

    if path:
        qt.QSettings().setValue(FOLDER_KEY, str(folder))
    return path


def _run(box: Any) -> None:
    """Show a window and wait; the method's name differs between PythonQt's generations."""
    (getattr(box, "exec_", None) or box.exec)()
