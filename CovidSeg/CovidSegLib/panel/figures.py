"""Keeps the figures of the chosen segmentation up to date: they are measured again after every edit.

A worker of their own measures them from the segments as they are now, so that a run may go on at the same time. Until
they arrive, those of the report stored with the segmentation are shown; it remains the state before correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import CovidSegError
from ..report import renewed_warnings
from ..runner import Failure, Handlers, Runner
from ..scenes.display import world_orientation
from ..scenes.edited import EditWatcher
from ..scenes.outputs import TABLE_ROLE, ct_of, output_table
from ..scenes.plots import update_plots
from ..scenes.report import stored_report, stored_warnings
from ..scenes.segments import read_masks, why_not_measured
from ..scenes.texts import shown
from ..scenes.warnings import segment_warnings
from .measure import KnownCt, Measurement, measure
from .workplace import PanelLogic, explain_error, import_for_worker, log_and_explain

if TYPE_CHECKING:
    from ..volume import CTVolume

#: Pause in editing after which the figures are measured again.
UPDATE_AFTER_MS = 300


class State(Enum):
    """How the last measurement stands to the segments as they are now."""

    UP_TO_DATE = auto()  # also if there is no segmentation
    OUTDATED = auto()  # the segments have changed; measured after a pause in editing, and once the measurer is free
    MEASURING = auto()
    BLOCKED = auto()  # the segments could not be measured; shown until the next try


class Figures:
    """The figures of one segmentation.

    Attributes:
        node: The segmentation; None for none.
        current: As in report.json; None without a result.
        warnings: About `current`, as texts that can be translated.
        measurement: Figures and curves as measured; None before the first measurement.
        state: How that stands to the segments as they are now.
        problem: Why they could not be measured; empty unless the state is BLOCKED.
    """

    def __init__(self, logic: PanelLogic, *, measurer: Runner, changed: Callable[[], None]) -> None:
        """Measure on the worker `measurer`; `changed` is called whenever anything here has changed."""
        import qt

        self._logic, self._measurer, self._changed = logic, measurer, changed
        self.node: Any = None
        self.current: Mapping[str, Any] | None = None
        self.warnings: Sequence[str] = ()
        self.measurement: Measurement | None = None
        self.state = State.UP_TO_DATE
        self.problem = ""
        self._watcher: EditWatcher | None = None
        self._ct: KnownCt | None = None
        self._ct_time = 0
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(UPDATE_AFTER_MS)
        self._timer.connect("timeout()", self.measure)

    @property
    def measuring(self) -> bool:
        """Whether newer figures are on their way."""
        return self.state in (State.OUTDATED, State.MEASURING)

    @property
    def stale(self) -> bool:
        """Whether the segments, as they are now, have still to be measured."""
        return self.state in (State.OUTDATED, State.BLOCKED)

    @property
    def volume(self) -> Any:
        """The CT of the segmentation, if it is in the scene."""
        return None if self.node is None else ct_of(self.node)

    def choose(self, segmentation: Any) -> None:
        """Keep the figures of another segmentation; None for none."""
        if segmentation is self.node:
            return
        self._timer.stop()
        self._stop()
        if self._watcher is not None:
            self._watcher.stop()
        self.node, self._watcher, self.current, self.measurement = segmentation, None, None, None
        self.state, self.problem, self._ct, self.warnings = State.UP_TO_DATE, "", None, ()
        if segmentation is not None:
            self._watcher = EditWatcher(segmentation, on_edited=self._outdated)
            self.renew()
        self._changed()

    def renew(self, *, ct: KnownCt | None = None) -> None:
        """Start again from the stored report, after a run or an undo; what is known of the CT saves reading it."""
        if self.node is not None:
            self.current, self.warnings = stored_report(self.node), stored_warnings(self.node)
            if self.current is None:
                self.measurement = None
            if ct is not None:
                self._keep(ct)
            self._outdated()

    def ignoring_edits(self) -> AbstractContextManager[Any]:
        """Return a context in which changes of the segments do not count as the user's edits."""
        return nullcontext() if self._watcher is None else self._watcher.ignoring()

    def work_is_over(self) -> None:
        """Measure soon, if that had to wait for other work of the measurer."""
        if self.stale:
            self._timer.start()
        self._changed()

    def measure(self) -> None:
        """Start to measure the segments as they are now."""
        if self.node is None:
            return
        if self._measurer.busy:
            self._timer.start()
            return
        self._timer.stop()  # it may be the user who asked, in the pause after an edit
        try:
            problem = shown(why_not_measured(self.node, volume_node=self.volume))
            work = None if problem else self._work()
        except (CovidSegError, MemoryError) as error:
            problem, work = explain_error(error), None
        if work is None:
            self.state, self.problem = State.BLOCKED, problem
        else:
            handlers = Handlers(finished=self._measured, failed=self._failed, stopped=self.work_is_over)
            self._measurer.start(work, handlers=handlers)
            self.state, self.problem = State.MEASURING, ""
        self._changed()

    def _stop(self) -> None:
        """Stop measuring; other work of the measurer goes on."""
        if self.state is State.MEASURING:
            self._measurer.cancel()

    def _work(self) -> Any:
        """Return the work for the measurer, with copies of all that it needs."""
        import_for_worker("scipy.ndimage")
        source: CTVolume | KnownCt | None = self._ct
        image = self.volume.GetImageData()
        if source is None or image is None or self._ct_time != image.GetMTime():
            source = self._logic.volumeFromNode(self.volume)
        masks = read_masks(self.node, volume_node=self.volume)
        return partial(measure, source, masks=masks, orientation=world_orientation(self.volume))

    def _keep(self, ct: KnownCt) -> None:
        """Keep what is known of the CT; it holds as long as the volume's voxels are not changed."""
        image = None if self.volume is None else self.volume.GetImageData()
        if image is not None:
            self._ct, self._ct_time = ct, image.GetMTime()

    def _outdated(self) -> None:
        """Note that the segments have changed, and measure them soon."""
        self._stop()
        if self.state is not State.BLOCKED:
            self.state = State.OUTDATED
        self._timer.start()
        self._changed()

    def _measured(self, measurement: Measurement) -> None:
        """Take the figures over; they are of `node`, as choosing another segmentation stops a measurement."""
        self.state = State.UP_TO_DATE
        self.measurement, self.current = measurement, measurement.quantities.to_dict()
        self.warnings = warnings_of_now(self.node, measurement=measurement)
        self._keep(measurement.ct)
        table = self._table()
        if table is not None:
            self._logic.updateTable(table, quantities=measurement.quantities)
        volume = self.volume
        if volume is not None:  # else it was removed while the worker measured
            update_plots(self.node, volume_node=volume, quantities=measurement.quantities, profile=measurement.profile)
        self.work_is_over()

    def _table(self) -> Any:
        """Return the table node for the figures; None without one. A clone gets one of its own."""
        table, volume = self.node.GetNodeReference(TABLE_ROLE), self.volume
        if table is None or volume is None:
            return table
        with ExitStack() as undo:
            own = output_table(self._logic.context, segmentation_node=self.node, volume_node=volume, undo=undo)
            undo.pop_all()
        if own is not table:
            self._logic.context.place_beside(own, neighbour=volume)
        return own

    def _failed(self, failure: Failure) -> None:
        """Say why; the user may try again, a retry by itself would only fail again."""
        self.state, self.problem = State.BLOCKED, log_and_explain(failure)
        self._changed()


def warnings_of_now(segmentation: Any, *, measurement: Measurement) -> tuple[str, ...]:
    """Return the warnings about figures that were just measured, as texts that can be translated."""
    earlier = {**(stored_report(segmentation) or {}), "warnings": stored_warnings(segmentation)}
    segments = segment_warnings(segmentation, volume_node=ct_of(segmentation), voxels=measurement.ct.voxels)
    now = (*measurement.ct.warnings, *segments, *measurement.unseen)
    return renewed_warnings(earlier, quantities=measurement.quantities, now=now)
