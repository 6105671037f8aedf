"""In the section Correct: the map of uncertainty over the slices, and a walk through the regions to check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ..errors import Cancelled, CovidSegError
from ..results.segment_masks import SegmentMasks
from ..runner import Failure, Handlers, Runner, Work
from ..scenes.display import jump_to, local_point, world_point
from ..scenes.segments import read_masks
from ..scenes.uncertainty import find_map, follow_foregrounds, map_array, map_is_shown, show_map
from ..uncertainty import NEXT_TO_MM, UncertainRegion, uncertain_regions
from .choices import offer_no_maps
from .figures import Figures
from .texts import no_result_text
from .workplace import Workplace, explain_error, import_for_worker, log_and_explain, show_text

#: Pause before the regions are searched, and before the next try while the figures are being measured.
LOOK_AFTER_MS = 100


@dataclass(frozen=True)
class Stop:
    """A region to check.

    Attributes:
        region: Its place and volume.
        lung: The lung it belongs to, "left" or "right"; empty if it is near neither.
        inside: Whether its centre is inside that lung.
    """

    region: UncertainRegion
    lung: str
    inside: bool


class UncertaintySteps:
    """Searches the uncertain regions of the chosen result in the background, and steps through them."""

    def __init__(self, place: Workplace, *, measurer: Runner, figures: Figures) -> None:
        """Work in `place`; search on the worker `measurer` whenever `figures` do not need it."""
        import qt

        self._place, self._ui, self._measurer, self._figures = place, place.ui, measurer, figures
        self._key: tuple[str, int] | None = None
        self._stops: list[Stop] | None = None
        self._at: int | None = None
        self._problem = ""
        self._underway = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(LOOK_AFTER_MS)
        self._timer.connect("timeout()", self._look)
        self._ui.uncertaintyMapCheckBox.connect("clicked(bool)", self.show_map)
        self._ui.nextRegionButton.connect("clicked(bool)", self.go_on)
        self._ui.previousRegionButton.connect("clicked(bool)", self.go_back)

    def refresh(self) -> None:
        """Follow the scene's maps, the chosen result and its map, and show what can be done now."""
        offer_no_maps(self._ui.inputVolumeSelector, context=self._place.logic.context)
        follow_foregrounds(self._place.logic.context)
        key = self._key_of(self._map())
        if key != self._key:
            if self._ui.uncertaintyMapCheckBox.checked:  # the map over the CT is that of the earlier result
                show_map(self._place.logic.context, map_node=self._map())
            self._forget()
            self._key = key
            if key is not None:
                self._timer.start()
        self._show()

    def show_map(self) -> None:
        """Lay the map over the slices or take it away, as the check box says."""
        checked = self._ui.uncertaintyMapCheckBox.checked
        show_map(self._place.logic.context, map_node=self._map() if checked else None)
        self.refresh()

    def go_on(self) -> None:
        """Move the slice views to the next region; the first follows the last."""
        self._go_to(0 if self._at is None else self._at + 1)

    def go_back(self) -> None:
        """Move the slice views to the previous region; the last precedes the first."""
        self._go_to((self._at or 0) - 1)

    def scene_closes(self) -> None:
        """Forget the scene's map and regions, and uncover what the map hides: the scene may outlive the panel."""
        self._forget()
        show_map(self._place.logic.context, map_node=None)

    def _go_to(self, number: int) -> None:
        self.refresh()  # the map may just have been removed
        if not self._stops:
            return
        self._at = number % len(self._stops)
        node = self._map()
        point_ras = local_point(node, self._stops[self._at].region.center_ijk)
        jump_to(self._place.logic.context, ras=world_point(node, point_ras=point_ras))
        self._show()

    def _map(self) -> Any:
        return find_map(self._place.segmentation())

    def _key_of(self, node: Any) -> tuple[str, int] | None:
        """Return a key that changes with the map's voxels; None without a map, or without voxels."""
        image = None if node is None else node.GetImageData()
        return None if image is None else (node.GetID(), image.GetMTime())

    def _forget(self) -> None:
        self._timer.stop()
        if self._underway:
            self._measurer.cancel()
        self._key, self._stops, self._at, self._problem = None, None, None, ""

    def _why_no_map(self) -> str:
        if self._place.segmentation() is None:
            return no_result_text()
        if self._key is None:
            text = _("This result has no map of uncertainty. Check '{option}' above, and segment again.")
            return text.format(option=str(self._ui.mapUncertaintyCheckBox.text).replace("&", ""))
        return ""

    def _why_not(self) -> str:
        if reason := self._why_no_map() or self._problem:
            return reason
        if self._stops is None:
            return _("Looking for uncertain regions...")
        return "" if self._stops else _("No uncertain region was found.")

    def _show(self) -> None:
        no_map, reason = self._why_no_map(), self._why_not()
        self._place.allow("uncertaintyMapCheckBox", unless=no_map)
        shown = not no_map and map_is_shown(self._place.logic.context, map_node=self._map())
        self._ui.uncertaintyMapCheckBox.checked = shown
        for name in ("previousRegionButton", "nextRegionButton"):
            self._place.allow(name, unless=reason)
        text = "" if no_map else reason or self._progress_text()
        show_text(self._ui.regionLabel, text, role="error" if self._problem else "")

    def _progress_text(self) -> str:
        """Return which of the regions is on show."""
        stops = self._stops or []
        if self._at is None:
            many = _("{count} uncertain regions, the most important first.").format(count=len(stops))
            return many if len(stops) > 1 else _("1 uncertain region.")
        stop = stops[self._at]
        text = _("Region {number} of {count}: {ml} ml, {where}")
        return text.format(
            number=self._at + 1, count=len(stops), ml=f"{stop.region.volume_ml:.1f}", where=where_text(stop)
        )

    def _look(self) -> None:
        """Start to search the regions, unless the worker is busy; the figures have precedence."""
        self.refresh()
        if self._key is None or self._stops is not None:
            return
        if self._measurer.busy or self._figures.measuring:
            self._timer.start()
            return
        try:
            work = self._work()
        except (CovidSegError, MemoryError) as error:
            self._problem = explain_error(error)
        else:
            handlers = Handlers(finished=self._found, failed=self._failed, stopped=self._over)
            self._measurer.start(work, handlers=handlers)
            self._underway = True
        self._place.refresh()

    def _work(self) -> Work:
        """Return the work for the worker, with copies of all that it needs."""
        import_for_worker("scipy.ndimage")
        node = self._map()
        return partial(find_stops, map_array(node), masks=read_masks(self._place.segmentation(), volume_node=node))

    def _found(self, stops: list[Stop]) -> None:
        """Take the regions over; they are of the present map, as another map stops a search."""
        self._stops = stops
        self._over()

    def _failed(self, failure: Failure) -> None:
        self._problem = log_and_explain(failure)
        self._over()

    def _over(self) -> None:
        """Give the worker back to the figures; search again if the map has changed meanwhile."""
        self._underway = False
        if self._stops is None and not self._problem:
            self._timer.start()
        self._figures.work_is_over()
        self.refresh()


