"""Small charts of the panel, drawn by Qt onto a picture; colours follow the application's, light or dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

HEIGHT = 130
#: Margins of the plot in pixels. LEFT has room for "100 %"; the slider in the .ui is aligned with the plot.
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 8, 24


@dataclass(frozen=True)
class Line:
    """A curve: its name, its y in per cent at each x of the axes (NaN for a gap), and its colour (RGB, 0 to 1)."""

    name: str
    y: np.ndarray
    color_rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Axes:
    """The x axis of a chart.

    Attributes:
        x: (n,) ascending, n at least 1, shared by all lines.
        x_ticks: (place, text) each.
    """

    x: np.ndarray
    x_ticks: tuple[tuple[float, str], ...]


def chart_picture(
    axes: Axes,
    *,
    lines: Sequence[Line],
    width: int,
    palette: Any,
    marker_x: float | None = None,
    ratio: float = 1.0,
) -> Any:
    """Return a chart as `qt.QPixmap`.

    Args:
        axes: The x axis.
        lines: The curves, the first at the back.
        width: In pixels.
        palette: The widget's `qt.QPalette`.
        marker_x: Where a vertical line marks the slice on show; no line if None.
        ratio: The screen's device pixel ratio; at a lower one Qt would enlarge the picture and blur it.
    """
    import qt

    picture = qt.QPixmap(round(width * ratio), round(HEIGHT * ratio))
    picture.setDevicePixelRatio(ratio)
    picture.fill(palette.color(qt.QPalette.Base))
    painter = qt.QPainter(picture)
    try:
        painter.setRenderHint(qt.QPainter.Antialiasing, True)
        scale = _Scale(axes, lines=lines, width=width)
        _draw_axes(painter, axes=axes, scale=scale, color=palette.color(qt.QPalette.Text))
        for line in lines:
            _draw_line(painter, axes=axes, line=line, scale=scale)
        if marker_x is not None:
            painter.setPen(_pen(palette.color(qt.QPalette.Highlight), width=2.0))
            at = int(scale.across(marker_x))
            painter.drawLine(at, TOP, at, HEIGHT - BOTTOM)
        _draw_legend(painter, lines=lines, width=width, color=palette.color(qt.QPalette.Text))
    finally:
        painter.end()
    return picture


def share_at(pixel_x: float, *, width: int) -> float:
    """Return how far along the x axis a pixel lies, from 0 to 1."""
    return float(np.clip((pixel_x - LEFT) / max(width - LEFT - RIGHT, 1), 0.0, 1.0))


class _Scale:
    """Where values lie on the picture, in pixels.

    Attributes:
        right: Right end of the plot.
        y_top: The value at its top.
    """

    def __init__(self, axes: Axes, *, lines: Sequence[Line], width: int) -> None:
        self.right = width - RIGHT
        self._x0, self._x1 = float(axes.x[0]), float(axes.x[-1])
        self.y_top = _round_up(float(np.nanmax(np.concatenate([[0.0], *(line.y for line in lines)]))))

    def across(self, x: float) -> float:
        span = self._x1 - self._x0
        share = (x - self._x0) / span if span > 0 else 0.5
        return LEFT + share * (self.right - LEFT)

    def down(self, y: float) -> float:
        return HEIGHT - BOTTOM - y / self.y_top * (HEIGHT - TOP - BOTTOM)


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 10, 20, 30, ... (whose halves are round) from the value on; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(
        next(step * power for step in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0) if value <= step * power * (1 + 1e-9))
    )


def _draw_axes(painter: Any, *, axes: Axes, scale: _Scale, color: Any) -> None:
    """Draw three horizontal lines with their per cent, and the tick labels, kept within the plot."""
    import qt

    faint = qt.QColor(color)
    faint.setAlpha(50)
    for share in (0.0, 0.5, 1.0):
        y = int(scale.down(share * scale.y_top))
        painter.setPen(_pen(faint, width=1.0))
        painter.drawLine(LEFT, y, scale.right, y)
        painter.setPen(_pen(color, width=1.0))
        text = f"{share * scale.y_top:g} %"
        painter.drawText(qt.QRect(0, y - 8, LEFT - 4, 16), _flags(qt.Qt.AlignRight, qt.Qt.AlignVCenter), text)
    for x, text in axes.x_ticks:
        text_width = painter.fontMetrics().boundingRect(text).width() + 4
        start = min(max(int(scale.across(x)) - text_width // 2, LEFT), scale.right - text_width)
        place = qt.QRect(start, HEIGHT - BOTTOM + 4, text_width, 18)
        painter.drawText(place, _flags(qt.Qt.AlignHCenter, qt.Qt.AlignVCenter), text)


def _draw_line(painter: Any, *, axes: Axes, line: Line, scale: _Scale) -> None:
    import qt

    painter.setPen(_pen(_color(line.color_rgb), width=2.0))
    points = [(scale.across(x), scale.down(y)) for x, y in zip(axes.x, line.y, strict=True)]
    for (x0, y0), (x1, y1) in pairwise(points):
        if not (np.isnan(y0) or np.isnan(y1)):
            painter.drawLine(qt.QPointF(x0, y0), qt.QPointF(x1, y1))


def _draw_legend(painter: Any, *, lines: Sequence[Line], width: int, color: Any) -> None:
    """Name the curves, from the right edge to the left."""
    import qt

    right = width - RIGHT
    for line in reversed(lines):
        text_width = painter.fontMetrics().boundingRect(line.name).width()
        painter.setPen(_pen(color, width=1.0))
        painter.drawText(
            qt.QRect(right - text_width - 4, TOP - 4, text_width + 4, 18), _flags(qt.Qt.AlignRight), line.name
        )
        painter.setPen(_pen(_color(line.color_rgb), width=3.0))
        painter.drawLine(right - text_width - 22, TOP + 5, right - text_width - 8, TOP + 5)
        right -= text_width + 34


def _pen(color: Any, *, width: float) -> Any:
    import qt

    pen = qt.QPen(color)
    pen.setWidthF(width)
    return pen


def _color(color_rgb: tuple[float, float, float]) -> Any:
    import qt

    return qt.QColor(*(round(255 * part) for part in color_rgb))


def _flags(*flags: Any) -> int:
    """Return alignment flags as the number that `drawText` takes in Qt 5 and Qt 6."""
    return sum(int(getattr(flag, "value", flag)) for flag in flags)


def watch_label(label: Any, *, clicked: Callable[[float], None], resized: Callable[[], None]) -> Any:
    """Call `clicked` with the x of each click on a label, and `resized`; return the event filter, to be kept alive."""
    import qt

    class LabelFilter(qt.QObject):  # type: ignore[misc, name-defined]
        """Sees the label's events before the label does."""

        def eventFilter(self, watched: Any, event: Any) -> bool:
            if event.type() == qt.QEvent.MouseButtonPress:
                # `pos` is deprecated in Qt 6, which warns of it.
                point = event.position() if hasattr(event, "position") else event.pos()
                clicked(float(point.x()))
            elif event.type() == qt.QEvent.Resize:
                resized()
            return False

    label_filter = LabelFilter()
    label.installEventFilter(label_filter)
    return label_filter
