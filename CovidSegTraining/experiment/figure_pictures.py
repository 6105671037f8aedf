"""The paper's figure 6: slices of a few cases as CT, reference and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from CovidSegLib.geometry import Geometry
from CovidSegLib.labels import SEGMENTS, Label
from CovidSegLib.orient import Orientation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_HU = (-1250.0, 250.0)
OPACITY = {Label.LEFT_LUNG: 0.35, Label.RIGHT_LUNG: 0.35, Label.INFECTION: 0.6}
PANEL_INCHES = 2.5


@dataclass(frozen=True)
class PictureRow:
    """An axial slice in radiological view: the patient's right on the left, anterior up.

    Attributes:
        title: Printed beside the slice.
        hu: (rows, columns) CT.
        truth: (rows, columns) labels.
        found: (rows, columns) labels.
        spacing_mm: Distance between rows, and between columns.
    """

    title: str
    hu: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    spacing_mm: tuple[float, float]


def picture_row(
    hu_kji: np.ndarray, *, title: str, truth_kji: np.ndarray, found_kji: np.ndarray, geometry: Geometry
) -> PictureRow:
    """Return the slice with the most infection in the reference, or with the most lung if there is no infection.

    Args:
        hu_kji: (k, j, i) CT in HU.
        title: Printed beside it.
        truth_kji: (k, j, i) integers, values as in `Label`.
        found_kji: (k, j, i) integers, values as in `Label`.
        geometry: Grid of all three, in any direction.
    """
    orientation = Orientation.of(geometry)
    hu, truth, found = (orientation.view(array) for array in (hu_kji, truth_kji, found_kji))
    areas = (truth == Label.INFECTION).sum(axis=(1, 2))
    if not areas.any():
        areas = (truth > 0).sum(axis=(1, 2))
    best = int(areas.argmax())
    _, p_mm, l_mm = orientation.spacing_mm(geometry)
    # Copies, so that the volumes need not stay in memory.
    return PictureRow(title, hu[best].copy(), truth[best].copy(), found[best].copy(), (p_mm, l_mm))


def draw_pictures(rows: Sequence[PictureRow], *, truth_heading: str = "reference") -> Figure:
    """Return figure 6: a row per case with CT, reference and prediction, lungs blue and infection red."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    heights = [row.hu.shape[0] * row.spacing_mm[0] / (row.hu.shape[1] * row.spacing_mm[1]) for row in rows]
    figure = Figure(
        figsize=(3 * PANEL_INCHES + 0.9, PANEL_INCHES * sum(heights) + 0.8),
        layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01),
    )
    panels = figure.subplots(len(rows), 3, squeeze=False, height_ratios=heights)
    for row, line in zip(rows, panels, strict=True):
        for panel, labels in zip(line, (None, row.truth, row.found), strict=True):
            _draw_slice(panel, row, labels=labels)
        line[0].set_ylabel(row.title, fontsize=8)
    for panel, heading in zip(panels[0], ("CT", truth_heading, "prediction"), strict=True):
        panel.set_title(heading, fontsize=10)
    handles = [Patch(facecolor=s.color_rgb, label=s.name) for s in SEGMENTS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_slice(panel: Axes, row: PictureRow, *, labels: np.ndarray | None) -> None:
    height_mm, width_mm = (count * step for count, step in zip(row.hu.shape, row.spacing_mm, strict=True))
    extent = (0.0, width_mm, height_mm, 0.0)
    low_hu, high_hu = WINDOW_HU
    panel.imshow(row.hu, cmap="gray", vmin=low_hu, vmax=high_hu, extent=extent, interpolation="bilinear")
    if labels is not None:
        panel.imshow(_colors(labels), extent=extent, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    for name, x, side in (("R", 0.02, "left"), ("L", 0.98, "right")):
        mark = panel.text(x, 0.5, name, transform=panel.transAxes, color="white", fontsize=7, ha=side, va="center")
        mark.set_bbox({"facecolor": "black", "linewidth": 0, "pad": 1.0})


def _colors(labels: np.ndarray) -> np.ndarray:
    """Return (rows, columns, 4) colours, clear where there is no segment."""
    rgba = np.zeros((*labels.shape, 4))
    for segment in SEGMENTS:
        rgba[labels == segment.label] = (*segment.color_rgb, OPACITY[segment.label])
    return rgba
