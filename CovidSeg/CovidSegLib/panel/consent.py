"""The panel's questions to the user: the text of the consent, and the application's dialogs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ..dependencies import Missing

TITLE = "CovidSeg"

#: Key in Slicer's settings of the folder that was last saved into.
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
    """Dialogs of the Slicer application."""

    def confirm(self, text: str) -> bool:
        """Ask a question; OK or Cancel."""
        import slicer

        return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=TITLE))

    def choose(self, text: str, *, choices: tuple[str, ...]) -> int | None:
        """Ask which of several things to do; return its index, or None for Cancel, the default button."""
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
        box.deleteLater()  # the main window owns it, and would keep it, hidden, until Slicer ends
        return next((index for index, button in enumerate(buttons) if button == clicked), None)

    def show_details(self, text: str, *, details: str) -> None:
        """Show an error with its details."""
        import slicer

        slicer.util.errorDisplay(text, windowTitle=TITLE, detailedText=details)

    def file_to_save(self, title: str, *, suggestion: str, kinds: str) -> str:
        """Ask for the path of a file to save; empty if the user cancelled."""
        import qt
        import slicer

        start = str(_last_folder() / suggestion)
        answer = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, start, kinds)
        path = str(answer[0] if isinstance(answer, tuple) else answer)
        return _remembered(path, folder=Path(path).parent)

    def folder(self, title: str) -> str:
        """Ask for a folder; empty if the user cancelled."""
        import qt
        import slicer

        path = str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, str(_last_folder())))
        return _remembered(path, folder=Path(path))


def _last_folder() -> Path:
    """Return the folder that was last saved into, or home; by default Qt offers the current folder of the process."""
    import qt

    folder = Path(str(qt.QSettings().value(FOLDER_KEY) or ""))
    # Not Path.is_dir, which raises where a network share is gone.
    return folder if folder.is_absolute() and os.path.isdir(folder) else Path.home()


def _remembered(path: str, *, folder: Path) -> str:
    """Keep the folder for the next time, and return the path; nothing is kept if it is empty."""
    import qt

    if path:
        qt.QSettings().setValue(FOLDER_KEY, str(folder))
    return path


def _run(box: Any) -> None:
    """Show a dialog and wait for its end; Qt 5 calls the method `exec_`."""
    (getattr(box, "exec_", None) or box.exec)()
