"""The two charts of the section Results, and the slider that moves the slice views along the lungs.

They show the curves that `scenes.plots` puts into a plot view, with shorter names, as there is less room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ..results.hu_histogram import BIN_MIDDLES_HU
from ..scenes.plots import COLORS
from .charts import HEIGHT, Axes, Line, chart_picture, share_at, watch_label
from .measure import Measurement

#: Visible on light and dark; `scenes.plots` has a darker grey, as plot views are white.
_BOTH_LUNGS_RGB = (0.55, 0.55, 0.55)
_WIDGETS = ("histogramTitle", "histogramLabel", "profileTitle", "profileLabel", "positionSlider")


class CurvesView:
    """Draws histogram and profile of a measurement."""

    def __init__(self, ui: Any, *, moved: Callable[[int], None]) -> None:
        """Draw into the widgets of `ui`; `moved` is called with the row of the profile that the user chose."""
        import qt

        self._ui, self._moved = ui, moved
        self._measurement: Measurement | None = None
        for label in (ui.histogramLabel, ui.profileLabel):
            label.setFixedHeight(HEIGHT)
            label.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self._filters = (
            watch_label(ui.histogramLabel, clicked=lambda _x: None, resized=self._draw_density),
            watch_label(ui.profileLabel, clicked=self._clicked, resized=self._draw_profile),
        )
        ui.positionSlider.connect("valueChanged(int)", self._slid)

    def show(self, measurement: Measurement | None) -> None:
        """Draw a measurement's curves; hide the charts for None, or without lungs."""
        self._measurement = measurement if measurement is not None and measurement.profile.distance_mm.size else None
        for name in _WIDGETS:
            getattr(self._ui, name).visible = self._measurement is not None
        if self._measurement is not None:
            slider = self._ui.positionSlider
            last = self._measurement.profile.distance_mm.size - 1
            slider.blockSignals(True)
            slider.setMaximum(last)
            slider.setValue(int(np.argmax(self._measurement.profile.infection_ml["lungs"])))
            slider.blockSignals(False)
            self._draw_density()
            self._draw_profile()

    def _clicked(self, pixel_x: float) -> None:
        if self._measurement is not None:
            last = self._measurement.profile.distance_mm.size - 1
            self._ui.positionSlider.setValue(round(share_at(pixel_x, width=self._ui.profileLabel.width) * last))

    def _slid(self, row: int) -> None:
        self._draw_profile()
        self._moved(row)

    def _draw_density(self) -> None:
        if self._measurement is None:
            return
        density = self._measurement.quantities.density
        ticks = tuple((float(hu), f"{hu}") for hu in (-1000, -750, -500, -250, 0))
        self._paint(
            self._ui.histogramLabel,
            axes=Axes(BIN_MIDDLES_HU, ticks),
            lines=(
                Line(_("lungs"), density.lungs_percent, COLORS["left_lung"]),
                Line(_("infection"), density.infection_percent, COLORS["infection"]),
            ),
        )

    def _draw_profile(self) -> None:
        if self._measurement is None:
            return
        profile = self._measurement.profile
        x = profile.distance_mm
        ticks = ((float(x[0]), _("apex")), (float(x[-1] / 2), f"{x[-1] / 2:.0f} mm"), (float(x[-1]), _("base")))
        self._paint(
            self._ui.profileLabel,
            axes=Axes(x, ticks),
            lines=(
                Line(_("left"), profile.poi_percent("left_lung"), COLORS["left_lung"]),
                Line(_("right"), profile.poi_percent("right_lung"), COLORS["right_lung"]),
                Line(_("both"), profile.poi_percent("lungs"), _BOTH_LUNGS_RGB),
            ),
            marker_x=float(x[self._ui.positionSlider.value]),
        )

    def _paint(self, label: Any, *, axes: Axes, lines: tuple[Line, ...], marker_x: float | None = None) -> None:
        width, ratio = max(int(label.width), 200), float(label.devicePixelRatioF())
        picture = chart_picture(axes, lines=lines, width=width, palette=label.palette, marker_x=marker_x, ratio=ratio)
        label.setPixmap(picture)
