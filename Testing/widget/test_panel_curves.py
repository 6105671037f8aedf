"""The curves of Results and their plots: what they show, and how a click moves the slice views."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers_panel import Journey, edit_segment, measuring_held

pytestmark = pytest.mark.slicer


def test_slider_and_click_move_the_slice_views(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    logic = host.app.layoutManager().sliceWidget("Red").sliceLogic()
    profile = journey.panel.results.figures.measurement.profile
    journey.ui.positionSlider.setValue(3)
    k = int(profile.point_ijk[3][2])
    expected_mm = float((journey.phantom.ct.geometry.ijk_to_ras @ [0, 0, k, 1])[2])
    assert logic.GetSliceOffset() == pytest.approx(expected_mm, abs=0.01)
    qt = host.qt
    point = qt.QPointF(journey.ui.profileLabel.width - 13, 50)
    pressed = (qt.QEvent.MouseButtonPress, point, point, qt.Qt.LeftButton, qt.Qt.LeftButton, qt.Qt.NoModifier)
    event = qt.QMouseEvent(*pressed)
    host.qt.QApplication.sendEvent(journey.ui.profileLabel, event)
    assert journey.ui.positionSlider.value == journey.ui.positionSlider.maximum
    k = int(profile.point_ijk[-1][2])
    expected_mm = float((journey.phantom.ct.geometry.ijk_to_ras @ [0, 0, k, 1])[2])
    assert logic.GetSliceOffset() == pytest.approx(expected_mm, abs=0.01)


def test_curves_are_drawn_with_all_dots_of_a_fine_screen(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = Journey(host)
    journey.run()
    pictures: list[Any] = []
    label = SimpleNamespace(
        width=300,
        palette=journey.ui.profileLabel.palette,
        devicePixelRatioF=lambda: 2.0,
        setPixmap=pictures.append,
    )
    monkeypatch.setattr(journey.ui, "profileLabel", label)
    journey.ui.positionSlider.setValue(3)
    (picture,) = pictures
    assert (picture.width(), picture.devicePixelRatioF()) == (600, 2.0)


def test_plots_are_made_where_slicer_has_no_main_window(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has no layout manager, as after `--no-main-window`."""
    journey = Journey(host)
    journey.run()
    monkeypatch.setattr(host.app, "_layouts", None)
    journey.ui.plotsButton.click()
    monkeypatch.undo()
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 2


def test_most_infected_button_returns_to_that_slice(host: Any) -> None:
    journey = Journey(host)
    journey.run()
    logic = host.app.layoutManager().sliceWidget("Red").sliceLogic()
    infected_mm = logic.GetSliceOffset()
    logic.SetSliceOffset(infected_mm + 80.0)
    journey.ui.mostInfectedButton.click()
    assert logic.GetSliceOffset() == pytest.approx(infected_mm, abs=0.01)


