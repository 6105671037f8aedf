"""Keeps the figures of the chosen segmentation up to date: measured again after every edit.

They are measured from the segments as they are now, on a worker of their own, so that a run may go on
beside. Until they arrive, the report that was stored with the segmentation is at hand; it stays as the
state before correction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from .errors import CovidSegError
from .logic import REPORT_ATTRIBUTE, WARNINGS_ATTRIBUTE
from .report import renewed_warnings
from .runner import Failure, Handlers, Runner
from .scene_display import world_orientation
from .scene_edited import EditWatcher
from .scene_outputs import TABLE_ROLE, ct_of
from .scene_segments import find_segments, read_masks
from .texts import Text
from .widget_measure import KnownCt, Measurement, measure
from .widget_tools import PanelLogic, explain_error, explain_failure, import_for_worker

if TYPE_CHECKING:
    import numpy as np

    from .volume import CTVolume

#: Pause in editing after which the figures are measured again.
UPDATE_AFTER_MS = 300


class Figures:
    """The figures of one segmentation.

    Attributes:
        node: The segmentation; None for none.
        current: As in report.json; None without a result.
        warnings: What to know of `current`, as texts that can be translated.
        measurement: Figures and curves as measured; None before that.
        stale: Whether the segments were changed since the measurement began.
        problem: Why they cannot be measured; empty if they can.
    """

    def __init__(self, logic: PanelLogic, *, measurer: Runner, changed: Callable[[], None]) -> None:
        """Measure on `measurer`; `changed` is called whenever anything here did."""
        import qt

        self._logic, self._measurer, self._changed = logic, measurer, changed
        self.node: Any = None
        self.current: Mapping[str, Any] | None = None
        self.warnings: Sequence[str] = ()
        self.measurement: Measurement | None = None
        self.stale = False
        self.problem = ""
        self._watcher: EditWatcher | None = None
        self._underway = False
        self._ct: KnownCt | None = None
        self._ct_time = 0
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(UPDATE_AFTER_MS)
        self._timer.connect("timeout()", self.measure)

    @property
    def measuring(self) -> bool:
        """Whether figures will come without anybody's doing."""
        return self.node is not None and not self.problem and (self.stale or self._underway)

    @property
    def left_behind(self) -> bool:
        """Whether the segments may have changed since they were measured, and cannot be measured now."""
        return self.current is not None and self.stale and bool(self.problem)

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
        self.stale, self.problem, self._ct, self.warnings = False, "", None, ()
        if segmentation is not None:
            self._watcher = EditWatcher(segmentation, on_edited=self._outdated)
            self.renew()
        self._changed()

    def renew(self, *, hu_kji: np.ndarray | None = None) -> None:
        """Begin anew with the stored report, after a run or an undo; the CT in HU saves a copy if it is at hand."""
        if self.node is not None:
            self.current, self.warnings = stored_report(self.node), stored_warnings(self.node)
            if self.current is None:
                self.measurement = None
            if hu_kji is not None:
                self._keep(KnownCt(hu_kji))
            self._outdated()

    def ignoring_edits(self) -> AbstractContextManager[Any]:
        """Return a context in which changes of the segments are CovidSeg's own."""
        return nullcontext() if self._watcher is None else self._watcher.ignoring()

    def work_is_over(self) -> None:
        """Measure now, if that had to wait for something else on the measurer."""
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
        try:
            self.problem = why_not_measured(self.node, volume=self.volume)
            work = None if self.problem else self._work()
        except (CovidSegError, MemoryError) as error:
            self.problem, work = explain_error(error), None
        if work is not None:
            self.stale = False  # an edit from now on makes it so again
            handlers = Handlers(finished=self._measured, failed=self._failed, stopped=self._stopped)
            self._measurer.start(work, handlers=handlers)
            self._underway = True
        self._changed()

    def _stop(self) -> None:
        """Stop measuring; what else the measurer does goes on."""
        if self._underway:
            self._measurer.cancel()

    def _work(self) -> Any:
        """Return what the measurer does, with copies of all it needs."""
        import_for_worker("scipy.ndimage")
        source: CTVolume | KnownCt | None = self._ct
        if source is None or self._ct_time != self.volume.GetImageData().GetMTime():
            source = self._logic.volumeFromNode(self.volume)
        masks = read_masks(self.node, volume_node=self.volume)
        return partial(measure, source, masks=masks, orientation=world_orientation(self.volume))

    def _keep(self, ct: KnownCt) -> None:
        """Keep what is known of the CT for as long as nobody changes the volume's voxels."""
        if self.volume is not None:
            self._ct, self._ct_time = ct, self.volume.GetImageData().GetMTime()

    def _outdated(self) -> None:
        """Note that the figures are not those of the segments, and measure them soon."""
        self.stale = True
        self._stop()
        self._timer.start()
        self._changed()

    def _stopped(self) -> None:
        self._underway = False
        self.work_is_over()

    def _measured(self, measurement: Measurement) -> None:
        """Take the figures; they are of the chosen segmentation, as choosing another stops what is under way."""
        self._underway = False
        self.measurement, self.current = measurement, measurement.quantities.to_dict()
        self.warnings = warnings_of_now(self.node, measurement=measurement)
        self._keep(measurement.ct)
        table = self.node.GetNodeReference(TABLE_ROLE)
        if table is not None:
            self._logic.updateTable(table, quantities=measurement.quantities)
        self.work_is_over()

    def _failed(self, failure: Failure) -> None:
        """Say why; it is not tried again by itself, as it would fail again."""
        self._underway = False
        self.stale = True  # what is on show is of an earlier state
        self.problem = explain_failure(failure)
        self._changed()


def stored_report(segmentation: Any) -> dict[str, Any] | None:
    """Return the report of the run that made a segmentation; None if there is none, or it is damaged."""
    text = segmentation.GetAttribute(REPORT_ATTRIBUTE)
    try:
        report = json.loads(text) if text else None
    except json.JSONDecodeError:
        return None
    return report if isinstance(report, dict) and "regions" in report and "severity" in report else None


def stored_warnings(segmentation: Any) -> Sequence[str]:
    """Return what the report of `stored_report` warns of, as texts that can be translated."""
    warnings = (stored_report(segmentation) or {}).get("warnings", [])
    try:
        texts = [Text.from_dict(entry) for entry in json.loads(segmentation.GetAttribute(WARNINGS_ATTRIBUTE) or "[]")]
    except (json.JSONDecodeError, KeyError, TypeError):
        return warnings
    # Those of another report are left alone.
    return texts if list(map(str, texts)) == warnings else warnings


def warnings_of_now(segmentation: Any, *, measurement: Measurement) -> tuple[str, ...]:
    """Return what to know of the figures that were just measured, as texts that can be translated."""
    earlier = {**(stored_report(segmentation) or {}), "warnings": stored_warnings(segmentation)}
    now = (*measurement.ct.warnings, *measurement.unseen)
    return renewed_warnings(earlier, quantities=measurement.quantities, now=now)


def why_not_measured(segmentation: Any, *, volume: Any) -> str:
    """Return why a segmentation cannot be measured; empty if it can."""
    found = find_segments(segmentation)
    if not found:
        return _("This segmentation has no segments of CovidSeg. Press Segment to make them.")
    if "infection" not in found:
        return _("The infection segment is missing. If nothing is infected, keep the segment and erase its content.")
    if "left_lung" not in found and "right_lung" not in found:
        return _("Both lung segments are missing. Segment the CT again.")
    if volume is None:
        return _("The CT of this segmentation is not in the scene. Load it; if several have its grid, choose it above.")
    return ""
