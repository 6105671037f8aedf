"""What the panel asks of the application's windows: plot view, slice views, clipboard, file manager."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError
from ..scene import SceneContext
from ..scenes.display import local_point, scroll_to, world_point
from ..scenes.plots import ras_of_profile_point


class Views(Protocol):
    """What the sections need of the windows; `SlicerViews` in the application, a stand-in in some tests."""

    def show_chart(self, chart_node: Any) -> None: ...

    def look_at(self, volume_node: Any, *, index_ijk: tuple[int, ...]) -> None: ...

    def copy_text(self, text: str) -> None: ...

    def open_folder(self, folder: Path) -> None: ...


class SlicerViews:
    """The layout of the Slicer application."""

    def __init__(self, context: SceneContext) -> None:
        """Work on the scene of `context`."""
        self._context = context
        self._plot_view: Any = None
        self._points: dict[str, int] = {}
        self._clicked = ""

    def show_chart(self, chart_node: Any) -> None:
        """Show a chart in the layout's plot view; if it has none, a layout with one is chosen."""
        import slicer

        manager = slicer.app.layoutManager()
        if manager is None:  # Slicer runs without its main window
            return
        if _plot_on_show(manager) is None:
            manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
        widget = _plot_on_show(manager) or manager.plotWidget(0)
        widget.mrmlPlotViewNode().SetPlotChartNodeID(chart_node.GetID())
        view = widget.plotView()
        if view is not self._plot_view:
            self._plot_view = view
            view.connect("dataSelected(vtkStringArray*,vtkCollection*)", self._point_selected)

    def look_at(self, volume_node: Any, *, index_ijk: tuple[int, ...]) -> None:
        """Bring the slice views to a voxel of a volume."""
        i, j, k = index_ijk
        point_ras = world_point(volume_node, point_ras=local_point(volume_node, (i, j, k)))
        scroll_to(self._context, ras=point_ras)

    def copy_text(self, text: str) -> None:
        """Put a text into the clipboard."""
        import slicer

        slicer.app.clipboard().setText(text)

    def open_folder(self, folder: Path) -> None:
        """Open a folder in the file manager."""
        import qt

        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def _point_selected(self, series_ids: Any, selections: Any) -> None:
        """Move the slice views to the point that was clicked in a profile's plot.

        Slicer reports the selected points of all curves, and a curve keeps its point when another curve is clicked;
        the curve whose point changed is the one that was clicked.
        """
        before, self._points = self._points, _points(series_ids, selections)
        changed = [series_id for series_id, row in self._points.items() if before.get(series_id) != row]
        if changed or self._clicked not in self._points:
            self._clicked = next(iter(changed or self._points), "")
        series = self._context.scene.GetNodeByID(self._clicked)
        table = None if series is None else series.GetTableNode()
        if table is not None:
            with suppress(InputError):  # a plot other than the profile, or the CT is gone
                scroll_to(self._context, ras=ras_of_profile_point(table, row=self._points[self._clicked]))


def _plot_on_show(manager: Any) -> Any:
    """Return the first plot view of the present layout, or None; Slicer keeps, and counts, those of earlier layouts."""
    widgets = [manager.plotWidget(index) for index in range(manager.plotViewCount)]
    return next((widget for widget in widgets if widget.mrmlPlotViewNode().IsMappedInLayout()), None)


def _points(series_ids: Any, selections: Any) -> dict[str, int]:
    """Return the row of the selected point of each curve, by the ID of the curve's series."""
    count = min(series_ids.GetNumberOfValues(), selections.GetNumberOfItems())
    rows = ((series_ids.GetValue(n), selections.GetItemAsObject(n)) for n in range(count))
    return {series_id: int(chosen.GetValue(0)) for series_id, chosen in rows if chosen.GetNumberOfTuples()}