def find_stops(
    uncertainty_kji: np.ndarray,
    *,
    masks: SegmentMasks,
    progress: Callable[[Any], None],
    cancelled: Callable[[], bool],
) -> list[Stop]:
    """Return the uncertain regions with the lung they belong to, the most important first.

    Args:
        uncertainty_kji: (k, j, i) uint8 in per cent; not modified.
        masks: The segments on its grid.
        progress: Not called: it takes a second or two.
        cancelled: Asked before the work begins.

    Raises:
        Cancelled: `cancelled` returned True.
    """
    if cancelled():
        raise Cancelled
    regions = uncertain_regions(uncertainty_kji, labelmap_kji=masks.to_labelmap(), geometry=masks.geometry)
    return [_stop(region, masks=masks) for region in regions]


def _stop(region: UncertainRegion, *, masks: SegmentMasks) -> Stop:
    """Return a region with the lung that takes up most of its surroundings."""
    center_kji = region.center_ijk[::-1]
    lungs = {"left": masks.left_kji, "right": masks.right_kji}
    for lung, mask_kji in lungs.items():
        if mask_kji[center_kji]:
            return Stop(region, lung, True)
    reach = [int(np.ceil(NEXT_TO_MM / spacing_mm)) for spacing_mm in masks.geometry.spacing_ijk_mm[::-1]]
    around = tuple(slice(max(0, n - far), n + far + 1) for n, far in zip(center_kji, reach, strict=True))
    voxels = {lung: int(np.count_nonzero(mask_kji[around])) for lung, mask_kji in lungs.items()}
    lung = max(voxels, key=lambda name: voxels[name])
    return Stop(region, lung if voxels[lung] else "", False)


def where_text(stop: Stop) -> str:
    """Return where a region is, for people."""
    return {
        ("left", True): _("left lung"),
        ("right", True): _("right lung"),
        ("left", False): _("next to the left lung"),
        ("right", False): _("next to the right lung"),
    }.get((stop.lung, stop.inside), _("outside the lungs"))
