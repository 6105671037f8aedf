"""`slicer.app.layoutManager()`: three slice views with real slice logics, a 3D view, a plot and a table view.

Nothing is drawn. What the views would show stands in their nodes, which are real.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from host_errors import HostError
from PySide6 import QtWidgets
from PySide6.QtCore import Signal

SLICES = ("Red", "Yellow", "Green")


class LayoutManager:
    """The views and their arrangement."""

    def __init__(self, application_logic: Any) -> None:
        import slicer

        self._application_logic = application_logic
        self._scene = scene = application_logic.GetMRMLScene()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._logic = slicer.vtkMRMLLayoutLogic()  # makes the view nodes that an arrangement needs
        self._logic.SetMRMLScene(scene)
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._layout = self._logic.GetLayoutNode()
        self._layout.SetViewArrangement(self._layout.SlicerLayoutFourUpView)
        self._slices = {name: SliceWidget(name, application_logic) for name in SLICES}
        self._plots: dict[str, PlotWidget] = {}
        self.followers: list[Callable[[], None]] = []  # told of another arrangement, as by Slicer's layoutChanged

    def __getattr__(self, name: str) -> Any:
        raise HostError(f"the host's layout manager does not know '{name}'")

    @property
    def layout(self) -> int:
        """The arrangement of views, a `vtkMRMLLayoutNode.SlicerLayout...` value."""
        return int(self._layout.GetViewArrangement())

    @layout.setter
    def layout(self, value: int) -> None:
        self.setLayout(value)

    def mrmlSliceLogics(self) -> Any:
        """Return the slice logics, a vtkCollection."""
        return self._application_logic.GetSliceLogics()

    def close(self) -> None:
        """Let go of the scene, logics first."""
        self._application_logic.GetSliceLogics().RemoveAllItems()
        for logic in (self._logic, *(widget.sliceLogic() for widget in self._slices.values())):
            logic.SetMRMLScene(None)
            logic.SetMRMLApplicationLogic(None)

    def setLayout(self, value: int) -> None:
        """Arrange the views; a plot view of the arrangement before stays, but is not on show any more."""
        self._layout.SetViewArrangement(value)
        views = self._logic.GetViewNodes()
        for node in self._plot_nodes():
            node.SetMappedInLayout(bool(views.IsItemPresent(node)))
        for follower in self.followers:
            follower()

    def sliceViewNames(self) -> tuple[str, ...]:
        """Return the names of the slice views."""
        return tuple(self._slices)

    def sliceWidget(self, name: str) -> SliceWidget:
        """Return a slice view by name."""
        return self._slices[name]

    @property
    def plotViewCount(self) -> int:
        """How many plot views there are, on show or not; none before an arrangement with a plot was chosen."""
        return len(self._plot_nodes())

    def plotWidget(self, index: int) -> PlotWidget | None:
        """Return a plot view."""
        nodes = self._plot_nodes()
        if index >= len(nodes):
            return None
        return self._plots.setdefault(nodes[index].GetID(), PlotWidget(nodes[index]))

    def _plot_nodes(self) -> list[Any]:
        count = self._scene.GetNumberOfNodesByClass("vtkMRMLPlotViewNode")
        return [self._scene.GetNthNodeByClass(index, "vtkMRMLPlotViewNode") for index in range(count)]


class SliceWidget:
    """A slice view: real slice logic, slice node and composite node."""

    def __init__(self, name: str, application_logic: Any) -> None:
        import slicer

        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(application_logic.GetMRMLScene())
        self._logic.SetSliceNode(application_logic.GetMRMLScene().GetSingletonNode(name, "vtkMRMLSliceNode"))
        self._logic.GetSliceNode().SetDimensions(300, 300, 1)
        application_logic.GetSliceLogics().AddItem(self._logic)

    def sliceLogic(self) -> Any:
        """Return the slice logic."""
        return self._logic

    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        """Return the node that says which volumes are shown."""
        return self._logic.GetSliceCompositeNode()


class PlotWidget:
    """A plot view with its node."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._view = PlotView(node)

    def mrmlPlotViewNode(self) -> Any:
        """Return the plot view node."""
        return self._node

    def plotView(self) -> PlotView:
        """Return the view."""
        return self._view


class PlotView(QtWidgets.QWidget):
    """Where a plot would be drawn."""

    _dataSelected = Signal(object, object)
    SIGNALS = {"dataSelected(vtkStringArray*,vtkCollection*)": "_dataSelected"}  # noqa: RUF012

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node = node
        self._selected: dict[str, list[int]] = {}

    def select(self, series_id: str, rows: list[int]) -> None:
        """Tell that points of a series were clicked, as the view does: first as it was before, and of all curves.

        A curve of the chart keeps its points when another one is clicked.
        """
        chart = self._node.GetScene().GetNodeByID(self._node.GetPlotChartNodeID() or "")
        count = 0 if chart is None else chart.GetNumberOfPlotSeriesNodes()
        order = [chart.GetNthPlotSeriesNodeID(index) for index in range(count)]
        self._selected = {name: self._selected[name] for name in order if name in self._selected}
        self._tell()
        self._selected[series_id] = rows
        self._selected = {name: self._selected[name] for name in (*order, series_id) if name in self._selected}
        self._tell()

    def _tell(self) -> None:
        import vtk

        names, chosen = vtk.vtkStringArray(), vtk.vtkCollection()
        for series_id, rows in self._selected.items():
            ids = vtk.vtkIdTypeArray()
            for row in rows:
                ids.InsertNextValue(row)
            names.InsertNextValue(series_id)
            chosen.AddItem(ids)
        self._dataSelected.emit(names, chosen)
