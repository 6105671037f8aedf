"""What the sections of the panel share: their workplace, and small helpers for Qt widgets."""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from slicer.i18n import tr as _

from ..errors import CovidSegError, DeviceError
from ..runner import POLL_EVERY_MS, Failure, Runner
from ..scenes.texts import shown

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..logic import Engine, SceneOutputs
    from ..pipeline import SegmentationResult
    from ..quantify import Quantities
    from ..scene import SceneContext
    from ..volume import CTVolume


class Parameters(Protocol):
    """What the panel remembers in the scene: the `@parameterNodeWrapper` class of CovidSeg.py, or a stand-in."""

    inputVolume: Any
    segmentation: Any
    mode: Any
    device: Any
    insideInfection: bool
    rangeEnabled: bool
    rangeFromHu: int
    rangeToHu: int
    islandMl: float
    mapUncertainty: bool
    batchOverwrite: bool
    batchUncertainty: bool


class PanelLogic(Protocol):
    """What the panel asks of the logic; `CovidSegLogic` does it, and in some tests a stand-in."""

    @property
    def context(self) -> SceneContext: ...

    @property
    def engine(self) -> Engine: ...

    def volumeFromNode(self, volumeNode: Any) -> CTVolume: ...

    def publish(
        self, result: SegmentationResult, *, volumeNode: Any, segmentationNode: Any = None, voxels: str | None = None
    ) -> SceneOutputs: ...

    def quantifySegmentation(self, segmentationNode: Any, *, volumeNode: Any) -> Quantities: ...

    def updateTable(self, tableNode: Any, *, quantities: Quantities) -> None: ...


class Dialogs(Protocol):
    """How the panel asks the user: windows in the application, prepared answers in tests."""

    def confirm(self, text: str) -> bool: ...

    def choose(self, text: str, *, choices: tuple[str, ...]) -> int | None: ...

    def show_details(self, text: str, *, details: str) -> None: ...

    def file_to_save(self, title: str, *, suggestion: str, kinds: str) -> str: ...

    def folder(self, title: str) -> str: ...


