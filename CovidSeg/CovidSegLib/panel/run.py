"""The section Segment: start a run, show its progress, cancel it, publish its result, undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from slicer.i18n import tr as _

from ..errors import Cancelled, CovidSegError
from ..progress import Progress
from ..runner import Failure, Handlers, Work
from ..scenes.edited import is_edited, segments_digest
from ..scenes.report import stored_report
from ..scenes.texts import shown
from ..scenes.uncertainty import is_map
from ..scenes.volume import check_volume
from .progress import RunClock
from .publish import (
    Before,
    Published,
    VoxelStamp,
    ask_what_to_keep,
    check_replaceable,
    publish,
    put_on_show,
    segmented,
    where_to_publish,
)
from .texts import duration_text, position_text
from .workplace import Workplace, details_of, explain_error, show_text

#: Inputs that are disabled during a run.
OPTIONS = ("inputVolumeSelector", "segmentationSelector", "modeSelector", "deviceSelector", "mapUncertaintyCheckBox")


@dataclass
class _Run:
    """A run that is under way.

    Attributes:
        volume: The CT's node; None once its scene was closed.
        segmentation: The node for the result, None for a new one.
        digest: Of that node's segments when the run began.
        stamp: Of the CT's voxels, then.
        clock: Knows how far the run is.
        messages: What the user should know, such as a change of device.
    """

    volume: Any
    segmentation: Any
    digest: str
    stamp: VoxelStamp
    clock: RunClock
    messages: list[str]


class SegmentSection:
    """Runs the network on the chosen CT."""

    def __init__(
        self,
        place: Workplace,
        *,
        changing: Callable[[], AbstractContextManager[Any]],
        figures_of: Callable[[Any], Mapping[str, Any] | None],
        published: Callable[[Published], None],
    ) -> None:
        """Work in `place`.

        Args:
            place: What the sections share.
            changing: Returns a context in which changes of segments do not count as the user's edits.
            figures_of: Returns the figures of a segmentation if they are up to date, for the later comparison.
            published: Called with a new result.
        """
        self._place, self._ui = place, place.ui
        self._changing = changing
        self._figures_of = figures_of
        self._published = published
        self._run: _Run | None = None
        self._details = ""
        self._before: Before | None = None
        self._ui.segmentButton.connect("clicked(bool)", self.start)
        self._ui.cancelButton.connect("clicked(bool)", self.cancel)
        self._ui.detailsButton.connect("clicked(bool)", self.show_details)
        self._ui.undoRunButton.connect("clicked(bool)", self.undo)
        self._show_status("")

    @property
    def running(self) -> bool:
        """Whether a run of this section is under way."""
        return self._run is not None

    def why_not(self) -> str:
        """Return why Segment cannot be pressed now; empty if it can."""
        if self.running:
            return _("Stopping the run...") if self._place.runner.stopping else _("A run is under way.")
        if reason := self._place.why_not_start():
            return reason
        if self._place.volume() is None:
            return _("Load a chest CT and choose it above.")
        if is_map(self._place.volume()):
            text = _("'{name}' is a map of uncertainty, not a CT. Choose the CT itself.")
            return text.format(name=self._place.volume().GetName())
        try:
            check_volume(self._place.volume())
            self._check_output()
        except CovidSegError as error:
            return shown(error)
        return self._place.device_problem

    def refresh(self) -> None:
        """Enable what can be done now, and say of the rest why not."""
        stopping = self.running and self._place.runner.stopping
        self._place.allow("segmentButton", unless=self.why_not())
        self._ui.segmentButton.text = _("&Segment again") if self._place.segmentation() is not None else _("&Segment")
        self._ui.progressBar.visible = self._ui.cancelButton.visible = self.running
        self._place.allow("cancelButton", unless=_("Stopping at the next step...") if stopping else "")
        for name in OPTIONS:
            self._place.allow(name, unless=_("A run is under way.") if self.running else "")
        before = self._before
        self._ui.undoRunButton.visible = before is not None and not self.running
        if before is not None:
            self._place.allow("undoRunButton", unless=before.why_not_restore(chosen=self._place.segmentation()))

    def start(self) -> None:
        """Start a run on the chosen CT, if nothing prevents it."""
        if self.why_not():
            self._place.refresh()
            return
        self._show_status(_("Loading..."))
        self._ui.statusLabel.repaint()  # now, as the window will not respond for a moment
        try:
            with self._place.preparing():
                run, work = self._prepared()
        except Cancelled as error:
            self._show_status(shown(error))
            return
        except Exception as error:
            self._show_error(error)
            return
        self._show_status("")
        self._run = run
        self._ui.progressBar.setValue(0)
        self._ui.progressBar.setFormat(_("Preparing..."))
        handlers = Handlers(
            progress=self._on_progress, finished=self._on_finished, failed=self._on_failed, stopped=self._on_stopped
        )
        self._place.runner.start(work, handlers=handlers)
        self._place.refresh()

    def _prepared(self) -> tuple[_Run, Work]:
        """Return a run on the chosen CT, and its work for the worker, which holds a copy of the voxels.

        Raises:
            Cancelled: The user declined, or the scene was closed meanwhile.
            Exception: Anything that keeps the run from starting.
        """
        volume, segmentation, parameters = self._place.volume(), self._place.segmentation(), self._place.parameters
        assert parameters is not None
        if segmentation is not None:
            segmentation = ask_what_to_keep(self._place.dialogs, segmentation=segmentation, volume=volume)
        self._place.make_ready()
        if self._place.parameters is not parameters:
            raise Cancelled(_("The scene was closed; nothing was started."))
        if not self._place.logic.context.scene.IsNodePresent(volume):
            raise Cancelled(_("The CT was removed from the scene; nothing was started."))
        ct = self._place.logic.volumeFromNode(volume)
        work = partial(
            segmented,
            self._place.logic.engine,
            ct,
            mode=parameters.mode.value,
            device=parameters.device.value,
            bundle=self._place.bundle(),
            uncertainty=parameters.mapUncertainty,
        )
        digest = "" if segmentation is None else segments_digest(segmentation)
        stamp = VoxelStamp(ct.fingerprint, volume.GetImageData().GetMTime())
        return _Run(volume, segmentation, digest, stamp, RunClock(), []), work

    def cancel(self) -> None:
        """Stop the run at its next step."""
        if self.running:
            self._place.runner.cancel()
            self._ui.progressBar.setFormat(_("Stopping..."))
            self._place.refresh()

    def scene_closes(self) -> None:
        """Stop the run and forget the nodes of the scene."""
        self._before = None
        if self._run is None:
            self._show_status("")
        else:
            self.cancel()
            self._run.volume = self._run.segmentation = None

    def undo(self) -> None:
        """Bring back the segments as they were before the last run; ask if they were corrected since."""
        before = self._before
        if before is None or before.why_not_restore(chosen=self._place.segmentation()):
            self._place.refresh()
            return
        if is_edited(before.segmentation):
            text = _("The segments of '{name}' were corrected after the last run. Undo the run, and lose that?")
            if not self._place.dialogs.confirm(text.format(name=before.segmentation.GetName())):
                return
        try:
            with self._changing():
                before.restore()
        except Exception as error:  # such as MemoryError; it may be tried again
            self._show_error(error)
            return
        self._before = None
        self._show_status(_("The segments are as they were before the last run."))
        self._published(Published(before.segmentation, before=None, report={}))
        self._place.refresh()

    def show_details(self) -> None:
        """Show the traceback of the last error."""
        self._place.dialogs.show_details(str(self._ui.statusLabel.text), details=self._details)

    def _check_output(self) -> None:
        segmentation = self._place.segmentation()
        if segmentation is not None:
            check_replaceable(self._place.logic.context, segmentation=segmentation, volume=self._place.volume())

    def _on_progress(self, progress: Progress) -> None:
        if self._run is None:
            return
        if progress.message:
            self._run.messages.append(shown(progress.message))
            self._show_status(self._run.messages[-1], role="warning")
        position = self._run.clock.update(progress)
        self._ui.progressBar.setValue(position.permille)
        self._ui.progressBar.setFormat(position_text(position))

    def _on_finished(self, result: Any) -> None:
        run, self._run = self._run, None
        assert run is not None
        try:
            published = self._publish(result, run=run)
        except Exception as error:
            self._show_error(error)
        else:
            done = _("Done in {duration}.").format(duration=duration_text(run.clock.elapsed_s))
            self._show_status(" ".join([done, *run.messages]), role="warning" if run.messages else "")
            self._published(published)
        self._place.refresh()

    def _publish(self, result: Any, *, run: _Run) -> Published:
        """Put the result into the scene and show it; what cannot be shown is there all the same, and can be undone."""
        context = self._place.logic.context
        run.stamp.check(self._place.logic, volume=run.volume)
        segmentation, message = where_to_publish(
            context, segmentation=run.segmentation, volume=run.volume, digest=run.digest
        )
        run.messages += [message] if message else []
        previous = None if segmentation is None else self._figures_of(segmentation) or stored_report(segmentation)
        with self._changing():
            published = publish(
                self._place.logic, result=result, volume=run.volume, segmentation=segmentation, previous=previous
            )
        self._before = published.before
        if self._place.parameters is not None:
            self._place.parameters.inputVolume = run.volume
            self._place.parameters.segmentation = published.segmentation
        with self._changing():
            problem = put_on_show(context, published=published, volume=run.volume)
        run.messages += [problem] if problem else []
        return published

    def _on_failed(self, failure: Failure) -> None:
        self._run = None
        self._show_error(failure.error, details=failure.details)
        self._place.refresh()

    def _on_stopped(self) -> None:
        run, self._run = self._run, None
        closed = run is not None and run.volume is None
        text = _("The scene was closed; the run was stopped.") if closed else _("Cancelled. The scene is as it was.")
        self._show_status(text)
        self._place.refresh()

    def _show_error(self, error: BaseException, *, details: str = "") -> None:
        text = explain_error(error, hint=_("Press Details and report what they say."))
        self._show_status(text, role="error", details=details or details_of(error))

    def _show_status(self, text: str, *, role: str = "", details: str = "") -> None:
        self._details = details
        show_text(self._ui.statusLabel, text, role=role)
        self._ui.detailsButton.visible = bool(details)