def test_plots_are_shown_in_the_layout(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.plotsButton.click()
    chart = segmentation.GetNodeReference("CovidSeg.profile.chart")
    assert chart is not None
    shown = host.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNodeID()
    assert shown == chart.GetID()
    assert segmentation.GetNodeReference("CovidSeg.histogram.chart") is not None


def test_plots_show_the_curves_of_the_panel(host: Any) -> None:
    from vtk.util.numpy_support import vtk_to_numpy

    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.plotsButton.click()
    measurement = journey.panel.results.figures.measurement

    def column(plot: str, name: str) -> Any:
        table = segmentation.GetNodeReference(f"CovidSeg.{plot}.table").GetTable()
        return vtk_to_numpy(table.GetColumnByName(name))

    density, profile = measurement.quantities.density, measurement.profile
    np.testing.assert_array_equal(column("histogram", "lungs_percent"), density.lungs_percent)
    np.testing.assert_array_equal(column("histogram", "infection_percent"), density.infection_percent)
    np.testing.assert_array_equal(column("profile", "poi_percent"), profile.poi_percent("lungs"))


def test_plots_wait_for_the_figures_of_an_edit(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    assert not journey.ui.plotsButton.enabled
    journey.panel.results.show_plots()  # as a click before the panel has noticed
    assert segmentation.GetNodeReference("CovidSeg.profile.chart") is None
    journey.wait_for_figures()
    assert journey.ui.plotsButton.enabled


def test_plots_follow_an_edit(host: Any) -> None:
    from vtk.util.numpy_support import vtk_to_numpy

    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.plotsButton.click()
    charts = [segmentation.GetNodeReference(f"CovidSeg.{plot}.chart") for plot in ("profile", "histogram")]
    charts[0].SetTitle("my title")
    redrawn: list[Any] = []
    for chart in charts:  # what a plot view listens to
        chart.AddObserver(chart.PlotModifiedEvent, lambda caller, _event: redrawn.append(caller))
    count = host.scene.GetNumberOfNodes()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    for plot, name in (("profile", "poi_percent"), ("histogram", "infection_percent")):
        table = segmentation.GetNodeReference(f"CovidSeg.{plot}.table").GetTable()
        assert np.nanmax(vtk_to_numpy(table.GetColumnByName(name))) == 0.0
    assert all(chart in redrawn for chart in charts)
    assert charts[0].GetTitle() == "my title"
    assert host.scene.GetNumberOfNodes() == count


def test_plots_stay_as_they_are_if_the_ct_is_removed_while_it_is_measured(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    journey.ui.plotsButton.click()
    table_node = segmentation.GetNodeReference("CovidSeg.profile.table")
    before = table_node.GetTable()
    with measuring_held():
        edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
        host.wait_until(lambda: journey.panel._measurer.busy, what="the measurement")
        host.scene.RemoveNode(journey.volume)
    journey.wait_for_figures()
    assert table_node.GetTable() is before


def test_edit_makes_no_plots_of_its_own(host: Any) -> None:
    journey = Journey(host)
    segmentation = journey.run()
    edit_segment(journey, "infection", np.zeros_like(journey.phantom.labelmap_kji, dtype=bool))
    journey.wait_for_figures()
    assert segmentation.GetNodeReference("CovidSeg.profile.table") is None
    assert segmentation.GetNodeReference("CovidSeg.histogram.table") is None


def test_plots_come_back_on_show_after_another_layout_was_chosen(host: Any) -> None:
    import slicer

    journey = Journey(host)
    journey.run()
    manager = host.app.layoutManager()
    journey.ui.plotsButton.click()
    plot_view = manager.plotWidget(0).mrmlPlotViewNode()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert manager.plotViewCount == 1
    assert not plot_view.IsMappedInLayout()
    journey.ui.plotsButton.click()
    assert plot_view.IsMappedInLayout()


def test_plots_leave_a_layout_with_a_plot_view_as_it_is(host: Any) -> None:
    import slicer

    journey = Journey(host)
    journey.run()
    manager = host.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView)
    journey.ui.plotsButton.click()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView


def _with_plots(journey: Journey) -> tuple[Any, Any, Any]:
    """Segment and press "Plots in view"; return the segmentation, the plot view and the red slice's logic."""
    segmentation = journey.run()
    journey.ui.plotsButton.click()
    manager = journey.host.app.layoutManager()
    return segmentation, manager.plotWidget(0).plotView(), manager.sliceWidget("Red").sliceLogic()


def test_click_in_the_profiles_plot_moves_the_slice_views_and_in_others_does_not(host: Any) -> None:
    journey = Journey(host)
    segmentation, view, logic = _with_plots(journey)

    def series_of(plot: str) -> str:
        return str(segmentation.GetNodeReference(f"CovidSeg.{plot}.chart").GetNthPlotSeriesNode(0).GetID())

    view.select(series_of("profile"), [3])
    k = int(journey.panel.results.figures.measurement.profile.point_ijk[3][2])
    expected_mm = float((journey.phantom.ct.geometry.ijk_to_ras @ [0, 0, k, 1])[2])
    assert logic.GetSliceOffset() == pytest.approx(expected_mm, abs=0.01)
    profile = series_of("profile")
    view.select(series_of("histogram"), [0])
    host.scene.RemoveNode(journey.volume)
    view.select(profile, [0])
    host.process_events()
    assert logic.GetSliceOffset() == pytest.approx(expected_mm, abs=0.01)


def test_click_on_another_curve_of_the_profile_moves_the_slice_views_there(host: Any) -> None:
    journey = Journey(host)
    segmentation, view, logic = _with_plots(journey)
    chart = segmentation.GetNodeReference("CovidSeg.profile.chart")
    points = journey.panel.results.figures.measurement.profile.point_ijk
    for curve, row in ((0, 3), (1, 8), (2, 5), (0, 6), (0, 6)):
        logic.SetSliceOffset(0.0)
        view.select(chart.GetNthPlotSeriesNodeID(curve), [row])
        expected_mm = float((journey.phantom.ct.geometry.ijk_to_ras @ [0, 0, int(points[row][2]), 1])[2])
        assert logic.GetSliceOffset() == pytest.approx(expected_mm, abs=0.01), (curve, row)