@dataclass
class Workplace:
    """What every section works with.

    Attributes:
        ui: The widgets of CovidSeg.ui, by name.
        logic: Does what the scene needs.
        runner: Runs what takes time on a worker thread.
        dialogs: Ask the user.
        prepare: Makes sure that the network can run, or raises; may ask.
        parameters: What the user chose; None while there is no scene to keep it in.
        refresh: Brings the whole panel up to date.
        figures_changed: Called when segments were edited or measured.
        device_problem: Why the chosen device cannot be used; empty if it can.
        starting: Whether a run is being prepared: the user is asked, or packages are installed.
    """

    ui: Any
    logic: PanelLogic
    runner: Runner
    dialogs: Dialogs
    prepare: Callable[[], None]
    parameters: Parameters | None = None
    refresh: Callable[[], None] = lambda: None
    figures_changed: Callable[[], None] = lambda: None
    device_problem: str = ""
    starting: bool = False
    _tooltips: dict[str, str] = field(default_factory=dict)
    _bundle: Bundle | None = None

    def volume(self) -> Any:
        """Return the chosen CT, or None."""
        return None if self.parameters is None else self.parameters.inputVolume

    def segmentation(self) -> Any:
        """Return the chosen result, or None for a new one."""
        return None if self.parameters is None else self.parameters.segmentation

    def why_not_start(self) -> str:
        """Return why neither a run nor a batch can be started now; empty if nothing common to both is in the way."""
        if self.starting or self.runner.busy:
            return _("CovidSeg is busy. Wait until it is done, or cancel it.")
        return "" if self.parameters is not None else _("There is no scene.")

    def make_ready(self) -> None:
        """Make sure that the network can run on the chosen device; the user may be asked.

        Raises:
            Cancelled: The user said no.
            DependencyError: A package is missing or does not work.
            DeviceError: The device is not there.
        """
        self.prepare()
        if self.device_problem:  # known only once torch is loaded
            raise DeviceError(self.device_problem)

    def bundle(self) -> Bundle:
        """Return the shipped bundle, whose network is loaded once and kept.

        Raises:
            ModelError: It is missing or damaged.
        """
        if self._bundle is None:
            from ..bundle import load_bundle

            self._bundle = load_bundle()
        return self._bundle

    def allow(self, name: str, *, unless: str) -> None:
        """Enable a button or another input, or disable it and give the reason `unless` as its tooltip."""
        button = getattr(self.ui, name)
        tooltip = self._tooltips.setdefault(name, button.toolTip)
        button.enabled = not unless
        button.toolTip = unless or tooltip

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Let nothing else be started in this context: dialogs may open, and buttons be pressed meanwhile."""
        self.starting = True
        self.refresh()
        try:
            yield
        finally:
            self.starting = False
            self.refresh()


def import_for_worker(*names: str) -> None:
    """Import, on the main thread, packages that a worker will need; `dependencies.load_packages` says why."""
    for name in names:
        importlib.import_module(name)


def show_text(label: Any, text: str, *, role: str = "") -> None:
    """Show a text in a label, or hide the label if it is empty; the role "error" or "warning" colours it."""
    _set_role(label, role=role if text else "")
    label.text = text
    label.visible = bool(text)


def _set_role(label: Any, *, role: str) -> None:
    """Colour a label, readable on light and dark; an empty role is plain text."""
    import qt

    on_dark = label.palette.color(qt.QPalette.Window).lightness() < 128
    colors = {"error": ("#b3261e", "#ff8a80"), "warning": ("#8a5200", "#ffc166")}
    label.styleSheet = f"color: {colors[role][on_dark]};" if role else ""


def fit_height(table: Any, *, rows: int, scrolls: bool = False) -> None:
    """Make a table as high as its header, whose height depends on the font, and a number of rows.

    Args:
        table: The `qt.QTableWidget`, with its headers.
        rows: The number of rows that are to be visible.
        scrolls: Whether to leave room for a horizontal scroll bar.
    """
    height = table.horizontalHeader().sizeHint.height() + rows * table.verticalHeader().defaultSectionSize
    bar = table.horizontalScrollBar().sizeHint.height() if scrolls else 0
    table.setFixedHeight(height + bar + 2 * table.frameWidth)


@contextmanager
def waiting() -> Iterator[None]:
    """Show the wait cursor while the window does not respond."""
    import qt

    qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        yield
    finally:
        qt.QApplication.restoreOverrideCursor()


def poll_timer(callback: Callable[[], None]) -> Any:
    """Return the timer by which the runner is polled."""
    import qt

    timer = qt.QTimer()
    timer.setInterval(POLL_EVERY_MS)
    timer.connect("timeout()", callback)
    return timer


def explain_error(error: BaseException, *, hint: str = "") -> str:
    """Return what went wrong and what to do; `hint` says, of an unforeseen error, where its details are shown."""
    if isinstance(error, CovidSegError):
        return shown(error)
    if isinstance(error, MemoryError):
        return _("Not enough memory. Close other programs or scenes, choose the quality Fast, or crop the CT.")
    if isinstance(error, OSError):
        place = f" '{error.filename}'" if error.filename else ""
        return _("{reason}{place}. Check the disk and the path, and try again.").format(
            reason=error.strerror or str(error), place=place
        )
    return _("Something unexpected went wrong ({kind}: {text}). {hint}").format(
        kind=type(error).__name__,
        text=error,
        hint=hint or _("The Python console shows the details; report them."),
    )


def log_and_explain(failure: Failure) -> str:
    """Return what went wrong and what to do; the traceback of an unforeseen error goes to the log."""
    if not isinstance(failure.error, CovidSegError):
        logging.getLogger(__name__).error(failure.details)
    return explain_error(failure.error)


def details_of(error: BaseException) -> str:
    """Return the traceback of an error as text."""
    return "".join(traceback.format_exception(error))
